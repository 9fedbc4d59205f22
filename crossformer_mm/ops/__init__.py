"""Optimized operations, each with an equivalent plain implementation.

``attention``       softmax attention with a learned bias, in linear memory
``two_layers``      an MLP that never stores its complete hidden layer
``accelerate_cpu``  linear layers of an existing network, computed by oneDNN
"""

from .accelerate import accelerate_cpu, is_faster_accelerated
from .blockwise_attention import attention
from .two_layers import two_layers

__all__ = ['accelerate_cpu', 'attention', 'is_faster_accelerated', 'two_layers']
