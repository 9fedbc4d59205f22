"""Variants of CrossFormer's parts for the paper's ablations (CrossFormer, table 5).

They replace LSDA by other attention and DPB by other position representations. A
config imports them with ::

    custom_imports = dict(imports=['crossformer_mm', 'crossformer_mm.ablations'])

and selects them with the backbone's arguments ``attention`` ('sda' or 'lda' only,
'shifted' windows as in Swin, spatial 'reduction' as in PVT) and ``position_bias``
('dpb_residual' with residual connections in the DPB, 'rpb' as in Swin, 'ape': absolute,
added to the tokens of the first stage). For a single-scale embedding set
``patch_sizes=[4]`` and ``merge_sizes=[[2]] * 3``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models.attention import ATTENTIONS, FindGroups, GroupAttention
from .models.embed import EMBEDDINGS, CrossScaleEmbedding
from .models.partition import GroupRule
from .models.position_bias import POSITION_BIASES, DynamicPositionBias
from .ops.blockwise_attention import attention_weights, cut
from .ops.partition import Grouping, group_tokens, ungroup_tokens


class ShiftedWindowAttention(GroupAttention):
    """Attention in windows shifted by half of their side (Swin, section 3.2).

    Padding the map at the top and left gives the same groups as Swin's cyclic shift
    with its mask.
    """

    def forward(self, x: Tensor, grouping: Grouping) -> Tensor:
        """Attend within shifted windows of ``[B, H, W, C]``; the shape is unchanged."""
        batch, height, width, _ = x.shape
        # A window as large as the map is not shifted.
        down, right = (
            side - side // 2 if side < map_side else 0
            for side, map_side in zip(grouping, (height, width))
        )
        shift = (0, 0, right, 0, down, 0)
        valid = F.pad(x.new_ones(batch, height, width, 1), shift)
        padding = group_tokens(valid, grouping).squeeze(-1) == 0
        q, k, v, _ = cut(F.pad(self.qkv(x), shift), grouping, self.num_heads)
        table = None if self.pos is None else self.pos(grouping.rows, grouping.cols)
        weights = attention_weights(q, k, table, padding, grouping, self.scale)
        x = F.dropout(weights, self.attn_drop_rate, self.training) @ v
        x = x.transpose(1, 2).flatten(2)
        x = ungroup_tokens(x, grouping, batch, height + down, width + right)
        return self.proj_drop(self.proj(x[:, down:, right:]))


class SpatialReductionAttention(nn.Module):
    """Attention of all tokens to a map reduced by a strided convolution (PVT, 3.3).

    Args:
        dim (int): Width C of the tokens.
        num_heads (int): Number of attention heads.
        ratio (int): Stride of the reduction.
        qkv_bias (bool): Whether query, key and value have a bias. Defaults to True.
        qk_scale (float, optional): Factor of the scores; ``(C / heads) ** -0.5``
            if it is None. Defaults to None.
        attn_drop_rate (float): Dropout of the attention weights. Defaults to 0.
        proj_drop_rate (float): Dropout of the output. Defaults to 0.
        position_bias (None): Not supported, because there are no groups.

    Raises:
        ValueError: If a position bias is given.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ratio: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        position_bias: None = None,
    ) -> None:
        super().__init__()
        if position_bias is not None:
            raise ValueError(
                "attention='reduction' has no groups and so no offsets in them: take "
                "position_bias='ape' or 'none'."
            )
        self.num_heads = num_heads
        self.scale = qk_scale
        self.attn_drop_rate = attn_drop_rate
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, dim * 2, bias=qkv_bias)
        self.reduction = nn.Conv2d(dim, dim, ratio, ratio) if ratio > 1 else None
        self.norm = nn.LayerNorm(dim) if ratio > 1 else nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor, _: Grouping) -> Tensor:
        """Attend within a map ``[B, H, W, C]``; the grouping is ignored."""
        k, v = self.kv(self.reduce(x)).chunk(2, dim=-1)
        q, k, v = (
            part.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q(x), k, v)
        )
        drop_rate = self.attn_drop_rate if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, None, drop_rate, scale=self.scale)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(x.shape)))

    def reduce(self, x: Tensor) -> Tensor:
        """Reduce ``[B, H, W, C]``, padded to a multiple of the ratio."""
        if self.reduction is None:
            return x
        ratio = self.reduction.stride[0]
        x = F.pad(x, (0, 0, 0, -x.shape[2] % ratio, 0, -x.shape[1] % ratio))
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ResidualDPB(DynamicPositionBias):
    """Dynamic position bias whose hidden layers add their input to their output."""

    def forward(self, rows: int, cols: int) -> Tensor:
        """Compute the bias of each offset: ``[heads, 2 rows - 1, 2 cols - 1]``."""
        x = self.project_offsets(rows, cols)
        for layer in (self.pos1, self.pos2):
            x = x + layer(x)
        return self.pos3(x).permute(2, 0, 1)


class RelativePositionBias(nn.Module):
    """Relative position bias (RPB): a learned bias per offset and head (Swin).

    Args:
        num_heads (int): Number of attention heads.
        group_size (int): Side of the largest group.
    """

    def __init__(self, num_heads: int, group_size: int) -> None:
        super().__init__()
        side = 2 * group_size - 1
        self.group_size = group_size
        self.table = nn.Parameter(torch.empty(num_heads, side, side))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, rows: int, cols: int) -> Tensor:
        """Return the bias of each offset: ``[heads, 2 rows - 1, 2 cols - 1]``.

        Raises:
            ValueError: If the group is larger than the table.
        """
        if max(rows, cols) > self.group_size:
            raise ValueError(
                f"position_bias='rpb' holds offsets in groups of up to "
                f'{self.group_size} x {self.group_size}, got {rows} x {cols}: take '
                "lda_mode='group', or position_bias='dpb', which knows no bound."
            )
        middle = (
            slice(self.group_size - side, self.group_size - 1 + side)
            for side in (rows, cols)
        )
        return self.table[(slice(None), *middle)]


class PositionedEmbedding(CrossScaleEmbedding):
    """The first CEL with an absolute position embedding (APE) added to the tokens.

    The embedding has the size of 224 x 224 images and is interpolated for others.
    """

    side = 56

    def __init__(self, in_channels: int, embed_dims: int, *args: Any) -> None:
        super().__init__(in_channels, embed_dims, *args)
        self.position = nn.Parameter(torch.empty(1, embed_dims, self.side, self.side))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, ceil(H / 4), ceil(W / 4), C]``."""
        x = super().forward(x)
        position = F.interpolate(self.position, x.shape[1:3], mode='bicubic')
        return x + position.permute(0, 2, 3, 1)


def shifted(block: int, rule: GroupRule, **args: Any) -> tuple[nn.Module, FindGroups]:
    """Use windows in blocks 0, 2, 4, ..., shifted windows in 1, 3, 5, ..."""
    attention = ShiftedWindowAttention if block % 2 else GroupAttention
    return attention(**args), rule.sda


def reduction(block: int, rule: GroupRule, **args: Any) -> tuple[nn.Module, FindGroups]:
    """Use spatial reduction with the interval as ratio (8, 4, 2, 1 in both papers)."""
    if rule.interval is None:
        raise ValueError(
            "attention='reduction' reduces by crs_interval: it cannot be adaptive."
        )
    return SpatialReductionAttention(ratio=rule.interval, **args), rule.sda


ATTENTIONS.update(
    sda=lambda block, rule, **args: (GroupAttention(**args), rule.sda),
    lda=lambda block, rule, **args: (GroupAttention(**args), rule.lda),
    shifted=shifted,
    reduction=reduction,
)
POSITION_BIASES.update(
    dpb_residual=lambda dim, num_heads, group_size: ResidualDPB(dim, num_heads),
    rpb=lambda dim, num_heads, group_size: RelativePositionBias(num_heads, group_size),
    ape=lambda dim, num_heads, group_size: None,
)
EMBEDDINGS['ape'] = PositionedEmbedding
