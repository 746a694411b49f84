"""Colour changes as one 3 x 4 matrix: out = matrix[:, :3] @ (r, g, b) + matrix[:, 3], in 0 … 255.

Brightness, contrast, saturation, hue and permuted channels are linear in a pixel's colours, so any
chain of them is one product, with one rounding and one clipping at its end instead of one at each
step. Only contrast looks at more than one pixel: at the mean colour of what is seen of the picture,
which goes through the steps before it as any other colour does.

Hue is a rotation about the axis of greys, which keeps a pixel's mean and its distance from grey.
torchvision rotates hue in HSV, which keeps the largest and smallest channel instead. At the end of
SSD's range (18 degrees) the two differ by 15 levels in the mean over colours of full saturation, by
4 over those of a quarter, and not at all in greys: docs/concepts/hue.png.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

LUMA = np.array([0.2989, 0.587, 0.114])
"""Weights of R, G and B in grey, as torchvision rounds those of ITU-R BT.601."""
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorChange:
    """A drawn change of colours; None: left as it is."""

    brightness: float | None = None
    """Factor of all channels."""
    contrast: float | None = None
    """Factor of the distance from the picture's mean grey."""
    saturation: float | None = None
    """Factor of the distance from the pixel's own grey."""
    hue: float | None = None
    """Turns about the grey axis."""
    channels: tuple[int, int, int] | None = None
    """Which channel becomes R, G and B."""
    contrast_first: bool = False
    """Contrast before saturation and hue, else after them."""

    @property
    def is_nothing(self) -> bool:
        """Whether pixels stay as they are."""
        factors = (self.brightness, self.contrast, self.saturation, self.hue)
        return all(factor is None for factor in factors) and self.channels is None

    def matrix(self, mean: NDArray[np.floating]) -> NDArray[np.float32]:
        """The change as float32 [3, 4].

        Args:
            mean: float [3], the picture's mean colour in 0 … 255.
        """
        of_mean = np.zeros((4, 4))
        of_mean[:, 3] = *mean, 1.0
        return self._product(of_mean)

    def of_any_mean(self) -> NDArray[np.float32]:
        """The change where the mean colour is not known yet, as float32 [3, 7].

        What the pixel's r, g and b, the mean's r, g and b, and 1 each add to a new colour.
        """
        return self._product(np.eye(7)[[3, 4, 5, 3, 4, 5, 6]])

    def _product(self, of_mean: Matrix) -> NDArray[np.float32]:
        """All steps, as float32 [3, n], over colours as n numbers of which the last is 1.

        Args:
            of_mean: float [n, n]: makes of any colour the mean one.
        """
        found = np.eye(3, len(of_mean))
        steps = ["brightness", "saturation", "hue"]
        steps.insert(1 if self.contrast_first else 3, "contrast")
        for step in steps:
            factor = getattr(self, step)
            if factor is not None:
                found = _STEPS[step](factor, found, of_mean)
        if self.channels is not None:
            found = found[list(self.channels)]
        return found.astype(np.float32)


# Each takes its factor, the change before it [3, n], and what makes any colour the mean one [n, n].

Matrix: TypeAlias = "NDArray[np.float64]"


def _brightness(factor: float, before: Matrix, of_mean: Matrix) -> Matrix:  # noqa: ARG001
    return factor * before


def _contrast(factor: float, before: Matrix, of_mean: Matrix) -> Matrix:
    return factor * before + (1 - factor) * (LUMA @ (before @ of_mean))


def _saturation(factor: float, before: Matrix, of_mean: Matrix) -> Matrix:  # noqa: ARG001
    return factor * before + (1 - factor) * (LUMA @ before)


def _hue(turns: float, before: Matrix, of_mean: Matrix) -> Matrix:  # noqa: ARG001
    """Rodrigues' rotation about (1, 1, 1); a third of a turn makes red green."""
    cosine, sine = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    even, odd = (1 - cosine) / 3, sine / math.sqrt(3)
    same, less, more = even + cosine, even - odd, even + odd
    rotation = np.array([[same, less, more], [more, same, less], [less, more, same]])
    return rotation @ before


_STEPS = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
}


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
        generator: What draws.
        brightness: Range of the factor.
        contrast: Range of the factor; before or after saturation and hue, as is drawn.
        saturation: Range of the factor.
        hue: Range in turns.
        probability: Of each change, and of permuting the channels.
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
    """Change the colours of one picture, each to within 0.9 of a level: factors have 10 bits.

    Args:
        pixels: uint8 [H, W, 3], a line's pixels side by side.
        change: What is to be changed.
        out: Where the result is written, which may be `pixels`; None: in memory of its own.

    Returns:
        uint8 [H, W, 3]; `pixels` itself where there is nothing to change and no `out`.
    """
    if change.is_nothing:
        return pixels if out is None else out.copy_(pixels)
    values = pixels.numpy()
    mean = (0.0, 0.0, 0.0)
    if change.contrast is not None:
        mean = cv2.mean(values)[:3]
    # One pass over the pixels, which no chain of torch's or NumPy's operations is.
    target = None if out is None else out.numpy()
    return torch.from_numpy(cv2.transform(values, change.matrix(np.array(mean)), target))
