"""Attention within groups: long short distance attention (LSDA)."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from .convolution import Linear
from .partition import Grouping
from .softmax_attention import blockwise_attention, plain_attention
from .tracing import is_recording


class GroupAttention(nn.Module):
    """Multi-head self-attention among the tokens of each group.

    SDA and LDA are this module with different groupings (CrossFormer section 3.2).
    Padding tokens are never seen: they are no keys, and their outputs are cut off.

    Args:
        dim (int): Width C of the tokens.
        num_heads (int): Number of attention heads.
        qkv_bias (bool): Whether query, key and value have a bias. Defaults to True.
        qk_scale (float, optional): Factor of the scores; ``(C / heads) ** -0.5``
            where it is None. Defaults to None.
        attn_drop_rate (float): Dropout of the attention weights. Defaults to 0.
        proj_drop_rate (float): Dropout of the output. Defaults to 0.
        position_bias (Callable, optional): Makes a module that computes the bias of
            each offset, ``[heads, 2 rows - 1, 2 cols - 1]``, from the rows and columns
            of a group. Defaults to None.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        position_bias: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5 if qk_scale is None else qk_scale
        self.attn_drop_rate = attn_drop_rate
        self.qkv = Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        # `pos` is the published checkpoints' name.
        self.pos = None if position_bias is None else position_bias()

    def forward(self, x: Tensor, grouping: Grouping) -> Tensor:
        """Attend within the groups of a map ``[B, H, W, C]``; the shape stays."""
        table = None if self.pos is None else self.pos(grouping.rows, grouping.cols)
        drop_rate = self.attn_drop_rate if self.training else 0.0
        # The plain formula has dropout, and is of operations that any runtime knows.
        if drop_rate > 0 or is_recording():
            attend = partial(plain_attention, drop_rate=drop_rate)
        else:
            attend = blockwise_attention
        # Without a name qkv, the largest map of all, is gone before the projection.
        x = attend(self.qkv(x), table, grouping, self.num_heads, self.scale)
        return self.proj_drop(self.proj(x))
