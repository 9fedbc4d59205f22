"""Plots of a CrossFormer's attention, embedding and features."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from crossformer_mm.attention_record import AttentionRecord
from crossformer_mm.models.embed import CrossScaleEmbedding
from crossformer_mm.models.partition import ceil_div

COLUMNS = 7
WEIGHTS = 'inferno'  # colours of attention weights, dark to bright
QUERY = '#00e5ff'  # colour of the chosen token
KERNELS = ('#ffd166', '#ef476f', '#06d6a0', '#4895ef')

Pixel = tuple[int, int]  # row, column
Token = tuple[int, int]  # row, column


def plot_groups(
    image: np.ndarray, records: Sequence[AttentionRecord], token: Token
) -> Figure:
    """Highlight the tokens in the group of a token, in each block."""
    figure, panels = _panels(image, len(records), width=4.2)
    for axes, record in zip(panels, records):
        numbers, _ = record.of_token(*token)
        shown = np.zeros(record.shape)
        shown.put(numbers, 1)
        light = _enlarge(shown, image.shape)[..., None]
        axes.imshow((image / 255 * (0.25 + 0.75 * light)).clip(0, 1))
        _frame(axes, record, token, image)
        axes.set_title(describe(record), fontsize='medium')
    return figure


def plot_attention(
    image: np.ndarray, record: AttentionRecord, token: Token, where: str
) -> Figure:
    """Draw the attention weights of a token, per head and averaged over heads."""
    numbers, weights = record.of_token(*token)
    maps = {'all heads': weights.mean(0)}
    maps |= {f'head {i}': head for i, head in enumerate(weights, start=1)}
    figure, panels = _panels(image, len(maps), width=1.9)
    grey = (image @ [0.299, 0.587, 0.114])[..., None].repeat(3, axis=2) / 255
    for axes, (title, values) in zip(panels, maps.items()):
        # Each head has its own scale, from 0 to its largest weight.
        painted = _paint(record.shape, numbers, values / values.max(), image.shape)
        colours, alpha = painted[..., :3], painted[..., 3:]
        axes.imshow(grey * 0.45 * (1 - alpha) + colours * alpha)
        _frame(axes, record, token, image)
        axes.set_title(f'{title}, to {values.max():.2f}', fontsize='small')
    figure.suptitle(f'{where}: {describe(record)}')
    figure.colorbar(
        ScalarMappable(Normalize(), WEIGHTS),
        ax=figure.axes,
        label='weight / largest weight',
        aspect=40,
    )
    return figure


def plot_embedding(
    image: np.ndarray, embedding: CrossScaleEmbedding, pixel: Pixel
) -> Figure:
    """Draw the patches covered by the kernels of the first CEL around a pixel."""
    stride = embedding.stride
    corner = [place // stride * stride for place in pixel]
    largest = max(conv.kernel_size[0] for conv in embedding.projs)
    figure = Figure(figsize=(11, 4.2), dpi=150, layout='constrained')
    whole, near = figure.subplots(1, 2)
    for axes in (whole, near):
        axes.imshow(image)
        axes.axis('off')
        # Largest first, so that smaller ones are on top.
        for conv, colour in reversed(list(zip(embedding.projs, KERNELS * 2))):
            side, before = conv.kernel_size[0], conv.padding[0]
            label = f'{side} x {side} pixels to {conv.out_channels} channels'
            axes.add_patch(
                Rectangle(
                    (corner[1] - before - 0.5, corner[0] - before - 0.5),
                    *(side, side),
                    ec=colour,
                    fc=(colour, 0.15),
                    lw=2,
                    label=label,
                )
            )
    reach = 1.25 * largest
    near.set_xlim(corner[1] + stride / 2 - reach, corner[1] + stride / 2 + reach)
    near.set_ylim(corner[0] + stride / 2 + reach, corner[0] + stride / 2 - reach)
    handles, labels = near.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc='outside right', frameon=False)
    figure.suptitle(
        'Cross-scale embedding: what one token of the first stage is made of'
    )
    return figure


def plot_position_bias(record: AttentionRecord, where: str) -> Figure:
    """Draw the position bias over the offsets, one panel per head."""
    table = record.position_bias().numpy()
    rows, cols, interval = record.grouping
    figure, panels = _panels(table[0], len(table), width=1.9)
    limit = abs(table).max()
    # Edges of the picture: offsets range from 1 - rows to rows - 1.
    extent = (0.5 - cols, cols - 0.5, rows - 0.5, 0.5 - rows)
    for head, (axes, surface) in enumerate(zip(panels, table), start=1):
        axes.imshow(surface, cmap='RdBu_r', vmin=-limit, vmax=limit, extent=extent)
        axes.set_title(f'head {head}', fontsize='small')
    panels[0].axis('on')
    panels[0].set_xlabel('columns', fontsize='small')
    panels[0].set_ylabel('rows', fontsize='small')
    figure.suptitle(
        f'{where}: bias of a query by its offset from the key, '
        f'in steps of {interval} token{"s" * (interval > 1)}'
    )
    figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), 'RdBu_r'),
        ax=figure.axes,
        label='added to the score',
        aspect=40,
    )
    return figure


def plot_features(
    image: np.ndarray, outputs: Sequence[Tensor], stages: Sequence[int]
) -> Figure:
    """Draw the first three principal components and the norm of each feature map."""
    figure = Figure(
        figsize=(2.6 * (1 + len(outputs)), 5.1 * image.shape[0] / image.shape[1] + 0.6),
        dpi=150,
        layout='constrained',
    )
    grid = figure.subplots(2, 1 + len(outputs), squeeze=False)
    for axes in grid.flat:
        axes.axis('off')
    grid[0, 0].imshow(image)
    grid[0, 0].set_title('image')
    for axes, output, stage in zip(grid.T[1:], outputs, stages):
        features = output[0].flatten(1).T.double()
        channels, height, width = output.shape[1:]
        colours = _principal_components(features).view(height, width, 3).numpy()
        norms = features.norm(dim=1).view(height, width).numpy()
        # Equal aspect ratios keep the titles aligned.
        axes[0].imshow(_enlarge(colours, image.shape))
        axes[1].imshow(_enlarge(norms, image.shape), cmap='viridis')
        axes[0].set_title(f'stage {stage + 1}: {height} x {width}\n{channels} channels')
    for axes, text in zip(grid[:, -1], ('principal components', 'norm')):
        axes.text(1.03, 0.5, text, rotation=90, va='center', transform=axes.transAxes)
    return figure


def describe(record: AttentionRecord) -> str:
    """Return a description of the attention of a block."""
    rows, cols, interval = record.grouping
    if interval == 1:
        return f'short-distance attention, {rows} x {cols} neighbours'
    return f'long-distance attention, {rows} x {cols} tokens, {interval} apart'


def _panels(image: np.ndarray, count: int, width: float) -> tuple[Figure, list[Axes]]:
    """Make a grid of panels with the aspect ratio of an image."""
    rows = ceil_div(count, COLUMNS)
    columns = ceil_div(count, rows)
    height = width * image.shape[0] / image.shape[1] + 0.3
    figure = Figure(
        figsize=(width * columns + 1.2, height * rows + 0.6),
        dpi=150,
        layout='constrained',
    )
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.axis('off')
    return figure, panels[:count]


def _paint(
    shape: tuple[int, int], numbers: Tensor, values: Tensor, size: Sequence[int]
) -> np.ndarray:
    """Colour tokens by their values: RGBA ``[H, W, 4]``, transparent elsewhere."""
    colours = np.zeros((shape[0] * shape[1], 4))
    colours[numbers.numpy()] = ScalarMappable(Normalize(0, 1), WEIGHTS).to_rgba(
        values.numpy()
    )
    return _enlarge(colours.reshape(*shape, 4), size)


def _enlarge(tokens: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Repeat each token over its cell of pixels and crop to the size of the image."""
    cell = _cell(tokens.shape, size)
    pixels = tokens.repeat(cell, axis=0).repeat(cell, axis=1)
    return pixels[: size[0], : size[1]]


def _cell(tokens: Sequence[int], size: Sequence[int]) -> int:
    """Return the side of a token in pixels, a power of two."""
    # The last row of tokens may extend beyond the image.
    return 2 ** round(np.log2(size[0] / tokens[0] + size[1] / tokens[1]) - 1)


def _frame(
    axes: Axes, record: AttentionRecord, token: Token, image: np.ndarray
) -> None:
    """Frame the chosen token."""
    cell = _cell(record.shape, image.shape)
    corner = token[1] * cell - 0.5, token[0] * cell - 0.5
    axes.add_patch(Rectangle(corner, cell, cell, ec=QUERY, fc='none', lw=1.5))


def _principal_components(features: Tensor) -> Tensor:
    """Project ``[tokens, C]`` on the first three components, scaled to [0, 1]."""
    centred = features - features.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    colours = centred @ axes[:, -3:].flip(1)
    # Clip outliers, which would reduce the contrast of the other tokens.
    low, high = (colours.quantile(q, dim=0) for q in (0.01, 0.99))
    return ((colours - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
