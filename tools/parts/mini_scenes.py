"""Draw small scenes of a few everyday objects, with a mask for each.

`make_scene` depends only on its seed. A scene has a pale background and up to five
overlapping objects, each with a mask of its visible part. The shapes represent COCO
categories. Each has its own outline and colour, so that a network learns to distinguish
them in a few hundred iterations from scratch.

Everything is drawn at `SUPERSAMPLE` times the final size and averaged down, which gives
smooth edges. Masks stay at the larger size, for outlines of subpixel precision. Colours
are RGB floats in [0, 1] until the final conversion.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.random import Generator

SUPERSAMPLE = 2
MIN_OBJECTS, MAX_OBJECTS = 3, 5
EXTENT = (0.16, 0.72)  # square root of an object's area, relative to the image's side
MAX_RADIUS = 0.48  # relative to the image's side
MAX_TURN = 0.15  # rad
MIN_VISIBLE = 0.9  # fraction of an object's area
RIM = 0.015  # width of the darker rim, relative to the image's side
TRIES = 10  # places to try before an object is left out

Colour = tuple[float, float, float]
RED: Colour = (0.83, 0.13, 0.15)
ORANGE: Colour = (0.95, 0.50, 0.12)
YELLOW: Colour = (1.00, 0.82, 0.18)
GREEN: Colour = (0.22, 0.58, 0.30)
BLUE: Colour = (0.13, 0.37, 0.76)
SKY: Colour = (0.22, 0.48, 0.86)
WHITE: Colour = (0.97, 0.96, 0.94)
BROWN: Colour = (0.42, 0.25, 0.13)


@dataclass(frozen=True)
class Scene:
    """An image and its objects.

    Attributes:
        image: RGB, uint8, `[size, size, 3]`.
        objects: From back to front, class name and visible part: a boolean mask
            without holes, `[size * SUPERSAMPLE, size * SUPERSAMPLE]`.
        background: Pattern of the background, one of `PATTERNS`.
    """

    image: np.ndarray
    objects: list[tuple[str, np.ndarray]]
    background: str


@dataclass(frozen=True)
class Shape:
    """The appearance of a class inside the unit disc, `u` to the right and `v` down.

    Attributes:
        outline: Maps `(u, v)` to a boolean mask without holes.
        colour: Colour of the parts without details.
        details: Maps `(u, v)` to pairs of a mask and its colour, painted in order.
    """

    outline: Callable[[np.ndarray, np.ndarray], np.ndarray]
    colour: Colour
    details: Callable[[np.ndarray, np.ndarray], list[tuple[np.ndarray, Colour]]]


def make_scene(seed: int | list[int], size: int) -> Scene:
    """Draw the scene of a seed.

    Args:
        seed: Seed for `numpy.random.default_rng`; equal seeds give equal scenes.
        size: Side of the square image in pixels.
    """
    rng = np.random.default_rng(seed)
    side = size * SUPERSAMPLE
    canvas, pattern = _background(side, rng)
    owner = np.zeros((side, side), np.uint8)  # i where the i-th object is on top
    names: list[str] = []
    areas: list[int] = []
    for _ in range(rng.integers(MIN_OBJECTS, MAX_OBJECTS, endpoint=True)):
        name = str(rng.choice(list(SHAPES)))
        extent = math.exp(rng.uniform(*map(math.log, EXTENT)))
        radius = min(extent / _unit_extent(name), MAX_RADIUS)
        for _ in range(TRIES):
            u, v = _random_place(side, radius, rng)
            mask = SHAPES[name].outline(u, v)
            trial = np.where(mask, np.uint8(len(names) + 1), owner)
            if _all_well_visible(trial, [*areas, mask.sum()]):
                canvas[mask] = _paint(SHAPES[name], u, v, mask, rng)[mask]
                owner = trial
                names.append(name)
                areas.append(mask.sum())
                break
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    image += rng.normal(0, 0.01, image.shape)  # sensor noise
    image = (image.clip(0, 1) * 255).round().astype(np.uint8)
    objects = [(name, owner == i) for i, name in enumerate(names, start=1)]
    return Scene(image, objects, pattern)


@cache
def _unit_extent(name: str) -> float:
    """Return the square root of a shape's area at radius 1."""
    v, u = np.mgrid[-1:1:200j, -1:1:200j]
    return 2 * math.sqrt(SHAPES[name].outline(u, v).mean())


def _random_place(
    side: int, radius: float, rng: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the canvas in the coordinates of an object at a random place inside it."""
    x, y = rng.uniform(radius, 1 - radius, 2)
    turn = rng.uniform(-MAX_TURN, MAX_TURN)
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side
    right, down = (columns - x) / radius, (rows - y) / radius
    return (
        right * math.cos(turn) + down * math.sin(turn),
        down * math.cos(turn) - right * math.sin(turn),
    )


def _all_well_visible(owner: np.ndarray, areas: list[int]) -> bool:
    """Return whether enough of every object is visible, without holes.

    COCO's polygons cannot represent holes.
    """
    for number, area in enumerate(areas, start=1):
        visible = owner == number
        if visible.sum() < MIN_VISIBLE * area:
            return False
        _, hierarchy = cv2.findContours(
            visible.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        if (hierarchy[0, :, 3] >= 0).any():
            return False
    return True


def _paint(
    shape: Shape, u: np.ndarray, v: np.ndarray, mask: np.ndarray, rng: Generator
) -> np.ndarray:
    """Return the object's colours on the canvas, lit from above and with a dark rim."""
    picture = np.full((*u.shape, 3), shape.colour, np.float32)
    for part, colour in shape.details(u, v):
        picture[part] = colour
    from_rim = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    brightness = rng.uniform(0.93, 1.05) - 0.06 * v
    brightness[from_rim < RIM * len(u)] *= 0.72
    return picture * brightness[..., None]


# The shapes.


def _octagon_radius(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return a distance from the centre that is constant along an octagon."""
    straight = np.maximum(np.abs(u), np.abs(v))
    oblique = (np.abs(u) + np.abs(v)) / 2**0.5
    return np.maximum(straight, oblique) / math.cos(math.pi / 8)


def _banana_coordinates(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position along the bend (-1 to 1 in the banana) and across it."""
    down = v - 0.55
    return np.arctan2(u, -down) / 1.3, np.hypot(u, down) - 0.8


def _banana_outline(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    along, across = _banana_coordinates(u, v)
    return np.abs(across) < 0.36 * np.sqrt(np.maximum(1 - along**2, 0))


def _vase_outline(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    half_width = 0.45 + 0.3 * np.exp(-(((v - 0.25) / 0.5) ** 2))
    return (np.abs(u) < half_width) & (np.abs(v) < 0.85)


SHAPES = {
    'stop sign': Shape(
        outline=lambda u, v: _octagon_radius(u, v) < 1,
        colour=RED,
        details=lambda u, v: [(np.abs(_octagon_radius(u, v) - 0.8) < 0.05, WHITE)],
    ),
    'sports ball': Shape(
        outline=lambda u, v: np.hypot(u, v) < 1,
        colour=ORANGE,
        details=lambda u, v: [
            (np.minimum(np.abs(u), np.abs(v)) < 0.03, BROWN),
            (np.abs(np.abs(u) - 0.45 - 0.5 * v**2) < 0.03, BROWN),
        ],
    ),
    'kite': Shape(
        outline=lambda u, v: np.abs(u) < np.where(v < -0.3, v + 1, (1 - v) * 0.54),
        colour=BLUE,
        details=lambda u, v: [((u < 0) ^ (v < -0.3), SKY)],
    ),
    'banana': Shape(
        outline=_banana_outline,
        colour=YELLOW,
        details=lambda u, v: [(np.abs(_banana_coordinates(u, v)[0]) > 0.9, BROWN)],
    ),
    'vase': Shape(
        outline=_vase_outline,
        colour=GREEN,
        details=lambda u, v: [(np.abs(np.abs(v - 0.3) - 0.16) < 0.05, WHITE)],
    ),
}


PATTERNS = ('gradient', 'stripes', 'tiles')


def _background(side: int, rng: Generator) -> tuple[np.ndarray, str]:
    """Blend two pale colours in a random pattern at a random angle."""
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    angle = rng.uniform(0, 2 * math.pi)
    across = columns * math.cos(angle) + rows * math.sin(angle)
    along = rows * math.cos(angle) - columns * math.sin(angle)
    repeats = rng.uniform(3, 8)
    pattern = str(rng.choice(PATTERNS))
    if pattern == 'gradient':
        weight = across + 0.5
    elif pattern == 'stripes':
        weight = 0.5 + 0.2 * np.sin(2 * math.pi * repeats * across)
    else:
        odd = (np.floor(across * repeats) + np.floor(along * repeats)) % 2
        weight = 0.3 + 0.4 * odd
    first = rng.uniform(0.6, 0.8) + rng.uniform(-0.05, 0.05, 3)
    second = first + rng.uniform(-0.12, 0.12)
    picture = first + weight[..., None] * (second - first)
    return picture.astype(np.float32), pattern
