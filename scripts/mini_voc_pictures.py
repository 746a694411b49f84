"""Draws the pictures of a mini-VOC and measures their objects on the pixels drawn.

`Plan` is what is known of a picture before it is drawn, `Picture` what came out. What an object
looks like is `mini_voc_shapes`'. Equal plans give equal pixels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from PIL import Image

from scripts.mini_voc_shapes import (
    SHAPES,
    ByteArray,
    Color,
    FloatArray,
    Pen,
    Point,
    Rng,
    noise,
    pick,
    tint,
)

QUIRKS = (
    *("xmax_first", "fraction", "no_size", "other_filename", "no_pose", "parts", "actions"),
    *("point", "lower_pose", "comments", "empty", "owner", "whole", "box_first", "gray"),
    *("progressive", "tiny", "one_column", "indented", "whole_numbers"),
)
QUIRK_PERIOD = 47
SIZES_WH = ((500, 375), (375, 500), (500, 333), (333, 500), (500, 400), (480, 360), (320, 240))
SIZE_ODDS = (0.45, 0.16, 0.16, 0.07, 0.06, 0.05, 0.05)
TINY_PIXELS = 120  # an object with fewer visible pixels is difficult

Box: TypeAlias = tuple[int, int, int, int]  # xmin, ymin, xmax, ymax from 1, both corners inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is known of a picture before it is drawn."""

    index: int
    key: str
    year: str
    taken: int  # the year in the id: decides which tags its XML may have
    quirk: str
    split: str
    in_main: bool
    in_segmentation: bool
    pixel_seed: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One annotated object, measured on the pixels drawn."""

    name: str
    pose: str
    box: Box
    truncated: bool
    occluded: bool
    difficult: bool
    point: tuple[int, int]
    parts: tuple[tuple[str, Box], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawn picture with its objects; `owner` holds each pixel's object number, 0 for none."""

    image: Image.Image
    owner: ByteArray
    things: tuple[Thing, ...]


def _rng(*key: int | str) -> Rng:
    digest = blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))


def plan_of(index: int, seed: int, year: str) -> Plan:
    """Plan a picture; depends on the arguments alone."""
    rng = _rng("plan", seed, year, index)
    number = 7 * index + int(rng.integers(3, 10))
    taken = int(rng.integers(2008, min(int(year), 2011) + 1)) if year > "2007" else 2007
    in_main = year == "2007" or index % 27 != 24
    taken = taken if in_main else 2007
    position = index % QUIRK_PERIOD
    return Plan(
        index=index,
        key=f"{number:06d}" if year == "2007" else f"{taken}_{number:06d}",
        year=year,
        taken=taken,
        quirk=QUIRKS[position] if position < len(QUIRKS) else "",
        split="val" if index % 2 else "train",
        in_main=in_main,
        in_segmentation=index % 3 == 0,
        pixel_seed=("pixels", seed, "2007" if taken == 2007 else year, index),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A background and the classes in front of it; frequent classes are listed more than once."""

    classes: tuple[str, ...]
    above: tuple[Color, Color]  # from the top of the picture to the horizon
    below: tuple[Color, Color]  # from the horizon to the bottom
    horizon: tuple[float, float]  # its range, in heights of the picture
    rough: tuple[float, float]  # texture above and below the horizon, in grey levels
    hills: float = 0.0
    clutter: tuple[Color, ...] = ()


SCENES = {
    "sky": Scene(
        classes=("aeroplane",),
        above=((84, 140, 208), (190, 212, 230)),
        below=((88, 104, 72), (60, 76, 50)),
        horizon=(0.8, 1.0),
        rough=(9, 14),
        hills=0.03,
    ),
    "sea": Scene(
        classes=("boat", "boat", "boat", "boat", "aeroplane"),
        above=((150, 180, 210), (214, 220, 222)),
        below=((64, 108, 128), (34, 74, 98)),
        horizon=(0.3, 0.5),
        rough=(7, 13),
    ),
    "street": Scene(
        classes=("car", "car", "car", "bus", "bus", "bicycle", "bicycle", "person", "person"),
        above=((170, 190, 210), (206, 206, 202)),
        below=((118, 116, 114), (86, 86, 88)),
        horizon=(0.35, 0.5),
        rough=(5, 10),
        clutter=((150, 130, 116), (178, 166, 150), (120, 116, 120), (140, 104, 90)),
    ),
    "meadow": Scene(
        classes=("sheep", "sheep", "sheep", "sheep", "person", "person", "bicycle", "cat"),
        above=((120, 164, 214), (206, 218, 224)),
        below=((118, 142, 74), (74, 106, 44)),
        horizon=(0.25, 0.45),
        rough=(8, 17),
        hills=0.05,
    ),
    "room": Scene(
        classes=("tvmonitor", "bottle", "pottedplant", "chair", "cat", "person"),
        above=((202, 190, 170), (186, 174, 156)),
        below=((148, 116, 86), (112, 84, 62)),
        horizon=(0.4, 0.6),
        rough=(5, 9),
        clutter=((160, 140, 118), (214, 206, 196), (124, 116, 116)),
    ),
}
SCENE_ODDS = (0.12, 0.14, 0.28, 0.2, 0.26)
QUIRK_SCENES = {"parts": "meadow", "actions": "meadow", "one_column": "meadow", "whole": "room"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An object to be drawn: its class, size and the middle of its foot, in pixels."""

    name: str
    size_wh: Point
    foot: Point
    angle: float = 0.0
    mirrored: bool = False
    one_column: bool = False  # moved to the right until one column of it is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """An object that was drawn."""

    item: Item
    num_pixels: int  # of all of it, also of what lies outside the picture
    num_inside: int  # of what lies inside, also of what later objects cover
    parts: tuple[tuple[str, Box], ...]


@dataclass(slots=True)
class Canvas:
    """The picture while it is drawn."""

    pixels: FloatArray  # [H, W, RGB], 0..255
    owner: ByteArray  # [H, W], 1 + the index into `painted` of the object seen there, 0 for none
    painted: list[Painted] = field(default_factory=list)


def draw_picture(plan: Plan) -> Picture:
    """Draw a picture and measure its objects."""
    rng = _rng(*plan.pixel_seed)
    size_wh = _draw_size(rng) if plan.quirk != "tiny" else (142, 71)
    name = QUIRK_SCENES.get(plan.quirk, str(rng.choice(list(SCENES), p=SCENE_ODDS)))
    horizon = rng.uniform(*SCENES[name].horizon)
    canvas = Canvas(
        _background(SCENES[name], size_wh, horizon, rng), np.zeros(size_wh[::-1], np.uint8)
    )
    if plan.quirk != "empty":
        for item in _items(SCENES[name], plan.quirk, size_wh, horizon, rng):
            _paint(canvas, item, rng)
    things, owner = _measure(canvas)
    light = canvas.pixels * rng.uniform(0.8, 1.12) + rng.uniform(-10, 10)
    light += rng.standard_normal((*size_wh[::-1], 1), dtype=np.float32) * 3  # a sensor's noise
    image = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    image = image.convert("L") if plan.quirk == "gray" else image
    return Picture(image=image, owner=owner, things=things)


def _draw_size(rng: Rng) -> tuple[int, int]:
    width, height = SIZES_WH[int(rng.choice(len(SIZES_WH), p=SIZE_ODDS))]
    if rng.random() < 0.2:
        height = int(height * rng.uniform(0.75, 1.0))
    return width, height


def _background(scene: Scene, size_wh: tuple[int, int], horizon: float, rng: Rng) -> FloatArray:
    """Paint two gradients that meet at the horizon, with texture and unannotated clutter."""
    width, height = size_wh
    hills = scene.hills * noise(rng, (width, 1), 6)
    edge = np.clip(horizon + hills, 0.02, 0.98) * height  # [1, W], the horizon's y
    y = np.arange(height, dtype=np.float32)[:, None]
    is_above = y < edge
    depth = np.where(is_above, y / edge, 1 + (y - edge) / (height - edge))  # 0..1 sky, 1..2 ground
    stops = [tint(rng, color, 14) for color in (*scene.above, *scene.below)]
    ramps = [
        np.linspace(first, last, 256, dtype=np.float32) for first, last in (stops[:2], stops[2:])
    ]
    pixels = np.concatenate(ramps)[(depth * 255.9).astype(np.intp)]
    pixels = _clutter(scene, pixels, horizon, rng)
    above, below = (noise(rng, size_wh, cells, 4) for cells in (3, 9))
    pixels += np.where(is_above, scene.rough[0] * above, scene.rough[1] * below)[..., None]
    return pixels


def _clutter(scene: Scene, pixels: FloatArray, horizon: float, rng: Rng) -> FloatArray:
    """Put blocks on the horizon: houses in a street, furniture and pictures in a room."""
    height, width = pixels.shape[:2]
    for _ in range(int(rng.integers(3, 8)) if scene.clutter else 0):
        left, wide = int(rng.uniform(-0.1, 0.9) * width), int(rng.uniform(0.08, 0.3) * width)
        top = int(rng.uniform(0.05, 0.9) * horizon * height)
        foot = int(horizon * height)
        block = pixels[top:foot, max(left, 0) : max(left + wide, 0)]
        block += (np.array(pick(rng, *scene.clutter), np.float32) - block) * 0.7
    return pixels


def _items(
    scene: Scene, quirk: str, size_wh: tuple[int, int], horizon: float, rng: Rng
) -> Iterator[Item]:
    """Choose the objects, the farthest first; the one in front is near and inside the picture."""
    width, height = size_wh
    if quirk == "whole":  # its frame just outside the picture, its foot far below
        wall_wh, foot = (width * 1.08, height * 1.2), (width * 0.5, height * 1.17)
        yield Item(name="tvmonitor", size_wh=wall_wh, foot=foot)
    num_others = int(rng.choice(5, p=(0.25, 0.28, 0.22, 0.15, 0.1)))
    for near in np.sort(rng.uniform(0.05, 1, num_others)).tolist():
        yield _item(str(rng.choice(scene.classes)), size_wh, horizon, near, rng)
    name = "person" if quirk in ("parts", "actions") else str(rng.choice(scene.classes))
    front = _item(name, size_wh, horizon, rng.uniform(0.6, 1), rng)
    yield _moved_inside(front, size_wh, rng)
    if quirk == "one_column":  # no other bus is in a meadow
        yield Item(
            name="bus", size_wh=(height * 0.6, height * 0.3), foot=(0, height), one_column=True
        )


def _item(name: str, size_wh: tuple[int, int], horizon: float, near: float, rng: Rng) -> Item:
    """Place an object: `near` is 0 at the horizon and 1 in the foreground."""
    shape, (width, height) = SHAPES[name], size_wh
    tall = shape.size * min(size_wh) * 0.8 * (0.1 + 0.9 * near**1.4) * rng.uniform(0.85, 1.15)
    y = horizon + near * (1.06 - horizon) if not shape.flies else rng.uniform(0.25, 0.95) * horizon
    turn = 0.22 if shape.flies else 0.06
    return Item(
        name=name,
        size_wh=(tall * shape.aspect * rng.uniform(0.88, 1.14), tall),
        foot=(rng.uniform(-0.03, 1.03) * width, y * height),
        angle=rng.uniform(-turn, turn),
        mirrored=rng.random() < 0.5,
    )


def _moved_inside(item: Item, size_wh: tuple[int, int], rng: Rng) -> Item:
    wide, tall = item.size_wh
    shrink = min(1.0, 0.82 * size_wh[0] / wide, 0.82 * size_wh[1] / tall)
    wide, tall = wide * shrink, tall * shrink
    x = rng.uniform(0.55 * wide, size_wh[0] - 0.55 * wide)
    y = min(max(item.foot[1], 1.12 * tall), size_wh[1] - 0.06 * tall)
    return replace(item, size_wh=(wide, tall), foot=(x, y))


def _paint(canvas: Canvas, item: Item, rng: Rng) -> None:
    """Draw an item over the picture and record which pixels are its own."""
    shape = SHAPES[item.name]
    pen = Pen(item.size_wh, angle=item.angle, mirrored=item.mirrored)
    shape.draw(pen, rng)
    patch = pen.pixels()
    tall, wide = patch.shape[:2]
    rough = 1 + shape.grain * noise(rng, (wide, tall), shape.cells)
    light = rough * np.linspace(1.12, 0.84, tall, dtype=np.float32)[:, None]
    color = patch[..., :3] * light[..., None]
    alpha = patch[..., 3].astype(np.float32) / 255
    mask = alpha >= 0.5

    height, width = canvas.owner.shape
    left, top = round(item.foot[0] - wide / 2), round(item.foot[1] - item.size_wh[1] / 2 - tall / 2)
    if item.one_column:
        left = width - 1 - int(mask.any(0).argmax())
    rows, columns = slice(max(top, 0), max(top + tall, 0)), slice(max(left, 0), max(left + wide, 0))
    seen = canvas.owner[rows, columns].shape
    first = (max(-top, 0), max(-left, 0))
    cut = tuple(slice(start, start + size) for start, size in zip(first, seen, strict=True))

    parts = [
        (name, _box_around(points, (left, top), (width, height))) for name, points in pen.marks
    ]
    num_pixels, num_inside = int(np.count_nonzero(mask)), int(np.count_nonzero(mask[cut]))
    canvas.painted.append(
        Painted(item=item, num_pixels=num_pixels, num_inside=num_inside, parts=tuple(parts))
    )
    canvas.owner[rows, columns][mask[cut]] = len(canvas.painted)
    under = canvas.pixels[rows, columns]
    under += (color[cut] - under) * alpha[cut][..., None]


def _box_around(points: Sequence[Point], origin: Point, size_wh: tuple[int, int]) -> Box:
    (x1, y1), (x2, y2) = np.min(points, 0) + origin, np.max(points, 0) + origin
    (width, height) = size_wh
    xmin, ymin = np.clip((math.floor(x1) + 1, math.floor(y1) + 1), 1, size_wh).tolist()
    return xmin, ymin, min(max(math.ceil(x2), xmin), width), min(max(math.ceil(y2), ymin), height)


def _measure(canvas: Canvas) -> tuple[tuple[Thing, ...], ByteArray]:
    """Annotate visible objects, and number them again without wholly hidden ones."""
    things: list[Thing] = []
    numbers = np.zeros(len(canvas.painted) + 1, np.uint8)
    for number, painted in enumerate(canvas.painted, start=1):
        ys, xs = np.nonzero(canvas.owner == number)
        if not len(xs):
            continue
        middle = len(xs) // 2
        hidden = len(xs) * 3 < painted.num_pixels
        thing = Thing(
            name=painted.item.name,
            pose=_pose(painted.item),
            box=(int(xs.min()) + 1, int(ys.min()) + 1, int(xs.max()) + 1, int(ys.max()) + 1),
            truncated=painted.num_inside < painted.num_pixels,
            occluded=len(xs) < painted.num_inside,
            difficult=hidden or len(xs) < TINY_PIXELS,
            point=(int(xs[middle]) + 1, int(ys[middle]) + 1),
            parts=painted.parts,
        )
        things.append(thing)
        numbers[number] = len(things)
    return tuple(things), numbers[canvas.owner]


def _pose(item: Item) -> str:
    if not SHAPES[item.name].has_sides:
        return "Frontal" if item.name != "pottedplant" else "Unspecified"
    return "Left" if item.mirrored else "Right"
