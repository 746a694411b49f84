"""Changes colours by one 3 x 4 matrix: out = matrix[:, :3] @ (r, g, b) + matrix[:, 3], in 0 … 255.

Brightness, contrast, saturation, hue and permuted channels are linear in a pixel's colours. So any
chain of them is one product, rounded and clipped once at its end, not at each step. Only contrast
needs more than one pixel: the mean colour of what is seen of the picture, after the steps before.

Hue is a rotation about the axis of greys, which keeps a pixel's mean and its distance from grey.
torchvision rotates hue in HSV, which keeps the largest and smallest channel. At the end of SSD's
range (18 degrees) the two differ by 15 levels in the mean over colours of full saturation, by 4
over those of a quarter, and not at all in greys: docs/concepts/hue.png.
"""

from __future__ import annotations

import math
from ctypes import c_int16, c_int32, c_int64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import torch

from datamodules.pixels.kernels import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ctypes import CDLL

    from numpy.typing import NDArray

LUMA = (0.2989, 0.587, 0.114)
"""Weights of R, G and B in grey, as torchvision rounds those of ITU-R BT.601."""
_MOST, _FARTHEST = 2.0**13, 2.0**23
"""Largest factor and largest offset. A row with a larger factor is scaled down as a whole: with
factors that large, one level decides between black and white anyway."""
_WEIGHTS, _SUMS = 2**15 - 1.5, 2**24 - 384
"""Largest weight in 16 bits and sum in 24 bits, less what rounding three factors may add."""
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorChange:
    """A change of colours, as drawn; None in a field: no change."""

    brightness: float | None = None
    """Factor of all channels."""
    contrast: float | None = None
    """Factor of the distance from the picture's mean grey."""
    saturation: float | None = None
    """Factor of the distance from the pixel's own grey."""
    hue: float | None = None
    """Turns about the axis of greys."""
    channels: tuple[int, int, int] | None = None
    """The channels that become R, G and B."""
    contrast_first: bool = False
    """Whether contrast comes before saturation and hue, or after them."""

    @property
    def is_nothing(self) -> bool:
        """Whether pixels stay as they are."""
        factors = (self.brightness, self.contrast, self.saturation, self.hue)
        return all(factor is None for factor in factors) and self.channels is None

    def matrix(self, mean: Sequence[float]) -> NDArray[np.float32]:
        """The change as float32 [3, 4].

        Args:
            mean: Three numbers, the picture's mean colour in 0 … 255.
        """
        return np.array(self.rows(mean), np.float32)

    def rows(self, mean: Sequence[float]) -> Rows:
        """`matrix` as plain numbers, which is faster for so few."""
        rows, of_mean = self._product()
        grey = sum(share * float(value) for share, value in zip(of_mean, mean, strict=True))
        return [[r, g, b, by * grey] for r, g, b, by in rows]

    def of_any_mean(self) -> NDArray[np.float32]:
        """The change for a mean colour that is not known yet, as float32 [3, 6].

        Each row has the factors of the pixel's r, g and b, and of the mean's r, g and b.
        """
        rows, of_mean = self._product()
        found = [[r, g, b, *(by * share for share in of_mean)] for r, g, b, by in rows]
        return np.array(found, np.float32)

    def _product(self) -> tuple[Rows, list[float]]:
        """All steps in one: (rows, of_mean).

        Each row has the factors of r, g, b and of the grey that contrast keeps. `of_mean` has the
        factors of the mean's r, g and b in that grey.
        """
        rows: Rows = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
        of_mean = [0.0, 0.0, 0.0]
        if self.brightness is not None:
            rows = [[self.brightness * value for value in row] for row in rows]
        if self.contrast is not None and self.contrast_first:
            rows, of_mean = _contrasted(self.contrast, rows)
        if self.saturation is not None:
            rows = _blended(self.saturation, rows, _grey(rows))
        if self.hue is not None:
            rows = _rotated(self.hue, rows)
        if self.contrast is not None and not self.contrast_first:
            rows, of_mean = _contrasted(self.contrast, rows)
        if self.channels is not None:
            rows = [rows[channel] for channel in self.channels]
        return rows, of_mean


Rows: TypeAlias = list[list[float]]
"""Three rows of four numbers, one row for each new colour."""


def _grey(rows: Rows) -> list[float]:
    """The row of the grey of three new colours."""
    of_red, of_green, of_blue = LUMA
    return [of_red * r + of_green * g + of_blue * b for r, g, b in zip(*rows, strict=True)]


def _blended(factor: float, rows: Rows, grey: list[float]) -> Rows:
    """Scale the distances from a grey by a factor."""
    rest = [(1 - factor) * value for value in grey]
    return [[factor * value + g for value, g in zip(row, rest, strict=True)] for row in rows]


def _contrasted(factor: float, rows: Rows) -> tuple[Rows, list[float]]:
    """Scale the distances from the mean's grey; also the factors of its r, g and b."""
    return _blended(factor, rows, [0.0, 0.0, 0.0, 1.0]), _grey(rows)[:3]


def _rotated(turns: float, rows: Rows) -> Rows:
    """Rotate about (1, 1, 1) by Rodrigues' formula; a third of a turn makes red green."""
    cosine, sine = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    even, odd = (1 - cosine) / 3, sine / math.sqrt(3)
    same, less, more = even + cosine, even - odd, even + odd
    columns = list(zip(*rows, strict=True))
    return [
        [of_r * r + of_g * g + of_b * b for r, g, b in columns]
        for of_r, of_g, of_b in ((same, less, more), (more, same, less), (less, more, same))
    ]


def photometric_distortion(
    generator: np.random.Generator,
    *,
    brightness: tuple[float, float] = (0.875, 1.125),
    contrast: tuple[float, float] = (0.5, 1.5),
    saturation: tuple[float, float] = (0.5, 1.5),
    hue: tuple[float, float] = (-0.05, 0.05),
    probability: float = 0.5,
) -> ColorChange:
    """SSD's colour changes, each drawn with the same probability.

    Source: Liu et al. 2016, section 2.2, after Howard 2013; ranges are torchvision's.

    Args:
        generator: The generator to draw from.
        brightness: Range of the factor.
        contrast: Range of the factor; applied before or after saturation and hue, as drawn.
        saturation: Range of the factor.
        hue: Range in turns.
        probability: Probability of each change, and of permuting the channels.
    """
    ranges = (brightness, contrast, saturation, hue)
    draws = generator.random(11).tolist()
    factors = [
        low + (high - low) * draws[2 * i + 1] if draws[2 * i] < probability else None
        for i, (low, high) in enumerate(ranges)
    ]
    return ColorChange(
        brightness=factors[0],
        contrast=factors[1],
        saturation=factors[2],
        hue=factors[3],
        channels=_ORDERS[int(6 * draws[9])] if draws[8] < probability else None,
        contrast_first=draws[10] < 0.5,
    )


def recolored(
    pixels: torch.Tensor, change: ColorChange, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Change the colours of one picture, each to within 0.6 of a level for usual factors.

    `kernels.c` does it where it is compiled, else OpenCV, in the same whole numbers.

    Args:
        pixels: uint8 [H, W, 3], on the CPU.
        change: The change.
        out: uint8 [H, W, 3]: the result is written to it; may be `pixels`. None: new memory.

    Returns:
        uint8 [H, W, 3]; `pixels` itself if there is nothing to change and no `out`.

    Raises:
        ValueError: `pixels` or `out` have another shape or dtype, or are not on the CPU.
    """
    _check(pixels, pixels.shape)
    if out is not None:
        _check(out, pixels.shape)
    if change.is_nothing:
        return pixels if out is None else out.copy_(pixels)
    source = pixels if _is_by_lines(pixels) else pixels.contiguous()
    if out is not None and _is_by_lines(out):
        target = out
    else:
        target = torch.empty(pixels.shape, dtype=torch.uint8)
    height, width = pixels.shape[:2]
    compiled = kernels()
    mean = [0.0, 0.0, 0.0]
    if change.contrast is not None:
        mean = [of_all / (height * width) for of_all in _sums(source, compiled)]
    factors = _whole_numbers(change.rows(mean))
    if compiled is None:
        _recolor(source.numpy(), factors, target.numpy())
    else:
        compiled.voc_recolor(
            *(source.data_ptr(), source.stride(0), height, width),
            *((c_int16 * 9)(*factors.weights), (c_int32 * 3)(*factors.offsets), factors.bits),
            *(target.data_ptr(), target.stride(0)),
        )
    return target if out is None or out is target else out.copy_(target)


def _check(pixels: torch.Tensor, shape: torch.Size) -> None:
    """Refuse pixels of another kind before memory is read or written."""
    is_size = pixels.shape == shape and len(shape) == 3 and shape[2] == 3
    if not (is_size and pixels.dtype == torch.uint8 and pixels.is_cpu):
        found = f"{pixels.dtype} {tuple(pixels.shape)} on {pixels.device}"
        raise ValueError(f"expected uint8 [H, W, 3] of {tuple(shape[:2])} on cpu, found {found}")


def _is_by_lines(pixels: torch.Tensor) -> bool:
    """Whether a line's pixels lie side by side."""
    return pixels.stride()[1:] == (3, 1)


def _sums(pixels: torch.Tensor, compiled: CDLL | None) -> Sequence[float]:
    """The sums of a picture's three channels, whole numbers."""
    if compiled is None:
        return cv2.sumElems(pixels.numpy())[:3]
    found = (c_int64 * 3)()
    compiled.voc_sums(pixels.data_ptr(), pixels.stride(0), *pixels.shape[:2], found)
    return found[:]


class _Factors(NamedTuple):
    """A change in whole numbers: a new colour is (weights @ (r, g, b) + offset) >> bits."""

    weights: list[int]
    """Nine numbers of 16 bits: the factors of r, g and b in R; in G; in B."""
    offsets: list[int]
    """Three numbers, each with the half that rounds."""
    bits: int


def _whole_numbers(rows: Rows) -> _Factors:
    """A change in whole numbers, with at most 13 binary digits after the point.

    Factors fit in 16 bits and sums in 24. Sums of 24 bits are exact in float32 too, in any order.
    """
    sizes = [max(abs(r), abs(g), abs(b)) for r, g, b, _ in rows]
    size = max(sizes)
    if size > _MOST:
        shrinks = [min(1.0, _MOST / of_row) if of_row else 1.0 for of_row in sizes]
        rows = [[shrink * f for f in row] for shrink, row in zip(shrinks, rows, strict=True)]
        size = _MOST
    offsets = [min(max(row[3], -_FARTHEST), _FARTHEST) for row in rows]
    reach = 3 * 255 * size + max(map(abs, offsets))
    bits = 13
    while bits and (size * 2**bits > _WEIGHTS or (reach + 1) * 2**bits > _SUMS):
        bits -= 1
    scale, half = 2.0**bits, 1 << bits >> 1
    weights = [round(factor * scale) for row in rows for factor in row[:3]]
    return _Factors(weights, [round(offset * scale) + half for offset in offsets], bits)


def _recolor(pixels: NDArray[np.uint8], factors: _Factors, out: NDArray[np.uint8]) -> None:
    """Do what the kernel does, by OpenCV."""
    matrix = np.column_stack([np.reshape(factors.weights, (3, 3)), factors.offsets])
    sums: Any = cv2.transform(pixels.astype(np.float32), matrix.astype(np.float32))
    sums *= 2.0**-factors.bits
    np.floor(sums, out=sums)
    out[:] = np.clip(sums, 0, 255, out=sums)
