"""Arguments and files of the commands that make small data sets."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from .output import complete, fail

JPEG_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 95)


def parse_args(description: str) -> argparse.Namespace:
    """Parse the command line: OUT, and the number and size of the images."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('out', metavar='OUT', type=Path, help='folder to make')
    add('--train', metavar='N', type=at_least(1), default=200, help='training images')
    add('--val', metavar='N', type=at_least(1), default=50, help='validation images')
    add('--size', metavar='PX', type=at_least(64), default=160, help='side in pixels')
    add('--seed', metavar='S', type=at_least(0), default=0, help='same seed, same set')
    return parser.parse_args()


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type for integers that are not below a minimum."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text} is no whole number >= {least}')
        return int(text)

    return read


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; rename it to ``out`` when it is complete."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        fail(f'{out} already holds something: move it or name another folder')
    with complete(out) as folder:
        folder.mkdir()
        yield folder


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an RGB image, ``[H, W, 3]``, uint8."""
    _, jpeg = cv2.imencode('.jpg', image[..., ::-1], JPEG_QUALITY)
    path.write_bytes(jpeg.tobytes())
