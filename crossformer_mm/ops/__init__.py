"""Fast operations, each beside plain code that computes the same.

``attention``       softmax attention with a learned bias, in linear memory
``two_layers``      an MLP that never holds its whole hidden layer
``accelerate_cpu``  linear layers and convolutions of a finished network, by oneDNN
"""

from .accelerate import accelerate_cpu, is_faster_accelerated
from .blockwise_attention import attention
from .two_layers import two_layers

__all__ = ['accelerate_cpu', 'attention', 'is_faster_accelerated', 'two_layers']
