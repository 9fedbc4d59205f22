"""Cut a feature map into attention groups and put it together again.

Short- and long-distance attention (SDA and LDA, CrossFormer section 3.2) differ only in
which tokens share a group. Both are one cut with three numbers: the map is padded right
and bottom to whole windows of ``(rows * interval, cols * interval)`` tokens, and the
tokens of a window whose row and column are equal modulo ``interval`` form a group of
``rows x cols``. SDA is the cut with interval 1.

All functions are pure. They choose by arithmetic instead of by ``if``, so that one trace
or exported graph is right at every size: a size is an int, but a symbol while
``torch.export`` and ``torch.compile`` trace, and a tensor while ``torch.jit`` does.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LDA_MODES = ('interval', 'group')


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


class GroupRule(NamedTuple):
    """How the maps of a stage are cut, whatever their size.

    Args:
        group_size (int): Side G of a group.
        interval (int, optional): Interval I of LDA. None: the smallest with which one
            window of groups covers the map (``adaptive_interval``).
        lda_mode (str): 'interval', where an LDA group spans the whole map, or 'group',
            where it has G x G tokens.
    """

    group_size: int
    interval: int | None
    lda_mode: str

    def sda(self, height: int, width: int) -> Grouping:
        """Return the cut of short-distance attention: G x G neighbours.

        Where the shorter side of the map is no longer than G, the group size becomes
        that side under ``lda_mode='interval'``, and the longer side, so the whole map,
        under ``'group'``: each as in the published code of that mode.
        """
        if self.lda_mode == 'interval':
            side = smaller(self.group_size, smaller(height, width))
        else:
            longer = height + width - smaller(height, width)
            side = choose(self._is_large(height, width), self.group_size, longer)
        return Grouping(smaller(side, height), smaller(side, width), 1)

    def lda(self, height: int, width: int) -> Grouping:
        """Return the cut of long-distance attention: tokens I apart.

        A map that is no larger than a group gets short-distance attention.
        """
        interval = self.interval
        if interval is None:
            longer = height + width - smaller(height, width)
            interval = ceil_div(longer, self.group_size)
        rows, cols = ceil_div(height, interval), ceil_div(width, interval)
        if self.lda_mode == 'group':
            # A map smaller than a window fills only part of each group; the rest would
            # be padding.
            rows, cols = smaller(rows, self.group_size), smaller(cols, self.group_size)
        large = self._is_large(height, width)
        small_map = self.sda(height, width)
        return Grouping(
            *(choose(large, *pair) for pair in zip((rows, cols, interval), small_map))
        )

    def _is_large(self, height: int, width: int) -> int:
        """Return 1 if both sides are longer than a group, else 0."""
        return smaller(smaller(height, width) // (self.group_size + 1), 1)


def group_tokens(x: Tensor, grouping: Grouping) -> Tensor:
    """Pad with zeros and cut: ``[B, H, W, C]`` to ``[B * groups, N, C]``, N = rows * cols."""
    batch, height, width, channels = x.shape
    rows, cols, interval = grouping
    down, across = _windows(height, width, grouping)
    x = pad_map(x, *_padding(height, width, grouping))
    x = x.reshape(batch, down, rows, interval, across, cols, interval, channels)
    groups = batch * down * across * interval * interval
    return x.permute(0, 1, 3, 4, 6, 2, 5, 7).reshape(groups, rows * cols, channels)


def ungroup_tokens(
    x: Tensor, grouping: Grouping, batch: int, height: int, width: int
) -> Tensor:
    """Undo :func:`group_tokens`: ``[B * groups, N, C]`` back to ``[B, H, W, C]``."""
    channels = x.shape[-1]
    rows, cols, interval = grouping
    down, across = _windows(height, width, grouping)
    x = x.reshape(batch, down, interval, across, interval, rows, cols, channels)
    x = x.permute(0, 1, 5, 2, 3, 6, 4, 7)
    x = x.reshape(batch, down * rows * interval, across * cols * interval, channels)
    return x[:, :height, :width]


def padding_mask(
    batch: int, height: int, width: int, grouping: Grouping, device: torch.device
) -> Tensor | None:
    """Tell padding from tokens: True at padding, ``[B * groups, N]``.

    None where the map needs no padding.
    """
    if _is_zero(*_padding(height, width, grouping)):
        return None
    tokens = torch.ones(1, height, width, 1, device=device)
    return (group_tokens(tokens, grouping) == 0).squeeze(2).repeat(batch, 1)


def pad_map(x: Tensor, bottom: int, right: int) -> Tensor:
    """Pad ``[B, H, W, C]`` with zeros; without copying it where there is nothing to pad."""
    return x if _is_zero(bottom, right) else F.pad(x, (0, 0, 0, right, 0, bottom))


def ceil_div(a: int, b: int) -> int:
    """Divide and round up."""
    return (a + b - 1) // b


def smaller(a: int, b: int) -> int:
    """Return the smaller of two sizes, as an operation of the graph where one is traced."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.minimum(torch.as_tensor(a), torch.as_tensor(b))
    return torch.sym_min(a, b)


def choose(condition: int, a: int, b: int) -> int:
    """Return a if the condition is 1, b if it is 0."""
    return b + condition * (a - b)


def _windows(height: int, width: int, grouping: Grouping) -> tuple[int, int]:
    """Count the windows down and across the map."""
    rows, cols, interval = grouping
    return ceil_div(height, rows * interval), ceil_div(width, cols * interval)


def _padding(height: int, width: int, grouping: Grouping) -> tuple[int, int]:
    """Count the rows and columns of padding."""
    rows, cols, interval = grouping
    down, across = _windows(height, width, grouping)
    return down * rows * interval - height, across * cols * interval - width


def _is_zero(*sizes: int) -> bool:
    # `is True`: a traced size that is 0 in the example may be another in the next call.
    return all((size == 0) is True for size in sizes)
