"""The published networks under their names, ready for ``type=`` in a config.

A backbone dict of the original configs builds unchanged; ``CrossFormer_S2`` and
``CrossFormer_B2`` are the original code's names of two CrossFormer++ networks.
"""

from typing import Any

from mmengine.registry import MODELS

from .crossformer import CrossFormer


@MODELS.register_module(force=True)
class CrossFormer_T(CrossFormer):
    """CrossFormer-T, see :class:`CrossFormer` for the arguments."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(arch='T', **kwargs)


@MODELS.register_module(force=True)
class CrossFormer_S(CrossFormer):
    """CrossFormer-S, see :class:`CrossFormer` for the arguments."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(arch='S', **kwargs)


@MODELS.register_module(force=True)
class CrossFormer_B(CrossFormer):
    """CrossFormer-B, see :class:`CrossFormer` for the arguments."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(arch='B', **kwargs)


@MODELS.register_module(force=True)
class CrossFormer_L(CrossFormer):
    """CrossFormer-L, see :class:`CrossFormer` for the arguments."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(arch='L', **kwargs)


@MODELS.register_module(name=['CrossFormerPP_S', 'CrossFormer_S2'], force=True)
class CrossFormerPP_S(CrossFormer):
    """CrossFormer++-S, see :class:`CrossFormer` for the arguments."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(arch='ppS', **kwargs)


@MODELS.register_module(name=['CrossFormerPP_B', 'CrossFormer_B2'], force=True)
class CrossFormerPP_B(CrossFormer):
    """CrossFormer++-B, see :class:`CrossFormer` for the arguments."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(arch='ppB', **kwargs)


@MODELS.register_module(force=True)
class CrossFormerPP_L(CrossFormer):
    """CrossFormer++-L, see :class:`CrossFormer` for the arguments."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(arch='ppL', **kwargs)


@MODELS.register_module(force=True)
class CrossFormerPP_H(CrossFormer):
    """CrossFormer++-H, see :class:`CrossFormer` for the arguments."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(arch='ppH', **kwargs)


CrossFormer_S2 = CrossFormerPP_S
CrossFormer_B2 = CrossFormerPP_B
