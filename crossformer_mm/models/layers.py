"""The parts of a block that CrossFormer shares with every vision transformer."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from .convolution import Linear, linear, linear_weight_grad
from .tracing import is_compiling, is_recording, one_node

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


class _LinearOfGELU(torch.autograd.Function):
    """``linear(gelu(x))`` that keeps x alone and recomputes the GELU in backward.

    Kept, that widest of a block's activations would be a quarter of all of them.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear_of_gelu(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grad_x, grad_weight = linear_of_gelu_backward(grad_out, *ctx.saved_tensors)
        return grad_x, grad_weight, grad_out.flatten(0, -2).sum(0)


@one_node(lambda x, weight, _: x.new_empty(*x.shape[:-1], len(weight)))
def linear_of_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``linear(gelu(x))``."""
    # Compiled, autocast is over when this runs.
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return _in_blocks(lambda part: linear(F.gelu(part), weight, bias), x)


@one_node(lambda _, *kept: tuple(m.new_empty(m.shape) for m in kept))
def linear_of_gelu_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of x and the weight."""
    grad_x, grad_weight = x.new_empty(x.shape), weight.new_zeros(weight.shape)
    for part, grad, grad_part in zip(*map(_blocks, (x, grad_out, grad_x))):
        grad_weight += linear_weight_grad(F.gelu(part), grad)
        grad = linear(grad, weight.mT.to(grad.dtype))
        torch.ops.aten.gelu_backward(grad, part, grad_input=grad_part)
    return grad_x, grad_weight


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
        drops = self.training and self.drop.p > 0
        # Something else in the place of a layer, such as an adapter, is called.
        adapted = type(self.fc2) is not Linear
        if drops or adapted or is_recording():
            return self.drop(self.fc2(self.drop(F.gelu(x))))
        return _LinearOfGELU.apply(x, self.fc2.weight, self.fc2.bias)
