"""The parts of a block that CrossFormer shares with every vision transformer."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_weight

from .tracing import is_compiling

BLOCK_TOKENS = 4096


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for whole samples.

    Args:
        drop_prob (float): Probability of dropping. Defaults to 0.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``[B, ...]`` in training and scale the others up."""
        if not self.training or self.drop_prob == 0:
            return x
        keep_prob = 1 - self.drop_prob
        keep = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(keep_prob)
        return x * (keep / keep_prob)

    def extra_repr(self) -> str:
        """Show the probability in ``print(model)``."""
        return f'drop_prob={self.drop_prob:.3g}'


class Linear(nn.Linear):
    """A linear layer of tokens ``[..., C]``, see :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C']``."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer to ``[..., C]``; on a CPU as a 1 x 1 convolution.

    The products are the same, but oneDNN convolves, where MKL would multiply, which on
    AMD's processors takes twice as long.
    """
    if not _by_convolution(x):
        return F.linear(x, weight, bias)
    out = F.conv2d(_as_map(x), weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).view(*x.shape[:-1], -1)


def _weight_grad(x: Tensor, grad_out: Tensor) -> Tensor:
    """Compute the gradient of the weight of :func:`linear`."""
    if not _by_convolution(x):
        return grad_out.flatten(0, -2).mT @ x.flatten(0, -2)
    size = grad_out.shape[-1], x.shape[-1], 1, 1
    return conv2d_weight(_as_map(x), size, _as_map(grad_out))[:, :, 0, 0]


def _by_convolution(x: Tensor) -> bool:
    return (
        x.is_cpu
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        # A runtime of its own knows best what to do with a product.
        and not torch.onnx.is_in_onnx_export()
    )


def _as_map(x: Tensor) -> Tensor:
    """View ``[..., C]`` as ``[1, C, 1, N]``, channels last."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


class _LinearOfGELU(torch.autograd.Function):
    """``linear(gelu(x))`` that keeps x alone and recomputes the GELU in backward.

    Kept, that widest of a block's activations would be a quarter of all of them.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _in_blocks(lambda part: linear(F.gelu(part), weight, bias), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        for part, grad, grad_part in zip(*map(_blocks, (x, grad_out, grad_x))):
            grad_weight += _weight_grad(F.gelu(part), grad)
            grad = linear(grad, weight.mT.to(grad.dtype))
            torch.ops.aten.gelu_backward(grad, part, grad_input=grad_part)
        return grad_x, grad_weight, grad_out.flatten(0, -2).sum(0)


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Cut the tokens of ``[..., C]`` into blocks; on a CPU these then fit the cache."""
    x = x.flatten(0, -2)
    return x.split(BLOCK_TOKENS) if x.is_cpu and not is_compiling() else (x,)


def _in_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of tokens ``[..., C]`` block by block."""
    blocks = _blocks(x)
    if len(blocks) == 1:  # putting together would copy
        return function(x)
    return torch.cat([function(part) for part in blocks]).view(*x.shape[:-1], -1)


class MLP(nn.Module):
    """Two linear layers with GELU between.

    Args:
        dim (int): Width C of input and output.
        hidden_dim (int): Width between.
        drop_rate (float): Dropout after each layer. Defaults to 0.
    """

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C]``."""
        if torch.is_grad_enabled():
            return self.transform(x)
        # Nothing is kept, so that the hidden tokens need not be there at once either.
        return _in_blocks(self.transform, x)

    def transform(self, x: Tensor) -> Tensor:
        """Run both layers on all tokens at once."""
        x = self.fc1(x)
        # Something else in the place of a layer, such as an adapter, is called.
        if (self.training and self.drop.p > 0) or type(self.fc2) is not Linear:
            return self.drop(self.fc2(self.drop(F.gelu(x))))
        return _LinearOfGELU.apply(x, self.fc2.weight, self.fc2.bias)
