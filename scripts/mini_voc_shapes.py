"""Draws the objects of `scripts/mini_voc.py`: one small function for each class.

It decides how an object looks: its outline, colours and texture. `mini_voc_pictures` decides where
objects stand and annotates them. A class keeps its shape and its range of colours, so that
a small detector can learn it; colours, limbs and leaves vary with the generator passed in.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Rng: TypeAlias = np.random.Generator
FloatArray: TypeAlias = npt.NDArray[np.float32]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
Color: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]


class Pen:
    """Draws one object on a patch of its own, larger than needed on every side.

    Points are in units of the object: (0, 0) its top left, (1, 1) its bottom right. Small objects
    are drawn 4 times, others 2 times as large as they will be, which smooths their edges.
    """

    def __init__(self, size_wh: Point, *, angle: float, mirrored: bool) -> None:
        """Take the object's size in pixels and its turn in radians, clockwise."""
        self.size_wh, self.angle, self.mirrored = size_wh, angle, mirrored
        self.fine = 4 if max(size_wh) < 120 else 2
        reach = abs(math.sin(angle)) * max(size_wh) + 6
        self.patch_wh = (
            math.ceil(size_wh[0] * 1.04 + reach),
            math.ceil(size_wh[1] * 1.04 + reach),
        )
        self.marks: list[tuple[str, list[Point]]] = []
        fine_wh = (self.patch_wh[0] * self.fine, self.patch_wh[1] * self.fine)
        self._image = Image.new("RGBA", fine_wh, (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._image)

    def place(self, points: Iterable[Point]) -> list[Point]:
        """Units of the object -> pixels of the patch."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        placed = []
        for x, y in points:
            across = (x - 0.5) * self.size_wh[0] * (-1 if self.mirrored else 1)
            down = (y - 0.5) * self.size_wh[1]
            placed.append(
                (
                    across * cos - down * sin + self.patch_wh[0] / 2,
                    across * sin + down * cos + self.patch_wh[1] / 2,
                )
            )
        return placed

    def _fine_points(self, points: Iterable[Point]) -> list[Point]:
        return [(x * self.fine, y * self.fine) for x, y in self.place(points)]

    def poly(self, points: Iterable[Point], color: Color) -> None:
        """A filled polygon."""
        self._draw.polygon(self._fine_points(points), fill=(*color, 255))

    def box(
        self, x1: float, y1: float, x2: float, y2: float, color: Color, *, cut: float = 0.0
    ) -> None:
        """A filled box, its corners cut by `cut` of its width and height."""
        dx, dy = cut * (x2 - x1), cut * (y2 - y1)
        top, low = [(x1, y1 + dy), (x1 + dx, y1)], [(x2, y2 - dy), (x2 - dx, y2)]
        self.poly([*top, (x2 - dx, y1), (x2, y1 + dy), *low, (x1 + dx, y2), (x1, y2 - dy)], color)

    def oval(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """A filled ellipse round (x, y)."""
        self.poly(_circle(x, y, rx, ry), color)

    def stroke(self, points: Iterable[Point], width: float, color: Color) -> None:
        """A line with round ends; its width is in heights of the object."""
        fine = self._fine_points(points)
        thick = max(self.fine, round(width * self.size_wh[1] * self.fine))
        self._draw.line(fine, fill=(*color, 255), width=thick, joint="curve")
        for x, y in (fine[0], fine[-1]):
            self._draw.circle((x, y), thick / 2, fill=(*color, 255))

    def mark(self, name: str, x: float, y: float, rx: float, ry: float) -> None:
        """Name a part of the object, for `part` tags."""
        self.marks.append((name, self.place(_circle(x, y, rx, ry))))

    def pixels(self) -> ByteArray:
        """The patch as uint8 [H, W, RGBA] in its final size."""
        return np.asarray(self._image.reduce(self.fine))


def _circle(x: float, y: float, rx: float, ry: float) -> list[Point]:
    turns = [math.tau * step / 40 for step in range(40)]
    return [(x + rx * math.cos(turn), y + ry * math.sin(turn)) for turn in turns]


def noise(rng: Rng, size_wh: tuple[int, int], cells: int, octaves: int = 3) -> FloatArray:
    """Smooth noise, float32 [H, W], of mean 0 and spread about 1, with `cells` blobs per side."""
    total = np.zeros(size_wh[::-1], np.float32)
    for octave in range(octaves):
        side = cells << octave
        coarse = Image.fromarray(rng.standard_normal((side, side), dtype=np.float32))
        total += np.asarray(coarse.resize(size_wh, Image.Resampling.BICUBIC)) * 0.55**octave
    return total


def tint(rng: Rng, color: Color, spread: int = 16) -> Color:
    """A colour near another: lighter or darker by `spread`, its channels apart by a third of it."""
    values = np.array(color) + rng.uniform(-spread, spread) + rng.uniform(-1, 1, 3) * spread / 3
    red, green, blue = np.clip(values, 0, 255).astype(int).tolist()
    return red, green, blue


def pick(rng: Rng, *colors: Color) -> Color:
    """A colour near one of those given."""
    return tint(rng, colors[int(rng.integers(len(colors)))])


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = (min(255, round(value * factor)) for value in color)
    return red, green, blue


# --- The shapes -------------------------------------------------------------------------------


def _aeroplane(pen: Pen, rng: Rng) -> None:
    metal, stripe = tint(rng, (196, 200, 208)), pick(rng, (30, 60, 140), (170, 30, 40))
    pen.poly([(0.44, 0.5), (0.6, 0.5), (0.47, 0.08), (0.39, 0.08)], _shade(metal, 0.7))
    pen.poly([(0.02, 0.1), (0.12, 0.1), (0.27, 0.5), (0.08, 0.55)], stripe)
    pen.oval(0.53, 0.55, 0.47, 0.16, metal)
    pen.poly([(0.04, 0.46), (0.4, 0.42), (0.4, 0.68), (0.14, 0.62)], metal)
    pen.poly([(0.9, 0.46), (0.96, 0.52), (0.86, 0.52), (0.86, 0.46)], (40, 50, 70))
    for step in range(9):
        pen.oval(0.28 + step * 0.06, 0.52, 0.012, 0.03, (50, 60, 80))
    pen.poly([(0.42, 0.6), (0.62, 0.6), (0.36, 0.98), (0.27, 0.98)], _shade(metal, 0.85))


def _bicycle(pen: Pen, rng: Rng) -> None:
    frame = pick(rng, (200, 30, 40), (30, 130, 60), (30, 60, 180))
    for x in (0.22, 0.78):
        ring = _circle(x, 0.67, 0.2, 0.31)
        pen.stroke([*ring, ring[0]], 0.05, (30, 30, 32))
        pen.oval(x, 0.67, 0.025, 0.04, (120, 120, 125))
    pen.stroke([(0.22, 0.67), (0.4, 0.3), (0.7, 0.3), (0.5, 0.7), (0.22, 0.67)], 0.06, frame)
    pen.stroke([(0.5, 0.7), (0.38, 0.2)], 0.06, frame)
    pen.stroke([(0.78, 0.67), (0.68, 0.12), (0.78, 0.06)], 0.05, _shade(frame, 0.6))
    pen.stroke([(0.31, 0.18), (0.45, 0.18)], 0.08, (40, 30, 28))


def _boat(pen: Pen, rng: Rng) -> None:
    hull = pick(rng, (240, 240, 235), (150, 60, 40), (40, 70, 120))
    sail = tint(rng, (244, 240, 226), 10)
    pen.box(0.47, 0.0, 0.5, 0.8, (110, 84, 58))
    pen.poly([(0.52, 0.03), (0.92, 0.66), (0.52, 0.66)], sail)
    pen.poly([(0.45, 0.12), (0.45, 0.66), (0.12, 0.66)], _shade(sail, 0.86))
    pen.poly([(0.0, 0.74), (1.0, 0.7), (0.84, 1.0), (0.16, 1.0)], hull)
    pen.poly([(0.03, 0.79), (0.97, 0.76), (0.95, 0.82), (0.06, 0.84)], _shade(hull, 0.6))


def _bottle(pen: Pen, rng: Rng) -> None:
    glass = pick(rng, (24, 92, 48), (104, 58, 22), (56, 110, 120))
    pen.box(0.34, 0.02, 0.66, 0.5, glass, cut=0.08)
    pen.box(0.3, 0.0, 0.7, 0.08, pick(rng, (190, 160, 60), (180, 30, 30)))
    pen.poly([(0.34, 0.26), (0.66, 0.26), (1.0, 0.46), (0.0, 0.46)], glass)
    pen.box(0.0, 0.42, 1.0, 1.0, glass, cut=0.06)
    pen.box(0.0, 0.55, 1.0, 0.82, tint(rng, (226, 216, 190)))
    pen.box(0.15, 0.64, 0.85, 0.7, _shade(glass, 1.3))
    pen.box(0.12, 0.44, 0.24, 0.54, _shade(glass, 1.8), cut=0.3)


def _bus(pen: Pen, rng: Rng) -> None:
    paint = pick(rng, (196, 28, 30), (206, 44, 22), (176, 22, 40))
    pen.box(0.0, 0.0, 1.0, 0.9, paint, cut=0.05)
    pen.box(0.0, 0.5, 1.0, 0.56, tint(rng, (236, 220, 190)))
    for step in range(6):
        x = 0.03 + step * 0.14
        pen.box(x, 0.12, x + 0.12, 0.44, tint(rng, (70, 96, 116), 12), cut=0.06)
    pen.box(0.88, 0.12, 0.99, 0.8, (58, 76, 92), cut=0.05)
    for x in (0.2, 0.74):
        pen.oval(x, 0.87, 0.065, 0.13, (26, 26, 28))
        pen.oval(x, 0.87, 0.03, 0.06, (150, 150, 150))


def _car(pen: Pen, rng: Rng) -> None:
    paint = pick(rng, (30, 70, 170), (190, 192, 196), (44, 46, 50), (36, 120, 80))
    pen.poly([(0.2, 0.46), (0.32, 0.02), (0.68, 0.0), (0.84, 0.46)], paint)
    pen.poly([(0.26, 0.42), (0.35, 0.1), (0.49, 0.1), (0.49, 0.42)], (150, 186, 204))
    pen.poly([(0.53, 0.42), (0.53, 0.1), (0.66, 0.09), (0.77, 0.42)], (150, 186, 204))
    pen.box(0.0, 0.4, 1.0, 0.82, paint, cut=0.14)
    pen.box(0.0, 0.7, 1.0, 0.8, _shade(paint, 0.6), cut=0.2)
    pen.oval(0.97, 0.54, 0.025, 0.06, (250, 240, 180))
    for x in (0.21, 0.79):
        pen.oval(x, 0.79, 0.1, 0.21, (24, 24, 26))
        pen.oval(x, 0.79, 0.05, 0.105, (170, 172, 176))


def _cat(pen: Pen, rng: Rng) -> None:
    fur = pick(rng, (204, 128, 52), (120, 112, 106), (60, 54, 52))
    dark = _shade(fur, 0.62)
    pen.stroke([(0.75, 0.9), (0.95, 0.75), (0.93, 0.5)], 0.09, dark)
    pen.oval(0.5, 0.7, 0.34, 0.3, fur)
    for x in (0.22, 0.62):
        pen.poly([(x - 0.04, 0.3), (x + 0.02, 0.0), (x + 0.19, 0.18)], dark)
    for y in (0.58, 0.7, 0.82):
        pen.stroke([(0.64, y), (0.8, y - 0.03)], 0.03, dark)
    for x in (0.36, 0.64):
        pen.oval(x, 0.94, 0.12, 0.06, _shade(fur, 1.25))
    pen.oval(0.5, 0.3, 0.3, 0.2, fur)
    for x in (0.38, 0.62):
        pen.oval(x, 0.28, 0.06, 0.045, (190, 210, 70))
        pen.oval(x, 0.28, 0.02, 0.045, (10, 10, 10))
    pen.poly([(0.46, 0.36), (0.54, 0.36), (0.5, 0.4)], (220, 120, 120))


def _chair(pen: Pen, rng: Rng) -> None:
    wood = pick(rng, (150, 96, 50), (110, 66, 34))
    seat = pick(rng, (96, 40, 110), (90, 30, 40))
    for x, foot in ((0.2, 0.12), (0.86, 0.94)):
        pen.stroke([(x, 0.6), (foot, 0.97)], 0.05, _shade(wood, 0.8))
    pen.stroke([(0.14, 0.02), (0.14, 0.96)], 0.05, wood)
    pen.stroke([(0.72, 0.02), (0.76, 0.96)], 0.05, wood)
    for y in (0.06, 0.2, 0.34):
        pen.box(0.12, y, 0.75, y + 0.07, wood)
    pen.poly([(0.08, 0.56), (0.72, 0.5), (0.96, 0.58), (0.92, 0.66), (0.1, 0.66)], seat)


def _person(pen: Pen, rng: Rng) -> None:
    skin = pick(rng, (232, 190, 160), (150, 100, 70), (96, 62, 42))
    shirt = pick(rng, (230, 200, 50), (40, 160, 190), (220, 110, 40), (150, 60, 150))
    trousers = pick(rng, (40, 50, 90), (60, 56, 52))
    raised = rng.uniform(0.18, 0.6)
    for hip, foot in ((0.42, 0.26), (0.58, 0.74)):
        pen.stroke([(hip, 0.55), ((hip + foot) / 2, 0.76), (foot, 0.94)], 0.1, trousers)
        pen.oval(foot + 0.03, 0.965, 0.12, 0.03, (40, 30, 26))
        pen.mark("foot", foot + 0.03, 0.965, 0.12, 0.035)
    for elbow, hand, y in ((0.2, 0.1, raised), (0.84, 0.92, 0.56)):
        pen.stroke([(0.5, 0.24), (elbow, 0.4), (hand, y)], 0.065, _shade(shirt, 0.8))
        pen.oval(hand, y, 0.08, 0.032, skin)
        pen.mark("hand", hand, y, 0.1, 0.04)
    pen.poly([(0.24, 0.2), (0.76, 0.2), (0.7, 0.6), (0.3, 0.6)], shirt)
    pen.box(0.44, 0.13, 0.56, 0.22, skin)
    pen.oval(0.5, 0.085, 0.17, 0.085, pick(rng, (50, 34, 24), (150, 110, 50)))
    pen.oval(0.5, 0.1, 0.15, 0.075, skin)
    pen.mark("head", 0.5, 0.085, 0.19, 0.1)


def _pottedplant(pen: Pen, rng: Rng) -> None:
    leaf = tint(rng, (50, 124, 48))
    for turn in np.linspace(-1.25, 1.25, int(rng.integers(7, 11))).tolist():
        tip = (0.5 + 0.42 * math.sin(turn), 0.62 - 0.56 * math.cos(turn) * rng.uniform(0.75, 1))
        color = _shade(leaf, rng.uniform(0.7, 1.3))
        pen.stroke([(0.5, 0.66), tip], 0.03, color)
        pen.oval((tip[0] + 0.5) / 2, (tip[1] + 0.6) / 2, 0.09, 0.13, color)
        pen.oval(tip[0], tip[1] + 0.04, 0.1, 0.09, color)
    pot = tint(rng, (184, 92, 54))
    pen.poly([(0.24, 0.66), (0.76, 0.66), (0.67, 1.0), (0.33, 1.0)], pot)
    pen.box(0.2, 0.62, 0.8, 0.71, _shade(pot, 1.12))


def _sheep(pen: Pen, rng: Rng) -> None:
    wool, face = tint(rng, (232, 228, 214), 10), pick(rng, (46, 42, 40), (120, 96, 76))
    for x in (0.24, 0.36, 0.6, 0.7):
        pen.box(x, 0.7, x + 0.06, 1.0, face)
    for x, y in _circle(0.46, 0.44, 0.34, 0.28)[::3]:
        pen.oval(x, y, 0.11, 0.15, _shade(wool, rng.uniform(0.86, 1.04)))
    pen.oval(0.46, 0.44, 0.36, 0.3, wool)
    for _ in range(12):
        x, y = rng.uniform(0.2, 0.72), rng.uniform(0.25, 0.66)
        pen.oval(x, y, 0.07, 0.09, _shade(wool, rng.uniform(0.88, 1.05)))
    pen.oval(0.88, 0.34, 0.11, 0.17, face)
    pen.poly([(0.76, 0.2), (0.68, 0.32), (0.82, 0.32)], face)
    pen.oval(0.91, 0.3, 0.015, 0.025, (240, 240, 240))


def _tvmonitor(pen: Pen, rng: Rng) -> None:
    case = pick(rng, (32, 32, 34), (70, 70, 74))
    pen.poly([(0.42, 0.8), (0.58, 0.8), (0.7, 1.0), (0.3, 1.0)], _shade(case, 0.8))
    pen.box(0.0, 0.0, 1.0, 0.88, case, cut=0.03)
    top = tint(rng, (60, 130, 210))
    for step in range(8):
        y = 0.06 + step * 0.092
        pen.box(0.05, y, 0.95, y + 0.094, _shade(top, 1.25 - step * 0.1))
    pen.poly([(0.05, 0.06), (0.4, 0.06), (0.05, 0.5)], _shade(top, 1.6))


@dataclass(frozen=True, slots=True)
class Shape:
    """How a class is drawn: its size is its height, in heights of a person standing near."""

    draw: Callable[[Pen, Rng], None]
    aspect: float  # width / height
    size: float
    grain: float = 0.06  # how rough its surface is
    cells: int = 6  # ... and how fine
    has_sides: bool = False  # faces left or right
    flies: bool = False


SHAPES = {
    "aeroplane": Shape(_aeroplane, 2.5, 0.5, 0.03, has_sides=True, flies=True),
    "bicycle": Shape(_bicycle, 1.55, 0.62, has_sides=True),
    "boat": Shape(_boat, 1.0, 0.9, 0.05, has_sides=True),
    "bottle": Shape(_bottle, 0.32, 0.7, 0.08),
    "bus": Shape(_bus, 2.0, 0.72, 0.05, has_sides=True),
    "car": Shape(_car, 2.1, 0.46, 0.05, has_sides=True),
    "cat": Shape(_cat, 0.8, 0.6, 0.16, 24),
    "chair": Shape(_chair, 0.62, 0.85, 0.1, 12),
    "person": Shape(_person, 0.44, 1.05, 0.08, 10),
    "pottedplant": Shape(_pottedplant, 0.8, 0.75, 0.12, 14),
    "sheep": Shape(_sheep, 1.4, 0.55, 0.14, 30, has_sides=True),
    "tvmonitor": Shape(_tvmonitor, 1.35, 0.62, 0.03),
}
