"""What PyTorch is doing with the operations that run, and on which device."""

import torch
from torch import Tensor


def is_compiling() -> bool:
    """Return whether ``torch.compile`` or ``torch.export`` traces."""
    # torch 2.1 cannot tell, and compiles nothing here.
    return hasattr(torch.compiler, 'is_compiling') and torch.compiler.is_compiling()


def needs_plain_operations() -> bool:
    """Return whether operations are recorded for another runtime, or transformed.

    ``torch.jit.trace`` and both ONNX exporters write down operations that any runtime
    has to know. ``torch.func`` and forward-mode differentiation have no rules for our
    backward pass, nor for recomputing.
    """
    if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return True
    if is_compiling():
        return False
    # Neither has a public way to ask.
    transforms = torch._C._functorch.peek_interpreter_stack()
    return transforms is not None or torch.autograd.forward_ad._current_level >= 0


def on_device(limits: dict[str, int], x: Tensor) -> int:
    """Return the limit for a tensor's device; other accelerators have CUDA's."""
    return limits.get(x.device.type, limits['cuda'])
