"""The published architectures: one table."""

from typing import Any

# CrossFormer table 1, CrossFormer++ table 2. Groups and intervals are those of
# classification at 224 x 224.
_CROSSFORMER = dict(with_acl=False, lda_mode='interval')
_CROSSFORMER |= dict(group_size=(7, 7, 7, 7), crs_interval=(8, 4, 2, 1))
_CROSSFORMER_PP = dict(with_acl=True, lda_mode='group')
_CROSSFORMER_PP |= dict(group_size=(4, 4, 14, 7), crs_interval=(4, 2, 1, 1))


def _arch(*row: Any) -> dict[str, Any]:
    *own, common = row
    return (
        dict(zip(('embed_dims', 'depths', 'num_heads', 'drop_path_rate'), own)) | common
    )


ARCHS = {
    'T': _arch(64, (1, 1, 8, 6), (2, 4, 8, 16), 0.1, _CROSSFORMER),
    'S': _arch(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2, _CROSSFORMER),
    'B': _arch(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3, _CROSSFORMER),
    'L': _arch(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5, _CROSSFORMER),
    'ppS': _arch(64, (2, 2, 18, 2), (2, 4, 8, 16), 0.2, _CROSSFORMER_PP),
    'ppB': _arch(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3, _CROSSFORMER_PP),
    'ppL': _arch(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5, _CROSSFORMER_PP),
    'ppH': _arch(128, (6, 6, 18, 2), (4, 8, 16, 32), 0.5, _CROSSFORMER_PP),
}
# The names by which a config builds them; the last two are the original code's.
NAMES = {
    'CrossFormer_T': 'T',
    'CrossFormer_S': 'S',
    'CrossFormer_B': 'B',
    'CrossFormer_L': 'L',
    'CrossFormerPP_S': 'ppS',
    'CrossFormerPP_B': 'ppB',
    'CrossFormerPP_L': 'ppL',
    'CrossFormerPP_H': 'ppH',
    'CrossFormer_S2': 'ppS',
    'CrossFormer_B2': 'ppB',
}
REQUIRED_KEYS = ('embed_dims', 'depths', 'num_heads')
GIVEN_KEYS = ('group_size', 'crs_interval', 'lda_mode', 'with_acl')
GIVEN_KEYS += ('drop_path_rate', 'merge_sizes')


def resolve_arch(arch: str | dict[str, Any], *given: Any) -> dict[str, Any]:
    """Return all settings of an architecture.

    Args:
        arch (str | dict): A key of ``ARCHS`` ('++S' is read as 'ppS'), or a dict with
            ``REQUIRED_KEYS`` and, optionally, the further keys of the table.
        *given: What replaces the settings ``GIVEN_KEYS`` where it is not None.

    Raises:
        ValueError: If the key is unknown, or a setting is missing or unknown.
    """
    required = ', '.join(REQUIRED_KEYS)
    if isinstance(arch, str):
        arch = arch.replace('++', 'pp')
        if arch not in ARCHS:
            raise ValueError(
                f'arch={arch!r} is unknown: choose one of {", ".join(ARCHS)}, or pass '
                f'a dict with {required}.'
            )
        settings = ARCHS[arch]
    else:
        if not isinstance(arch, dict) or not set(REQUIRED_KEYS) <= set(arch):
            raise ValueError(
                f'arch must be a str or a dict with {required}, got {arch!r}.'
            )
        if unknown := sorted(set(arch) - set(ARCHS['S'])):
            allowed = ', '.join(ARCHS['S'])
            raise ValueError(f'arch has unknown keys {unknown}: allowed are {allowed}.')
        stages = len(arch['depths'])
        settings = dict(drop_path_rate=0.0, with_acl=False, lda_mode='interval')
        settings['group_size'] = (7,) * stages
        settings['crs_interval'] = tuple(2**i for i in reversed(range(stages)))
        settings |= arch
    # Each embedding between two stages has two kernels (CrossFormer section 3.1).
    merge_sizes = ((2, 4),) * (len(settings['depths']) - 1)
    not_none = {k: value for k, value in zip(GIVEN_KEYS, given) if value is not None}
    return dict(merge_sizes=merge_sizes) | settings | not_none
