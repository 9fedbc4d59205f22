"""Divide a feature map into attention groups and reassemble it.

The map is padded right and bottom to whole windows of ``(rows * interval, cols *
interval)`` tokens, and the tokens of a window whose row and column are equal modulo
``interval`` form a group of ``rows x cols``.

All functions are pure. A size is an int, a symbol under ``torch.compile`` and
``torch.export``, and a tensor under ``torch.jit.trace``: `smaller` and `choose` replace
``min`` and ``if``, so that a trace is correct for every size.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Grouping(NamedTuple):
    """How a map is cut into groups.

    Args:
        rows (int): Tokens of a group along the height.
        cols (int): Tokens of a group along the width.
        interval (int): Distance in the map between adjacent tokens of a group.
    """

    rows: int
    cols: int
    interval: int


def group_tokens(x: Tensor, grouping: Grouping) -> Tensor:
    """Pad and group: ``[B, H, W, C]`` to ``[B * groups, rows * cols, C]``."""
    batch, height, width, channels = x.shape
    rows, cols, interval = grouping
    down, across, *padding = _windows(height, width, grouping)
    x = pad_map(x, *padding)
    x = x.reshape(batch, down, rows, interval, across, cols, interval, channels)
    groups = batch * down * across * interval * interval
    return x.permute(0, 1, 3, 4, 6, 2, 5, 7).reshape(groups, rows * cols, channels)


def ungroup_tokens(
    x: Tensor, grouping: Grouping, batch: int, height: int, width: int
) -> Tensor:
    """Undo :func:`group_tokens`: ``[B * groups, N, C]`` back to ``[B, H, W, C]``."""
    channels = x.shape[-1]
    rows, cols, interval = grouping
    down, across, *_ = _windows(height, width, grouping)
    x = x.reshape(batch, down, interval, across, interval, rows, cols, channels)
    x = x.permute(0, 1, 5, 2, 3, 6, 4, 7)
    x = x.reshape(batch, down * rows * interval, across * cols * interval, channels)
    return x[:, :height, :width]


def padding_mask(x: Tensor, grouping: Grouping) -> Tensor | None:
    """Return True at padding, ``[B * groups, N]``; None if there is no padding."""
    batch, height, width, _ = x.shape
    if _is_zero(*_windows(height, width, grouping)[2:]):
        return None
    tokens = torch.ones(1, height, width, 1, device=x.device)
    return (group_tokens(tokens, grouping) == 0).squeeze(2).repeat(batch, 1)


def pad_map(x: Tensor, bottom: int, right: int) -> Tensor:
    """Pad ``[B, H, W, C]`` with zeros, without a copy if there is nothing to pad."""
    return x if _is_zero(bottom, right) else F.pad(x, (0, 0, 0, right, 0, bottom))


def ceil_div(a: int, b: int) -> int:
    """Divide and round up."""
    if not isinstance(a, Tensor) and a == b:
        return 1  # a symbol divided by itself
    return (a + b - 1) // b


def smaller(a: int, b: int) -> int:
    """Return the smaller of two sizes."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.minimum(torch.as_tensor(a), torch.as_tensor(b))
    if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt):
        # torch keeps min() of two symbols even if their ranges decide it.
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        if statically_known_true(a <= b):
            return a
        if statically_known_true(b <= a):
            return b
    return min(a, b)


def choose(condition: bool, a: int, b: int) -> int:
    """Return one of two sizes."""
    if isinstance(condition, Tensor):
        return torch.where(condition, torch.as_tensor(a), torch.as_tensor(b))
    return a if condition else b


def choose_above(excess: int, a: int, b: int) -> int:
    """Return ``a`` if ``excess`` is above 0, else ``b``.

    Computed without ``if``, because an export would keep only the example's branch.
    """
    flag = smaller(1, -smaller(0, -excess))
    return b + flag * (a - b)


def _windows(height: int, width: int, grouping: Grouping) -> tuple[int, int, int, int]:
    """Count windows down and across the map, and rows and columns of padding."""
    rows, cols, interval = grouping
    down = ceil_div(ceil_div(height, interval), rows)
    across = ceil_div(ceil_div(width, interval), cols)
    bottom, right = down * rows * interval - height, across * cols * interval - width
    return down, across, bottom, right


def _is_zero(*sizes: int) -> bool:
    # `is True`: a traced size that is 0 in the example may differ in the next call.
    return all((size == 0) is True for size in sizes)
