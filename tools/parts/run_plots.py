"""Colours, legends and axes of the plots of runs.

Fonts are large enough for figures that are shown at half size on a page.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

# The colour-blind safe palette of Okabe and Ito.
HUES = ('#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00', '#F0E442')
DASHES = ('-', '--', ':', '-.')
WIDTH = 11  # of a figure, in inches
FONT = 13  # points
LINE = 0.3  # height of a line in a legend, in inches


def palette(count: int) -> list[str]:
    """Return distinct colours: the hues, then darker and lighter versions of them."""
    rounds = -(-count // len(HUES))
    colours = []
    for number in range(rounds):
        # 0, one step towards black, one towards white, two towards black, ...
        share = 0.65 * ((number + 1) // 2) / max(1, rounds // 2)
        target = np.full(3, number % 2 == 0, dtype=float)
        mixed = [(1 - share) * np.array(to_rgb(hue)) + share * target for hue in HUES]
        colours += map(to_hex, mixed)
    return colours[:count]


def text_colour(background: str) -> str:
    """Return black or white, whichever is readable on a background."""
    return 'black' if np.dot(to_rgb(background), (0.3, 0.59, 0.11)) > 0.5 else 'white'


def curve_axes(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Make axes side by side with the iteration as x."""
    figure = Figure(figsize=(WIDTH, 5.2), dpi=160, layout='constrained')
    panels = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(panels, titles):
        axes.set_title(title, fontsize=FONT + 1)
        axes.set_xlabel('iteration', fontsize=FONT)
        axes.tick_params(labelsize=FONT - 1)
        axes.grid(color='0.9')
        axes.spines[['top', 'right']].set_visible(False)
    return figure, panels


def legend_below(axes: Axes, columns: int) -> None:
    """Add a legend below the axes, where it covers no data."""
    if axes.lines:
        axes.legend(
            loc='upper center',
            bbox_to_anchor=(0.5, -0.16),
            ncols=columns,
            frameon=False,
            fontsize=FONT - 1,
        )


def image_grid(
    sizes: Sequence[tuple[int, int]], titles: Sequence[str], legend: Sequence[str]
) -> tuple[Figure, np.ndarray]:
    """Make a grid of panels with two images per row, in the images' aspect ratios.

    Args:
        sizes: Height and width of each image.
        titles: Titles of the panels of an image.
        legend: Labels of the legend, for which space is reserved.

    Returns:
        The figure and its panels, ``[images, panels of an image]``; the last row is
        unused if the number of images is odd.
    """
    rows, columns = -(-len(sizes) // 2), 2 * len(titles)
    width = WIDTH / columns
    heights = [
        width * max(height / width for height, width in sizes[2 * row : 2 * row + 2])
        for row in range(rows)
    ]
    lines = -(-len(legend) // legend_columns(legend)) if legend else 0
    figure = Figure(
        figsize=(WIDTH, sum(heights) + 0.1 * rows + 0.5 + LINE * lines),
        dpi=160,
        layout='constrained',
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    grid = figure.subplots(
        rows, columns, squeeze=False, gridspec_kw=dict(height_ratios=heights)
    )
    for axes in grid.flat:
        axes.axis('off')
        axes.set_anchor('N')  # aligns the titles of images of different shapes
    for axes, title in zip(grid[0], list(titles) * 2):
        axes.set_title(title, fontsize=FONT)
    return figure, grid.reshape(-1, len(titles))


def aspect_ratio(image: np.ndarray) -> float:
    """Return an image's height divided by its width."""
    return image.shape[0] / image.shape[1]


def figure_legend(figure: Figure, patches: Sequence[Patch]) -> None:
    """Add a legend of the colours below the panels."""
    if patches:
        figure.legend(
            handles=patches,
            loc='outside lower center',
            ncols=legend_columns([patch.get_label() for patch in patches]),
            frameon=False,
            fontsize=FONT - 1,
        )


def legend_columns(labels: Sequence[str]) -> int:
    """Return the number of columns of labels that fit side by side."""
    # A letter is about half as wide as the font is high; a patch takes nine letters.
    letters = WIDTH * 72 / ((FONT - 1) * 0.58)
    return max(1, min(len(labels), int(letters // (max(map(len, labels)) + 9))))
