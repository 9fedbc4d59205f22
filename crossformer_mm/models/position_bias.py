"""Position bias inside an attention group."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn


class DynamicPositionBias(nn.Module):
    """Dynamic position bias (DPB): an MLP from an offset to a bias per head.

    The same MLP serves groups of any size (CrossFormer section 3.3, figure 3).

    Args:
        dim (int): Width C of the tokens; the MLP is ``C // 16`` wide.
        num_heads (int): Number of attention heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        hidden = dim // 4 // 4
        # Names as in the published checkpoints.
        self.pos_proj = nn.Linear(2, hidden)
        self.pos1 = self._layer(hidden, hidden)
        self.pos2 = self._layer(hidden, hidden)
        self.pos3 = self._layer(hidden, num_heads)

    @staticmethod
    def _layer(in_features: int, out_features: int) -> nn.Sequential:
        return nn.Sequential(
            nn.LayerNorm(in_features), nn.ReLU(), nn.Linear(in_features, out_features)
        )

    def forward(self, rows: int, cols: int) -> Tensor:
        """Compute the bias of each offset: ``[heads, 2 rows - 1, 2 cols - 1]``."""
        x = self.project_offsets(rows, cols)
        return self.pos3(self.pos2(self.pos1(x))).permute(2, 0, 1)

    def project_offsets(self, rows: int, cols: int) -> Tensor:
        """Project each offset: ``[2 rows - 1, 2 cols - 1, C // 16]``."""
        # The norm has a weight even if the linear layers are quantized or adapted.
        weight = cast(nn.LayerNorm, self.pos1[0]).weight
        return self.pos_proj(offsets(rows, cols, weight.device).to(weight.dtype))


def offsets(rows: int, cols: int, device: torch.device) -> Tensor:
    """Return the offsets, query minus key: ``[2 rows - 1, 2 cols - 1, 2]``."""
    down = torch.arange(1 - rows, rows, device=device)
    right = torch.arange(1 - cols, cols, device=device)
    return torch.stack(torch.meshgrid(down, right, indexing='ij'), dim=-1)


# Factories by the argument `position_bias`, called with the width, heads and group size
# of a block; `ablations` adds others.
POSITION_BIASES: dict[str, Callable[[int, int, int], nn.Module | None]] = {
    'dpb': lambda dim, num_heads, group_size: DynamicPositionBias(dim, num_heads),
    'none': lambda dim, num_heads, group_size: None,
}
