"""Draw small scenes of a few everyday objects, with a mask for each.

`make_scene` is a pure function of its seed: a varied background and two to six objects
that overlap, cast shadows and hide one another, and for every object the part of it
that stays visible. The shapes stand for COCO categories and are told apart by outline,
pattern and colour, so that a network learns them in a few hundred iterations.

Everything is drawn `SUPERSAMPLE` times too large and averaged down, which gives smooth
edges; the masks stay at the large scale, so outlines can be read off below one pixel.
Colours are RGB floats in [0, 1] until the very end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.random import Generator

SUPERSAMPLE = 3
MAX_OBJECTS = 6
EXTENT = (0.17, 0.85)  # root of an object's area, relative to the image's side
MAX_RADIUS = 0.48  # relative to the image's side
MIN_VISIBLE = 0.7  # of an object's own area
TRIES = 20  # places to try before an object is left out

Vector = Colour = tuple[float, float, float]
RED: Colour = (0.80, 0.13, 0.15)
ORANGE: Colour = (0.93, 0.47, 0.12)
YELLOW: Colour = (0.97, 0.79, 0.20)
GREEN: Colour = (0.33, 0.62, 0.25)
BLUE: Colour = (0.15, 0.39, 0.74)
PURPLE: Colour = (0.49, 0.27, 0.62)
WHITE: Colour = (0.95, 0.94, 0.91)
CREAM: Colour = (0.97, 0.86, 0.58)
BROWN: Colour = (0.42, 0.25, 0.13)
BLACK: Colour = (0.11, 0.11, 0.13)


@dataclass(frozen=True)
class Scene:
    """An image and what can be seen in it.

    Attributes:
        image: RGB, uint8, `[size, size, 3]`.
        objects: From back to front, class name and visible part: a boolean mask
            without holes, `[size * SUPERSAMPLE, size * SUPERSAMPLE]`.
    """

    image: np.ndarray
    objects: list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Shape:
    """How one class looks inside the unit disc, `u` to the right and `v` down.

    Attributes:
        outline: From `(u, v)` to a boolean mask without holes.
        texture: From `(u, v)` and a random generator to RGB.
        bevel: Width of the rounded rim; 1 turns the unit disc into a ball.
    """

    outline: Callable[[np.ndarray, np.ndarray], np.ndarray]
    texture: Callable[[np.ndarray, np.ndarray, Generator], np.ndarray]
    bevel: float


@dataclass(frozen=True)
class Sprite:
    """A drawn object on a square of its own, not yet put anywhere."""

    mask: np.ndarray
    colour: np.ndarray
    shadow: np.ndarray

    @property
    def area(self) -> int:
        """Number of (supersampled) pixels of the whole object."""
        return int(self.mask.sum())


def make_scene(seed: int | list[int], size: int) -> Scene:
    """Draw the scene that belongs to a seed.

    Args:
        seed: What `numpy.random.default_rng` takes; equal seeds give equal scenes.
        size: Side of the square image in pixels.
    """
    rng = np.random.default_rng(seed)
    side = size * SUPERSAMPLE
    light = _light(rng)
    canvas = _background(side, rng)
    owner = np.zeros((side, side), np.uint8)  # i where the i-th object is on top
    names: list[str] = []
    areas: list[int] = []
    for _ in range(rng.integers(2, MAX_OBJECTS, endpoint=True)):
        name = str(rng.choice(list(SHAPES)))
        extent = side * math.exp(rng.uniform(*map(math.log, EXTENT)))
        radius = min(extent / _unit_extent(SHAPES[name]), MAX_RADIUS * side)
        sprite = _draw(SHAPES[name], radius, light, rng)
        corner = _find_place(sprite, owner, areas, rng)
        if corner is not None:
            names.append(name)
            areas.append(sprite.area)
            on_canvas, of_sprite = _common_part(sprite, corner, side)
            owner[on_canvas][sprite.mask[of_sprite]] = len(names)
            canvas[on_canvas] *= 1 - sprite.shadow[of_sprite][..., None]
            np.copyto(
                canvas[on_canvas],
                sprite.colour[of_sprite],
                where=sprite.mask[of_sprite][..., None],
            )
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    image += rng.normal(0, 0.01, image.shape)  # the grain of a camera
    image = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return Scene(image, [(name, owner == i) for i, name in enumerate(names, start=1)])


# Placing objects so that each stays recognisable.


def _find_place(
    sprite: Sprite, owner: np.ndarray, areas: list[int], rng: Generator
) -> tuple[int, int] | None:
    """Find a corner `(row, column)` for the sprite, or None where it finds no room."""
    for _ in range(TRIES):
        centre = rng.uniform(0.2, 0.8, 2) * len(owner)
        row, column = (centre - len(sprite.mask) / 2).astype(int).tolist()
        on_canvas, of_sprite = _common_part(sprite, (row, column), len(owner))
        trial = owner.copy()
        trial[on_canvas][sprite.mask[of_sprite]] = len(areas) + 1
        if all(
            _is_well_visible(trial == i, area)
            for i, area in enumerate([*areas, sprite.area], start=1)
        ):
            return row, column
    return None


def _is_well_visible(visible: np.ndarray, area: int) -> bool:
    """Tell whether enough is left, and without a hole (polygons cannot say 'hole')."""
    if visible.sum() < MIN_VISIBLE * area:
        return False
    _, hierarchy = cv2.findContours(
        visible.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    parents = hierarchy[0, :, 3]
    return bool((parents < 0).all())


def _common_part(
    sprite: Sprite, corner: tuple[int, int], side: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where sprite and canvas meet, as slices of the canvas and the sprite."""
    on_canvas, of_sprite = [], []
    for start in corner:
        low, high = max(start, 0), min(start + len(sprite.mask), side)
        on_canvas.append(slice(low, high))
        of_sprite.append(slice(low - start, high - start))
    return tuple(on_canvas), tuple(of_sprite)


# Drawing one object: turned, textured, lit, with its shadow.


def _light(rng: Generator) -> Vector:
    """Return the direction the light comes from, somewhere above: right, down, near."""
    azimuth = rng.uniform(-2.6, -0.5)
    direction = (math.cos(azimuth), math.sin(azimuth), 1.3)
    return tuple(part / math.hypot(*direction) for part in direction)


@cache
def _unit_extent(shape: Shape) -> float:
    """Return the root of a shape's area where the radius is 1."""
    v, u = np.mgrid[-1:1:200j, -1:1:200j]
    return 2 * math.sqrt(shape.outline(u, v).mean())


def _draw(shape: Shape, radius: float, light: Vector, rng: Generator) -> Sprite:
    reach = int(1.3 * radius)  # leaves room for the shadow
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32) / radius
    angle = rng.uniform(-0.6, 0.6)
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    mask = shape.outline(u, v)
    brightness, gloss = _shade(mask, shape.bevel * radius, light)
    colour = shape.texture(u, v, rng) * brightness[..., None] + gloss[..., None]
    throw = 0.1 * radius / light[2]
    shift = np.array([[1, 0, -throw * light[0]], [0, 1, -throw * light[1]]])
    shadow = cv2.warpAffine(mask.astype(np.float32), shift, mask.shape)
    shadow = 0.2 * cv2.GaussianBlur(shadow, (0, 0), 0.06 * radius)
    return Sprite(mask, colour, shadow)


def _shade(
    mask: np.ndarray, bevel: float, light: Vector
) -> tuple[np.ndarray, np.ndarray]:
    """Light a mask as if its rim were rounded off; flat parts get a brightness of 1."""
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    slope = 1 - np.minimum(depth / bevel, 1)
    height = bevel * np.sqrt(1 - slope**2)
    height = cv2.GaussianBlur(height, (0, 0), max(bevel * 0.08, 1))
    down, right = np.gradient(height)
    steepness = np.sqrt(right**2 + down**2 + 1)
    facing = (light[2] - right * light[0] - down * light[1]) / steepness
    brightness = 0.8 + 0.2 * np.maximum(facing, 0) / light[2]
    gloss = 0.2 * np.maximum(facing - 0.9, 0) / 0.1
    return np.minimum(brightness, 1.2), gloss**3


def _pick(rng: Generator, *palette: Colour) -> np.ndarray:
    """Return one of the colours, a little lighter or darker than usual."""
    return np.array(palette[rng.integers(len(palette))]) * rng.uniform(0.85, 1.1)


def _plain(like: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return a picture of one colour to paint on."""
    return np.full((*like.shape, 3), colour, np.float32)


# The shapes.


def _ball_outline(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u**2 + v**2 <= 1


def _ball_texture(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    """Paint a beach ball or a basketball, seen from anywhere."""
    near = np.sqrt(np.maximum(1 - u**2 - v**2, 0))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    points = np.dstack([u, v, near]) @ turn.astype(np.float32)
    paint = (_paint_beach_ball, _paint_basketball)[rng.integers(2)]
    return paint(points, rng)


def _paint_beach_ball(points: np.ndarray, rng: Generator) -> np.ndarray:
    x, y, z = np.moveaxis(points, 2, 0)
    picture = _plain(x, _pick(rng, BLUE, ORANGE))
    picture[np.floor(np.arctan2(y, x) / math.pi * 3) % 2 == 0] = WHITE
    picture[np.abs(z) > 0.96] = RED
    return picture


def _paint_basketball(points: np.ndarray, rng: Generator) -> np.ndarray:
    x, y, z = np.moveaxis(points, 2, 0)
    picture = _plain(x, _pick(rng, ORANGE, BROWN))
    curved = np.abs(np.abs(z) - 0.35 - 0.6 * x**2)
    picture[np.minimum(curved, np.minimum(np.abs(x), np.abs(y))) < 0.035] = BLACK
    return picture


def _octagon_radius(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return a distance from the centre that is equal all along an octagon."""
    straight = np.maximum(np.abs(u), np.abs(v))
    oblique = (np.abs(u) + np.abs(v)) / 2**0.5
    return np.maximum(straight, oblique) / math.cos(math.pi / 8)


def _sign_outline(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _octagon_radius(u, v) <= 1


def _sign_texture(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    picture = _plain(u, _pick(rng, RED))
    distance = _octagon_radius(u, v)
    picture[(distance > 0.86) & (distance < 0.95)] = WHITE
    page = 128 * (u + 1), 128 * (v + 1)
    picture[cv2.remap(_lettering('STOP'), *page, cv2.INTER_LINEAR) > 127] = WHITE
    return picture


@cache
def _lettering(word: str) -> np.ndarray:
    """Write a word on a page that stands for u and v from -1 to 1."""
    page = np.zeros((256, 256), np.uint8)
    font, scale, weight = cv2.FONT_HERSHEY_DUPLEX, 2.2, 8
    (width, height), _ = cv2.getTextSize(word, font, scale, weight)
    start = (128 - width // 2, 128 + height // 2)
    return cv2.putText(page, word, start, font, scale, 255, weight, cv2.LINE_AA)


def _kite_outline(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(u) <= np.where(v < -0.3, v + 1, (1 - v) * 0.54)


def _kite_texture(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    """Paint four panels in two colours, and two sticks."""
    bright = (GREEN, BLUE, PURPLE)
    first, second = rng.choice(bright, 2, replace=False)
    picture = _plain(u, first)
    picture[(u < 0) ^ (v < -0.3)] = second
    picture[np.minimum(np.abs(u), np.abs(v + 0.3)) < 0.025] = BROWN
    return picture


def _banana_coordinates(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position along the bend (the fruit: -1 to 1) and across it."""
    down = v - 0.55
    return np.arctan2(u, -down) / 1.35, np.hypot(u, down) - 0.82


def _banana_outline(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    along, across = _banana_coordinates(u, v)
    fruit = np.abs(across) < 0.27 * np.sqrt(np.maximum(1 - along**2, 0))
    stem = (np.abs(across) < 0.08) & (along > 0) & (along < 1.08)
    return fruit | stem


def _banana_texture(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    along, across = _banana_coordinates(u, v)
    peel = _pick(rng, YELLOW, YELLOW, GREEN)
    picture = _plain(u, peel)
    picture[np.abs(across - 0.06 * (1 - along**2)) < 0.015] = peel * 0.75
    for _ in range(rng.integers(4, 14)):  # ripe spots
        x, y = rng.uniform(-0.8, 0.8), rng.uniform(-0.2, 0.2)
        picture[np.hypot(along - x, across - y) < rng.uniform(0.015, 0.05)] = BROWN
    picture[(along > 0.96) | (along < -0.93)] = BROWN
    return picture


def _pizza_coordinates(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance from the slice's tip (1 at the crust) and the angle."""
    down = v - 0.9
    return np.hypot(u, down) / 1.7, np.arctan2(u, -down)


def _pizza_outline(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    distance, angle = _pizza_coordinates(u, v)
    return (distance < 1) & (np.abs(angle) < 0.46)


def _pizza_texture(u: np.ndarray, v: np.ndarray, rng: Generator) -> np.ndarray:
    picture = _plain(u, _pick(rng, CREAM, CREAM, ORANGE))
    picture += 0.06 * _clouds(len(u), 12, rng)[..., None]
    for middle in ((-0.3, -0.3), (0.28, -0.22), (0.02, 0.12), (-0.02, -0.52)):
        x, y = middle + rng.normal(0, 0.03, 2)
        from_middle = np.hypot(u - x, v - y)
        picture[from_middle < 0.17] = np.array(RED) * 0.75
        picture[from_middle < 0.14] = RED
    for x, y in rng.uniform((-0.4, -0.6), (0.4, 0.6), (6, 2)):  # herbs
        picture[np.hypot(u - x, v - y) < 0.04] = GREEN
    distance, _ = _pizza_coordinates(u, v)
    picture[distance > 0.86] = np.array(BROWN) * rng.uniform(1.3, 1.8)
    return picture


SHAPES = {
    'sports ball': Shape(_ball_outline, _ball_texture, bevel=1.0),
    'stop sign': Shape(_sign_outline, _sign_texture, bevel=0.06),
    'kite': Shape(_kite_outline, _kite_texture, bevel=0.05),
    'banana': Shape(_banana_outline, _banana_texture, bevel=0.3),
    'pizza': Shape(_pizza_outline, _pizza_texture, bevel=0.1),
}


# Backgrounds: duller than the objects, never the same twice.


def _background(side: int, rng: Generator) -> np.ndarray:
    """Blend two dull colours by one of several patterns, at any angle, and roughen."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    angle = rng.uniform(0, 2 * math.pi)
    across = x * math.cos(angle) + y * math.sin(angle)
    along = y * math.cos(angle) - x * math.sin(angle)
    repeats = rng.uniform(3, 9)
    pattern = rng.choice(['gradient', 'blobs', 'stripes', 'tiles', 'planks'])
    if pattern == 'gradient':
        weight = across + 0.5
    elif pattern == 'blobs':
        weight = 0.5 + 2 * _clouds(side, 5, rng)
    elif pattern == 'stripes':
        weight = 0.5 + 0.4 * np.tanh(4 * np.sin(2 * math.pi * repeats * across))
    elif pattern == 'tiles':
        odd = (np.floor(across * repeats) + np.floor(along * repeats)) % 2
        weight = 0.25 + 0.5 * odd
    else:
        plank = np.floor((across + 1) * repeats).astype(int)
        weight = rng.uniform(0, 1, plank.max() + 1).astype(np.float32)[plank]
    first = rng.uniform(0.35, 0.75) + rng.uniform(-0.06, 0.06, 3)
    second = first + rng.uniform(-0.12, 0.12) + rng.uniform(-0.03, 0.03, 3)
    rough = 0.04 * _clouds(side, 8, rng) + 0.03 * _clouds(side, 64, rng)
    canvas = _plain(weight, first)
    canvas += np.clip(weight, 0, 1)[..., None] * (second - first).astype(np.float32)
    canvas += rough[..., None]
    return canvas


def _clouds(side: int, cells: int, rng: Generator) -> np.ndarray:
    """Return smooth noise around 0 with about `cells` bumps along a side."""
    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
