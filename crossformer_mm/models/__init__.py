from .crossformer import CrossFormer
from .pooling import NormalizedPooling
from .variants import (
    CrossFormer_B,
    CrossFormer_B2,
    CrossFormer_L,
    CrossFormer_S,
    CrossFormer_S2,
    CrossFormer_T,
    CrossFormerPP_B,
    CrossFormerPP_H,
    CrossFormerPP_L,
    CrossFormerPP_S,
)

__all__ = [
    'CrossFormer',
    'CrossFormerPP_B',
    'CrossFormerPP_H',
    'CrossFormerPP_L',
    'CrossFormerPP_S',
    'CrossFormer_B',
    'CrossFormer_B2',
    'CrossFormer_L',
    'CrossFormer_S',
    'CrossFormer_S2',
    'CrossFormer_T',
    'NormalizedPooling',
]
