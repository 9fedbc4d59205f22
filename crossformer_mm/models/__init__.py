"""The networks, registered under the names used in configs."""

from typing import Any

from mmengine.registry import MODELS

from .archs import NAMES
from .crossformer import CrossFormer
from .pooling import NormalizedPooling


def _make_class(arch: str) -> type[CrossFormer]:
    """Make and register the class of a published architecture."""

    class Published(CrossFormer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(arch, **kwargs)

    names = [name for name in NAMES if NAMES[name] == arch]
    Published.__name__ = Published.__qualname__ = names[0]
    Published.__doc__ = f'{names[0]}, see :class:`CrossFormer` for the arguments.'
    MODELS.register_module(names, force=True, module=Published)
    return Published


CrossFormer_T = _make_class('T')
CrossFormer_S = _make_class('S')
CrossFormer_B = _make_class('B')
CrossFormer_L = _make_class('L')
CrossFormerPP_S = CrossFormer_S2 = _make_class('ppS')
CrossFormerPP_B = CrossFormer_B2 = _make_class('ppB')
CrossFormerPP_L = _make_class('ppL')
CrossFormerPP_H = _make_class('ppH')

__all__ = ['CrossFormer', 'NormalizedPooling', *NAMES]
