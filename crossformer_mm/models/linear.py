"""Linear layers of tokens; on a CPU they are 1 x 1 convolutions.

The products are the same, but oneDNN convolves, where MKL would multiply, which takes
twice as long on AMD's processors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_weight

from .tracing import one_node


class Linear(nn.Linear):
    """A linear layer, ``[..., C]`` to ``[..., C']``."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        if not convolves(x):
            return super().forward(x)
        return _Convolution.apply(x, self.weight, self.bias)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            convolve(grad, weight.mT) if wanted[0] else None,
            convolve_weight_grad(x, grad) if wanted[1] else None,
            grad.flatten(0, -2).sum(0) if ctx.has_bias and wanted[2] else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer without recording it for a backward pass."""
    return (convolve if convolves(x) else F.linear)(x, weight, bias)


def weight_grad(x: Tensor, grad: Tensor) -> Tensor:
    """Compute the gradient of a linear layer's weight, ``[C', C]``."""
    if convolves(x):
        return convolve_weight_grad(x, grad)
    return grad.flatten(0, -2).mT @ x.flatten(0, -2)


def convolves(x: Tensor) -> bool:
    """Tell whether a linear layer of x is a convolution."""
    return (
        x.is_cpu
        and x.dtype == torch.float32
        and not _casts()
        and torch.backends.mkldnn.is_available()
        # A runtime of its own knows best what to do with a product.
        and not torch.onnx.is_in_onnx_export()
    )


def _casts() -> bool:
    if hasattr(torch.amp, 'is_autocast_available'):
        return torch.is_autocast_enabled('cpu')
    return torch.is_autocast_cpu_enabled()  # before torch 2.4


# Single nodes: torch 2.13's compiler fails on these convolutions at dynamic sizes.


@one_node(lambda x, weight, _=None: x.new_empty(*x.shape[:-1], len(weight)))
def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer as a convolution."""
    out = F.conv2d(_as_map(x), weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


@one_node(lambda x, grad: x.new_empty(grad.shape[-1], x.shape[-1]))
def convolve_weight_grad(x: Tensor, grad: Tensor) -> Tensor:
    """Compute the gradient of a linear layer's weight as of a convolution's."""
    size = grad.shape[-1], x.shape[-1], 1, 1
    return conv2d_weight(_as_map(x), size, _as_map(grad)).flatten(1)


def _as_map(x: Tensor) -> Tensor:
    """View ``[..., C]`` as ``[1, C, 1, N]``, channels last."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
