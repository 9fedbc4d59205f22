"""Record the attention of a backbone: the groups of tokens, and their weights.

::

    with record_attention(backbone) as records:
        backbone(image)
    tokens, weights = records[stage][block].of_token(row, col)

Hooks store the input of each attention. The weights are computed on access, so the
forward pass is unchanged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .models import CrossFormer
from .models.attention import GroupAttention
from .ops.blockwise_attention import attention_weights, cut
from .ops.partition import Grouping, group_tokens


@dataclass(frozen=True)
class AttentionRecord:
    """The input of the attention in one block.

    Args:
        attention (GroupAttention): The module.
        x (Tensor): Its input, ``[1, H, W, C]``.
        grouping (Grouping): How the map was cut into groups.
    """

    attention: GroupAttention
    x: Tensor
    grouping: Grouping

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the map, in tokens."""
        return self.x.shape[1], self.x.shape[2]

    def groups(self) -> Tensor:
        """Return the token indices of each group: ``[groups, N]``.

        The index of a token is row * W + column; that of padding is -1.
        """
        height, width = self.shape
        indices = torch.arange(1, height * width + 1, device=self.x.device)
        indices = group_tokens(indices.view(1, height, width, 1), self.grouping)
        return indices.squeeze(-1) - 1

    @torch.no_grad()
    def weights(self, groups: slice = slice(None)) -> Tensor:
        """Compute the weights in a slice of the groups: ``[groups, heads, N, N]``.

        Rows are queries and sum to 1 over the keys; ignore the rows of padding.
        """
        attention = self.attention
        q, k, *_ = cut(attention.qkv(self.x), self.grouping, attention.num_heads)
        q, k, padding = q[groups], k[groups], self.groups()[groups] < 0
        table, scale = self.position_bias(), attention.scale
        return attention_weights(q, k, table, padding, self.grouping, scale)

    @torch.no_grad()
    def position_bias(self) -> Tensor | None:
        """Return the bias of each offset, ``[heads, 2 rows - 1, 2 cols - 1]``."""
        pos = self.attention.pos
        return None if pos is None else pos(self.grouping.rows, self.grouping.cols)

    def of_token(self, row: int, col: int) -> tuple[Tensor, Tensor]:
        """Return the tokens that one token attends to, and their weights.

        Returns:
            tuple[Tensor]: The indices of the N tokens in its group, without padding,
            and their weights, ``[heads, N]``.
        """
        groups = self.groups()
        ((group, position),) = (groups == row * self.shape[1] + col).nonzero().tolist()
        valid = groups[group] >= 0
        weights = self.weights(slice(group, group + 1))
        return groups[group, valid], weights[0, :, position, valid]


@contextmanager
def record_attention(backbone: CrossFormer) -> Iterator[list[list[AttentionRecord]]]:
    """Record the attention in a forward pass of one image.

    Args:
        backbone (CrossFormer): In evaluation mode, so that there is no dropout.

    Yields:
        list[list[AttentionRecord]]: By stage and block, filled by the forward pass.
    """
    records: list[list[AttentionRecord]] = [[] for _ in backbone.layers]
    hooks = [
        module.register_forward_pre_hook(partial(_record, records[stage]))
        for stage, layer in enumerate(backbone.layers)
        for module in layer.modules()
        if isinstance(module, GroupAttention)
    ]
    try:
        yield records
    finally:
        for hook in hooks:
            hook.remove()


def _record(
    records: list[AttentionRecord],
    attention: GroupAttention,
    inputs: tuple[Tensor, Grouping],
) -> None:
    x, grouping = inputs
    if len(x) != 1:
        raise ValueError(f'record_attention takes one image at a time, got {len(x)}.')
    records.append(AttentionRecord(attention, x.detach(), grouping))
