"""Fast paths, each beside the plain code that says the same.

``attention``       softmax attention with a learned bias, in linear memory
``recompute``       activations that the backward pass makes again
``accelerate_cpu``  linear layers and convolutions of a finished network, by oneDNN
"""

from .accelerate import accelerate_cpu, is_faster_accelerated
from .blockwise_attention import attention
from .recompute import recompute

__all__ = ['accelerate_cpu', 'attention', 'is_faster_accelerated', 'recompute']
