"""Position bias inside an attention group."""

from functools import lru_cache, partial

import torch
from torch import Tensor, nn


class DynamicPositionBias(nn.Module):
    """Dynamic position bias (DPB): an MLP from an offset to a bias per head.

    A group of any size gets its bias from the same few weights (CrossFormer
    section 3.3, figure 3).

    Args:
        dim (int): Width C of the tokens; the MLP is ``C // 16`` wide.
        num_heads (int): Number of attention heads.
        residual (bool): Whether to add each hidden layer's input to its output
            (the paper's ablation). Defaults to False.
    """

    def __init__(self, dim: int, num_heads: int, residual: bool = False) -> None:
        super().__init__()
        hidden = dim // 4 // 4
        self.residual = residual
        # The names are those of the published checkpoints.
        self.pos_proj = nn.Linear(2, hidden)
        self.pos1 = self._layer(hidden, hidden)
        self.pos2 = self._layer(hidden, hidden)
        self.pos3 = self._layer(hidden, num_heads)

    @staticmethod
    def _layer(in_features: int, out_features: int) -> nn.Sequential:
        return nn.Sequential(
            nn.LayerNorm(in_features),
            nn.ReLU(inplace=True),
            nn.Linear(in_features, out_features),
        )

    def table(self, rows: int, cols: int) -> Tensor:
        """Evaluate every offset of a group: ``[heads, 2 rows - 1, 2 cols - 1]``."""
        weight = self.pos_proj.weight
        # Half precision cannot hold the offsets of a large group exactly.
        with torch.autocast(weight.device.type, enabled=False):
            x = self.pos_proj(offsets(rows, cols, weight.device).to(weight.dtype))
            for layer in (self.pos1, self.pos2):
                x = x + layer(x) if self.residual else layer(x)
            return self.pos3(x).permute(2, 0, 1)

    def forward(self, rows: int, cols: int) -> Tensor:
        """Compute the bias of query and key in a group of ``rows x cols`` tokens.

        Returns:
            Tensor: ``[heads, N, N]``, N = rows * cols, queries before keys.
        """
        # bias[r, r'] = table[r - r' + rows - 1], and the same along the columns: row
        # r of the bias is a window of the table that starts at r, read backwards.
        windows = self.table(rows, cols).unfold(1, rows, 1).unfold(2, cols, 1)
        return windows.flip(-2, -1).reshape(-1, rows * cols, rows * cols)


@lru_cache(maxsize=32)
def offsets(rows: int, cols: int, device: torch.device) -> Tensor:
    """List the offsets (query minus key): ``[2 rows - 1, 2 cols - 1, 2]``."""
    return torch.stack(
        torch.meshgrid(
            torch.arange(1 - rows, rows, device=device),
            torch.arange(1 - cols, cols, device=device),
            indexing='ij',
        ),
        dim=-1,
    ).float()


POSITION_BIASES = {
    'dpb': DynamicPositionBias,
    'dpb_residual': partial(DynamicPositionBias, residual=True),
    'none': None,
}
