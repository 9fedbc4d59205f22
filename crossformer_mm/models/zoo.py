"""The published architectures."""

from typing import Any

from .checks import check_choice, check_ints, check_rate

# CrossFormer table 1, CrossFormer++ table 2. Groups and intervals are those of
# classification at 224 x 224.
_CROSSFORMER = dict(
    with_acl=False,
    lda_mode='interval',
    group_size=(7, 7, 7, 7),
    crs_interval=(8, 4, 2, 1),
)
_CROSSFORMER_PP = dict(
    with_acl=True,
    lda_mode='group',
    group_size=(4, 4, 14, 7),
    crs_interval=(4, 2, 1, 1),
)


def _arch(
    embed_dims: int,
    depths: tuple[int, ...],
    num_heads: tuple[int, ...],
    drop_path_rate: float,
    common: dict[str, Any],
) -> dict[str, Any]:
    return dict(
        embed_dims=embed_dims,
        depths=depths,
        num_heads=num_heads,
        drop_path_rate=drop_path_rate,
        **common,
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
REQUIRED_KEYS = ('embed_dims', 'depths', 'num_heads')
LDA_MODES = ('interval', 'group')


def resolve_arch(arch: str | dict[str, Any], **given: Any) -> dict[str, Any]:
    """Return all settings of an architecture, checked.

    Args:
        arch (str | dict): A key of ``ARCHS`` ('++S' is read as 'ppS'), or a dict
            with the keys ``embed_dims``, ``depths`` and ``num_heads``; the further
            keys of the zoo's entries are optional in it.
        **given: Settings that replace the architecture's, where they are not None.

    Raises:
        ValueError: If the key is unknown, or a setting is missing, unknown, out of
            its range or does not fit the others.
    """
    settings = _read_arch(arch)
    settings.update({k: v for k, v in given.items() if v is not None})

    check_ints('depths', settings['depths'])
    stages = len(settings['depths'])
    for name in ('num_heads', 'group_size', 'crs_interval'):
        check_ints(name, settings[name], stages)
    check_choice('lda_mode', settings['lda_mode'], LDA_MODES)
    check_rate('drop_path_rate', settings['drop_path_rate'])
    embed_dims = settings['embed_dims']
    if not isinstance(embed_dims, int) or embed_dims < 16 or embed_dims % 2:
        raise ValueError(
            'embed_dims must be an even whole number >= 16 (the position bias is '
            f'embed_dims // 16 wide), got {embed_dims!r}.'
        )
    for i, num_heads in enumerate(settings['num_heads']):
        if embed_dims * 2**i % num_heads:
            raise ValueError(
                f'num_heads[{i}]={num_heads} does not divide the width of stage {i}, '
                f'{embed_dims * 2**i} (embed_dims={embed_dims}).'
            )
    return settings


def _read_arch(arch: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(arch, str):
        key = arch.replace('++', 'pp')
        if key not in ARCHS:
            raise ValueError(
                f'arch={arch!r} is unknown: choose one of {", ".join(ARCHS)}, or pass '
                f'a dict with {", ".join(REQUIRED_KEYS)}.'
            )
        return dict(ARCHS[key])
    if not isinstance(arch, dict):
        raise ValueError(f'arch must be a str or a dict, got {arch!r}.')
    if missing := [key for key in REQUIRED_KEYS if key not in arch]:
        raise ValueError(f'arch={arch} lacks {", ".join(missing)}.')
    if unknown := sorted(set(arch) - set(ARCHS['S'])):
        raise ValueError(
            f'arch has unknown keys {unknown}: allowed are {", ".join(ARCHS["S"])}.'
        )
    check_ints('depths', arch['depths'])
    stages = len(arch['depths'])
    defaults = dict(
        drop_path_rate=0.0,
        with_acl=False,
        lda_mode='interval',
        group_size=(7,) * stages,
        crs_interval=tuple(2**i for i in reversed(range(stages))),
    )
    return {**defaults, **arch}
