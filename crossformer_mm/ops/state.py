"""Detect whether PyTorch compiles, exports or transforms operations."""

import torch
from torch import Tensor


def is_compiling() -> bool:
    """Return whether ``torch.compile`` or ``torch.export`` traces."""
    # torch 2.1 has no such function, and nothing is compiled with it here.
    return hasattr(torch.compiler, 'is_compiling') and torch.compiler.is_compiling()


def needs_plain_operations() -> bool:
    """Return whether operations are exported, or transformed by ``torch.func``.

    ``torch.jit.trace`` and both ONNX exporters need standard operations. ``torch.func``
    and forward-mode differentiation do not support our backward pass and recomputation.
    """
    if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return True
    if is_compiling():
        return False
    # There is no public function for either.
    transforms = torch._C._functorch.peek_interpreter_stack()
    return transforms is not None or torch.autograd.forward_ad._current_level >= 0


def on_device(limits: dict[str, int], x: Tensor) -> int:
    """Return the limit for a tensor's device; other accelerators use CUDA's."""
    return limits.get(x.device.type, limits['cuda'])
