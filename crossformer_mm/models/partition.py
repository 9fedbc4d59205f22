"""Cut a feature map into attention groups and put it together again.

Short- and long-distance attention (SDA and LDA, CrossFormer section 3.2) differ
only in which tokens share a group. Both are one cut with three numbers: the map is
padded right and bottom to whole windows of ``(rows * interval, cols * interval)``
tokens, and the tokens of a window whose row and column are equal modulo
``interval`` form a group of ``rows x cols``. SDA is the cut with interval 1.

All functions are pure; what depends on shapes alone is computed once per shape.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracing import once_per_shape


class Grouping(NamedTuple):
    """The cut of a map into groups.

    Args:
        rows (int): Tokens of a group along the height.
        cols (int): Tokens of a group along the width.
        interval (int): Distance, in tokens of the map, between two neighbours in a
            group.
    """

    rows: int
    cols: int
    interval: int


def sda_grouping(height: int, width: int, group_size: int, lda_mode: str) -> Grouping:
    """Short-distance attention: ``group_size`` x ``group_size`` neighbours.

    On a map whose shorter side is no longer than ``group_size``, the group size
    becomes that side under ``lda_mode='interval'``, and the longer side, so the
    whole map, under ``'group'``: each as in the published code of that mode.
    """
    if min(height, width) > group_size:
        return Grouping(group_size, group_size, 1)
    if lda_mode == 'interval':
        side = min(height, width)
        return Grouping(side, side, 1)
    return Grouping(height, width, 1)


def lda_grouping(
    height: int, width: int, group_size: int, lda_mode: str, interval: int | None
) -> Grouping:
    """Long-distance attention: tokens ``interval`` apart.

    Args:
        height (int): Height of the map in tokens.
        width (int): Width of the map in tokens.
        group_size (int): Side of a group under ``lda_mode='group'``. A map that is
            no larger gets short-distance attention in both modes.
        lda_mode (str): 'interval', where a group spans the whole map, or 'group'.
        interval (int, optional): Distance between two neighbours in a group; None
            is the smallest with which one window of groups covers the map.
    """
    if min(height, width) <= group_size:
        return sda_grouping(height, width, group_size, lda_mode)
    if interval is None:
        interval = ceil_div(max(height, width), group_size)
    rows, cols = ceil_div(height, interval), ceil_div(width, interval)
    if lda_mode == 'group':
        # A map smaller than a window fills only part of each group; the rest would
        # be padding.
        rows, cols = min(rows, group_size), min(cols, group_size)
    return Grouping(rows, cols, interval)


def group_tokens(x: Tensor, grouping: Grouping) -> Tensor:
    """Pad with zeros and cut: ``[B, H, W, ..., C]`` to ``[B * groups, ..., N, C]``.

    What stands between, such as heads, is cut alike; N is rows * cols.
    """
    batch, height, width, *between, channels = x.shape
    rows, cols, interval = grouping
    down, right = _windows(height, width, grouping)
    pad_bottom = down * rows * interval - height
    pad_right = right * cols * interval - width
    if pad_bottom or pad_right:
        x = F.pad(x, (0, 0) * len(between) + (0, 0, 0, pad_right, 0, pad_bottom))
    x = x.reshape(
        batch, down, rows, interval, right, cols, interval, *between, channels
    )
    x = x.permute(0, 1, 3, 4, 6, *range(7, 7 + len(between)), 2, 5, -1)
    groups = batch * down * right * interval**2
    return x.reshape(groups, *between, rows * cols, channels)


def ungroup_tokens(
    x: Tensor, grouping: Grouping, batch: int, height: int, width: int
) -> Tensor:
    """Undo :func:`group_tokens`: back to ``[B, H, W, ..., C]``."""
    _, *between, _, channels = x.shape
    rows, cols, interval = grouping
    down, right = _windows(height, width, grouping)
    x = x.reshape(
        batch, down, interval, right, interval, *between, rows, cols, channels
    )
    last = 5 + len(between)
    x = x.permute(0, 1, last, 2, 3, last + 1, 4, *range(5, last), -1)
    tall, wide = down * rows * interval, right * cols * interval
    return x.reshape(batch, tall, wide, *between, channels)[:, :height, :width]


@once_per_shape
def padding_mask(
    height: int, width: int, grouping: Grouping, device: torch.device
) -> Tensor | None:
    """Tell padding from tokens: True at padding, ``[groups, rows * cols]``.

    None where the map needs no padding.
    """
    down, right = _windows(height, width, grouping)
    rows, cols, interval = grouping
    if (down * rows * interval, right * cols * interval) == (height, width):
        return None
    tokens = torch.ones(1, height, width, 1, device=device)
    return group_tokens(tokens, grouping).squeeze(-1) == 0


def ceil_div(a: int, b: int) -> int:
    """Divide and round up."""
    return (a + b - 1) // b


def _windows(height: int, width: int, grouping: Grouping) -> tuple[int, int]:
    """Count the windows down and across the map."""
    rows, cols, interval = grouping
    return ceil_div(height, rows * interval), ceil_div(width, cols * interval)
