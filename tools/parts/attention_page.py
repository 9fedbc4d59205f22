"""Write a self-contained HTML page with the attention of every token, block and head.

The page contains the image and all weights, one byte each, so nothing is computed or
fetched when it is opened. ``attention_page.html`` is its template.
"""

import base64
import gzip
import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib import colormaps
from rich.progress import track

from crossformer_mm.attention_record import AttentionRecord

from .attention_plots import QUERY, WEIGHTS, describe
from .output import complete

TEMPLATE = Path(__file__).with_suffix('.html')
LIMIT = 150e6  # bytes of weights that a browser can open
BATCH = 64  # groups

Records = Sequence[Sequence[AttentionRecord]]


def page_size(records: Records) -> int:
    """Return the number of bytes of weights in a page of these records."""
    size = 0
    for record in _blocks(records):
        groups, tokens = record.groups().shape
        size += groups * (record.attention.num_heads + 1) * tokens**2
    return size


def write_page(path: Path, title: str, image: np.ndarray, records: Records) -> Path:
    """Write the page completely or not at all, replacing an older one.

    Args:
        path (Path): The page.
        title (str): Its title.
        image (np.ndarray): RGB, ``[H, W, 3]``.
        records (Sequence[Sequence[AttentionRecord]]): By stage and block.
    """
    description = dict(
        title=title,
        height=image.shape[0],
        width=image.shape[1],
        colours=(colormaps[WEIGHTS](range(256))[:, :3] * 255)
        .round()
        .astype(int)
        .tolist(),
        query=QUERY,
        stages=[[_describe(record) for record in stage] for stage in records],
    )
    blocks = list(_blocks(records))
    numbers = b''.join(
        record.groups().numpy().astype('<i4').tobytes() for record in blocks
    )
    weights = b''.join(_weights(block) for block in track(blocks, 'attention.html'))
    _, picture = cv2.imencode('.png', image[..., ::-1])
    page = TEMPLATE.read_text()
    for name, content in {
        'title': html.escape(title),
        # A file name could contain </script>.
        'description': json.dumps(description).replace('</', '<\\/'),
        'image': _base64(picture.tobytes()),
        'numbers': _base64(gzip.compress(numbers)),
        'weights': _base64(gzip.compress(weights, compresslevel=6)),
    }.items():
        page = page.replace(f'{{{{ {name} }}}}', content)
    with complete(path) as part:
        part.write_text(page)
    return path


def _blocks(records: Records) -> Iterator[AttentionRecord]:
    for stage in records:
        yield from stage


def _describe(record: AttentionRecord) -> dict[str, object]:
    groups, tokens = record.groups().shape
    return dict(
        height=record.shape[0],
        width=record.shape[1],
        heads=record.attention.num_heads,
        groups=groups,
        tokens=tokens,
        text=describe(record),
        short=record.grouping.interval == 1,
    )


def _weights(record: AttentionRecord) -> bytes:
    """Return the weights as one byte each, relative to the largest of their query.

    Their layout is ``[groups, queries, heads + 1, keys]``, with the average over all
    heads first.
    """
    parts = []
    for start in range(0, len(record.groups()), BATCH):
        weights = record.weights(slice(start, start + BATCH))
        weights = np.concatenate([weights.mean(1, keepdim=True), weights], axis=1)
        weights = weights / weights.max(-1, keepdims=True)
        weights = (weights * 255).round().astype(np.uint8)
        parts.append(weights.transpose(0, 2, 1, 3).tobytes())
    return b''.join(parts)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
