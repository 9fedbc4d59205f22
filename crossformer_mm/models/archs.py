"""The published architectures: one table."""

from typing import Any

# CrossFormer table 1, CrossFormer++ table 2. Group sizes and intervals are those of
# classification at 224 x 224. Group sizes that grow from stage to stage are the
# progressive group size (PGS) of CrossFormer++.
_CROSSFORMER = False, 'interval', (7, 7, 7, 7), (8, 4, 2, 1)
_CROSSFORMER_PP = True, 'group', (4, 4, 14, 7), (4, 2, 1, 1)
_KEYS = ['embed_dims', 'depths', 'num_heads', 'drop_path_rate']
_KEYS += ['with_acl', 'lda_mode', 'group_size', 'crs_interval']


def _arch(*row: object) -> dict[str, Any]:
    return dict(zip(_KEYS, row))


ARCHS = {
    'T': _arch(64, (1, 1, 8, 6), (2, 4, 8, 16), 0.1, *_CROSSFORMER),
    'S': _arch(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2, *_CROSSFORMER),
    'B': _arch(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3, *_CROSSFORMER),
    'L': _arch(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5, *_CROSSFORMER),
    'ppS': _arch(64, (2, 2, 18, 2), (2, 4, 8, 16), 0.2, *_CROSSFORMER_PP),
    'ppB': _arch(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3, *_CROSSFORMER_PP),
    'ppL': _arch(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5, *_CROSSFORMER_PP),
    'ppH': _arch(128, (6, 6, 18, 2), (4, 8, 16, 32), 0.5, *_CROSSFORMER_PP),
}
# The registered names; the last two are those of the original code.
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
REQUIRED = 'embed_dims', 'depths', 'num_heads'


def resolve_arch(arch: str | dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return all settings of an architecture.

    Args:
        arch (str | dict): A key of ``ARCHS`` ('++S' is read as 'ppS'), or a dict with
            the keys ``REQUIRED`` and, optionally, the others of the table.
        given (dict): Settings that replace the architecture's unless they are None.

    Raises:
        ValueError: If the key is unknown, or a setting is missing or unknown.
    """
    if isinstance(arch, str):
        settings = ARCHS.get(arch.replace('++', 'pp'))
        if settings is None:
            choices = f'choose one of {", ".join(ARCHS)}'
            own = f'pass a dict with {", ".join(REQUIRED)}'
            raise ValueError(f'arch={arch!r} is unknown: {choices}, or {own}.')
    else:
        if not isinstance(arch, dict) or not set(REQUIRED) <= set(arch):
            wanted = f'a str or a dict with {", ".join(REQUIRED)}'
            raise ValueError(f'arch must be {wanted}, got {arch!r}.')
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
    given = {key: value for key, value in given.items() if value is not None}
    return dict(merge_sizes=merge_sizes) | settings | given
