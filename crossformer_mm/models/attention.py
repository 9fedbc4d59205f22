"""Attention within groups: long short distance attention (LSDA)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..ops import attention
from .partition import Grouping, GroupRule

FindGroups = Callable[[int, int], Grouping]  # from the height and width of a map


class GroupAttention(nn.Module):
    """Multi-head self-attention among the tokens of each group.

    SDA and LDA are this module with different groupings (CrossFormer section 3.2).
    Padding tokens are masked as keys, and their outputs are cut off.

    Args:
        dim (int): Width C of the tokens.
        num_heads (int): Number of attention heads.
        qkv_bias (bool): Whether query, key and value have a bias. Defaults to True.
        qk_scale (float, optional): Factor of the scores; ``(C / heads) ** -0.5``
            if it is None. Defaults to None.
        attn_drop_rate (float): Dropout of the attention weights. Defaults to 0.
        proj_drop_rate (float): Dropout of the output. Defaults to 0.
        position_bias (nn.Module, optional): Computes the bias of each offset,
            ``[heads, 2 rows - 1, 2 cols - 1]``, from the rows and columns of a group.
            Defaults to None.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        position_bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5 if qk_scale is None else qk_scale
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        self.pos = position_bias  # `pos` is the published checkpoints' name.

    def forward(self, x: Tensor, grouping: Grouping) -> Tensor:
        """Attend within the groups of a map: ``[B, H, W, C]`` to ``[B, H, W, C]``."""
        table = None if self.pos is None else self.pos(grouping.rows, grouping.cols)
        drop_rate = self.attn_drop_rate if self.training else 0.0
        x = attention(
            self.qkv(x), table, grouping, self.num_heads, self.scale, drop_rate
        )
        return self.proj_drop(self.proj(x))


def long_short_distance(
    block: int, rule: GroupRule, **args: Any
) -> tuple[nn.Module, FindGroups]:
    """Build the attention of a block: SDA in blocks 0, 2, 4, ..., LDA in 1, 3, 5, ...

    Returns:
        tuple: The module, and a function from height and width to ``Grouping``.
    """
    return GroupAttention(**args), rule.lda if block % 2 else rule.sda


# Factories by the argument `attention`; `ablations` adds others.
ATTENTIONS: dict[str, Callable[..., tuple[nn.Module, FindGroups]]] = {
    'lsda': long_short_distance
}
