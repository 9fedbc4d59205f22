"""Convolutions and linear layers of maps with the channels last, ``[B, H, W, C]``.

On a CPU a linear layer is a convolution of 1 x 1. The products are the same, but oneDNN
convolves, where MKL would multiply, which took twice as long on the AMD processor that
it was measured on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from .tracing import is_recording, one_node

HAS_ONEDNN = torch.backends.mkldnn.is_available()


class Conv2d(nn.Conv2d):
    """A convolution, ``[B, H, W, C]`` to ``[B, H', W', C']``."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        stride, padding = self.stride[0], self.padding[0]
        return convolve(x, self.weight, self.bias, stride, padding, self.groups)


class Linear(nn.Linear):
    """A linear layer, ``[..., C]`` to ``[..., C']``."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply tokens ``[..., C]`` by a weight ``[C', C]``."""
    if not _convolves(x):
        return F.linear(x, weight, bias)
    out = convolve(_as_map(x), weight[:, :, None, None], bias)
    return out.view(*x.shape[:-1], len(weight))


def linear_weight_grad(x: Tensor, grad: Tensor) -> Tensor:
    """Compute the gradient of the weight of :func:`linear`."""
    if not _convolves(x):
        return grad.flatten(0, -2).mT @ x.flatten(0, -2)
    weight = x.new_empty(grad.shape[-1], x.shape[-1], 1, 1)
    grads = convolution_backward(
        _as_map(grad), _as_map(x), weight, 1, 0, 1, [False, True]
    )
    return grads[1].flatten(1)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """Convolve ``[B, H, W, C]`` to ``[B, H', W', C']``.

    Args:
        x (Tensor): The map.
        weight (Tensor): ``[C', C / groups, kernel, kernel]``.
        bias (Tensor, optional): ``[C']``.
        stride (int): Distance of two positions of the kernel. Defaults to 1.
        padding (int): Zeros around the map. Defaults to 0.
        groups (int): Groups of channels. Defaults to 1.
    """
    dtype = autocast_dtype(x.device.type)
    if dtype is not None:
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    function = convolution if is_recording() else _Convolution.apply
    return function(x, weight, bias, stride, padding, groups)


def _convolves(x: Tensor) -> bool:
    """Tell whether a linear layer of x is a convolution."""
    return (
        HAS_ONEDNN
        and x.is_cpu
        and x.dtype == torch.float32
        and autocast_dtype('cpu') is None
        # Who records operations knows best what to do with a product.
        and not is_recording()
    )


def autocast_dtype(device: str) -> torch.dtype | None:
    """Tell what autocast makes of float32 on a device; None where it is off."""
    if hasattr(torch, 'get_autocast_dtype'):
        enabled = torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if enabled else None
    # Before torch 2.4.
    if device == 'cpu':
        enabled = torch.is_autocast_cpu_enabled()
        return torch.get_autocast_cpu_dtype() if enabled else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def _as_map(x: Tensor) -> Tensor:
    """View ``[..., C]`` as ``[1, 1, N, C]``."""
    return x.contiguous().view(1, 1, -1, x.shape[-1])


# For the compiler convolutions are single nodes: that of torch 2.13 fails at dynamic
# sizes on those whose input is a view (pytorch/pytorch#185510).


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        return convolution(x, weight, bias, *settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        grad_x, grad_weight = convolution_backward(
            grad, *ctx.saved_tensors, *ctx.settings, list(wanted[:2])
        )
        return (
            grad_x if wanted[0] else None,
            grad_weight if wanted[1] else None,
            grad.sum((0, 1, 2)) if wanted[2] else None,
            *(None, None, None),
        )


def _empty_output(
    x: Tensor, weight: Tensor, _: Tensor | None, stride: int, padding: int, *__: int
) -> Tensor:
    height, width = (
        (side + 2 * padding - weight.shape[2]) // stride + 1 for side in x.shape[1:3]
    )
    return x.new_empty(x.shape[0], height, width, len(weight))


@one_node(_empty_output)
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    groups: int,
) -> Tensor:
    """Convolve, see :func:`convolve`."""
    x = x.permute(0, 3, 1, 2)
    x = F.conv2d(x, weight, bias, stride, padding, groups=groups)
    return x.permute(0, 2, 3, 1).contiguous()


@one_node(
    lambda _, x, weight, __, ___, ____, wanted: tuple(
        like.new_empty(like.shape if want else 0)
        for like, want in zip((x, weight), wanted)
    )
)
def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    groups: int,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of x and the weight that are wanted."""
    grad, x = (m.contiguous().permute(0, 3, 1, 2) for m in (grad, x))
    settings = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, *settings, [*wanted, False]
    )
    grad_x = grad_x.permute(0, 2, 3, 1).contiguous() if wanted[0] else x.new_empty(0)
    grad_weight = grad_weight.contiguous() if wanted[1] else x.new_empty(0)
    return grad_x, grad_weight
