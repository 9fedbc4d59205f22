"""Groups of tokens that attend to each other: SDA and LDA.

Short- and long-distance attention (CrossFormer section 3.2) differ only in which tokens
share a group. Three numbers, a ``Grouping``, describe both; SDA has interval 1.
"""

from typing import NamedTuple

from ..ops.partition import Grouping, ceil_div, choose_above, smaller
from ..ops.partition import group_tokens as group_tokens  # re-exported
from ..ops.partition import ungroup_tokens as ungroup_tokens  # re-exported

LDA_MODES = ('interval', 'group')


class GroupRule(NamedTuple):
    """How a stage divides maps of any size into groups.

    Args:
        group_size (int): Side G of a group.
        interval (int, optional): Interval I of LDA. None: the smallest with which one
            window of groups covers the map (``adaptive_interval``).
        lda_mode (str): 'interval': an LDA group spans the whole map; 'group': it has
            G x G tokens.
    """

    group_size: int
    interval: int | None
    lda_mode: str

    def sda(self, height: int, width: int) -> Grouping:
        """Return the groups of short-distance attention (SDA): G x G neighbours.

        If the shorter side of the map is at most G, the group size becomes that side
        under ``lda_mode='interval'``, and the longer side, hence the whole map, under
        ``'group'``, as in the published code of each mode.
        """
        shorter = smaller(height, width)
        if self.lda_mode == 'interval':
            side = smaller(self.group_size, shorter)
        else:
            longer = height + width - shorter
            side = choose_above(shorter - self.group_size, self.group_size, longer)
        return Grouping(smaller(side, height), smaller(side, width), 1)

    def lda(self, height: int, width: int) -> Grouping:
        """Return the groups of long-distance attention (LDA): tokens I apart.

        A map that is not larger than a group gets short-distance attention.
        """
        shorter = smaller(height, width)
        longer = height + width - shorter
        interval = self.interval or ceil_div(longer, self.group_size)
        rows, cols = ceil_div(height, interval), ceil_div(width, interval)
        if self.lda_mode == 'group':
            # In a map smaller than a window, the rest of a group would be padding.
            rows, cols = smaller(rows, self.group_size), smaller(cols, self.group_size)
        small_map = self.sda(height, width)
        excess = shorter - self.group_size  # above 0 on a large map
        return Grouping(
            *(choose_above(excess, *p) for p in zip((rows, cols, interval), small_map))
        )
