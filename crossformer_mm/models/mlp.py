"""MLP and drop path, as in other vision transformers."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import two_layers

HOOKS = ['_forward_pre_hooks', '_forward_hooks']
HOOKS += ['_backward_pre_hooks', '_backward_hooks']


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for whole samples.

    Args:
        drop_prob (float): Probability of dropping. Defaults to 0.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """In training, drop samples of ``[B, ...]`` and scale up the others."""
        if not self.training or self.drop_prob == 0:
            return x
        samples = x.new_ones(x.shape[0], *[1] * (x.dim() - 1))
        return x * F.dropout(samples, self.drop_prob)

    def extra_repr(self) -> str:
        """Show the probability in ``print(model)``."""
        return f'drop_prob={self.drop_prob:.3g}'


class MLP(nn.Module):
    """Two linear layers with GELU between.

    Args:
        dim (int): Width C of input and output.
        hidden_dim (int): Width of the hidden layer.
        drop_rate (float): Dropout after each layer. Defaults to 0.
    """

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C]``."""
        # Hooks expect the complete map, once per forward pass.
        if any(getattr(m, hooks) for m in self.modules() for hooks in HOOKS):
            return self._act_and_fc2(self.fc1(x))
        return two_layers(self.fc1, self._act_and_fc2, x, self.hidden_dim)

    def _act_and_fc2(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(x))))


def init_linear(module: nn.Module) -> None:
    """Initialize a linear layer as published: truncated normal of std 0.02, bias 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
