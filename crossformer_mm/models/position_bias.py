"""Position bias inside an attention group."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .tracing import is_compiling, once_per_shape

TABLES_KEPT = 16  # per module: multi-scale testing has 6 sizes


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

    def forward(self, rows: int, cols: int) -> Tensor:
        """Compute the bias of each offset: ``[heads, 2 rows - 1, 2 cols - 1]``.

        Without gradients that happens once per size, until the weights change.
        """
        lasting = not (self.training or torch.is_grad_enabled())
        if lasting and not is_compiling():
            return _kept_table(self, rows, cols)
        return self.evaluate(rows, cols)

    def evaluate(self, rows: int, cols: int) -> Tensor:
        """Run the MLP on every offset: ``[heads, 2 rows - 1, 2 cols - 1]``."""
        weight = self.pos_proj.weight
        # Half precision cannot hold the offsets of a large group exactly.
        with torch.autocast(weight.device.type, enabled=False):
            x = self.pos_proj(offsets(rows, cols, weight.device).to(weight.dtype))
            for layer in (self.pos1, self.pos2):
                x = x + layer(x) if self.residual else layer(x)
            return self.pos3(x).permute(2, 0, 1)


# The weights and the tables made of them, of each module. They lie beside the modules,
# so that copying, moving, saving or pickling a module never meets them.
_kept: WeakKeyDictionary[nn.Module, tuple[Tensor, dict[tuple[int, int], Tensor]]] = (
    WeakKeyDictionary()
)


def _kept_table(bias: DynamicPositionBias, rows: int, cols: int) -> Tensor:
    """Look a table up, or evaluate it where the weights are others than then.

    The weights, some thousand numbers, are compared rather than their version counters:
    MMEngine's EMA swaps weights by ``param.data``, which no counter notices.
    """
    weights = torch.cat([param.detach().flatten() for param in bias.parameters()])
    known, tables = _kept.get(bias, (weights[:0], {}))
    same_kind = (known.dtype, known.device) == (weights.dtype, weights.device)
    if not (same_kind and torch.equal(known, weights)):
        tables = {}
        _kept[bias] = weights, tables
    if (rows, cols) not in tables:
        if len(tables) == TABLES_KEPT:
            del tables[next(iter(tables))]  # the oldest
        tables[rows, cols] = bias.evaluate(rows, cols)
    return tables[rows, cols]


@once_per_shape
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
