"""Colour changes as one 3 x 4 matrix: out = matrix[:, :3] @ (r, g, b) + matrix[:, 3], in 0 … 255.

Brightness, contrast, saturation, hue and permuted channels are linear in a pixel's colours, so any
chain of them is one product, with one rounding and one clipping at its end instead of one at each
step. Only contrast looks at the whole picture, at its mean colour, which goes through the
steps before it as any other colour does.

Hue is a rotation about the axis of greys, which keeps a pixel's mean and its distance from grey.
torchvision rotates hue in HSV, which keeps the largest and smallest channel instead: for its
default range (18 degrees either way) the two differ by a few grey levels in saturated colours, and
not at all in grey ones.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

LUMA = (0.2989, 0.587, 0.114)
"""Weights of R, G and B in grey, as torchvision rounds those of ITU-R BT.601."""
_STEPS_BETWEEN = (17, 19, 23)
"""Every so many pixels are looked at for the mean: the first that is no divisor of the width, so
that columns take turns."""
_BLOCK = 4
"""Pixels multiplied at a time: matrix products of 3 columns alone are slow."""


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
        found = np.eye(4)
        steps = ["brightness", "saturation", "hue"]
        steps.insert(1 if self.contrast_first else 3, "contrast")
        for step in steps:
            factor = getattr(self, step)
            if factor is not None:
                found = _STEPS[step](factor, found @ [*mean, 1.0]) @ found
        if self.channels is not None:
            found = found[[*self.channels, 3]]
        return found[:3].astype(np.float32)


def _brightness(factor: float, mean: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: ARG001
    return np.diag([factor, factor, factor, 1.0])


def _contrast(factor: float, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    found = np.diag([factor, factor, factor, 1.0])
    found[:3, 3] = (1 - factor) * (mean[:3] @ LUMA)
    return found


def _saturation(factor: float, mean: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: ARG001
    found = np.diag([factor, factor, factor, 1.0])
    found[:3, :3] += (1 - factor) * np.array(LUMA)
    return found


def _hue(turns: float, mean: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: ARG001
    """Rodrigues' rotation about (1, 1, 1); a third of a turn makes red green."""
    cosine, sine = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    found = np.eye(4)
    found[:3, :3] = cosine * np.eye(3) + sine * across + (1 - cosine) / 3
    return found


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
    draws = generator.random(10).tolist()
    factors = [
        low + (high - low) * draws[2 * i + 1] if draws[2 * i] < probability else None
        for i, (low, high) in enumerate(ranges)
    ]
    first, second, third = generator.permutation(3).tolist()
    return ColorChange(
        brightness=factors[0],
        contrast=factors[1],
        saturation=factors[2],
        hue=factors[3],
        channels=(first, second, third) if draws[8] < probability else None,
        contrast_first=draws[9] < 0.5,
    )


def recolored(pixels: torch.Tensor, change: ColorChange) -> torch.Tensor:
    """Change the colours of one picture.

    Args:
        pixels: uint8 [H, W, 3], contiguous.
        change: What is to be changed.

    Returns:
        uint8 [H, W, 3]; `pixels` itself where there is nothing to change.
    """
    if change.is_nothing:
        return pixels
    mean = np.zeros(3)
    if change.contrast is not None:
        step = next((s for s in _STEPS_BETWEEN if pixels.shape[1] % s), 1)
        mean = pixels.view(-1, 3)[::step].to(torch.float32).mean(0).numpy()
    matrix = change.matrix(mean)
    columns = torch.from_numpy(np.kron(np.eye(_BLOCK, dtype=np.float32), matrix[:, :3].T))
    flat = pixels.view(-1)
    blocks = -(-flat.numel() // (3 * _BLOCK))
    before, after = _scratch.of(blocks)
    before.view(-1)[: flat.numel()].copy_(flat)
    torch.mm(before, columns, out=after)
    # Greys stay greys, so the three offsets are one. A half more rounds, as what follows cuts off.
    after.add_(float(matrix[0, 3]) + 0.5).clamp_(0, 255)
    changed = np.empty(flat.numel(), np.uint8)  # NumPy's cast takes a quarter of torch's time
    np.copyto(changed, after.view(-1)[: flat.numel()].numpy(), casting="unsafe")
    return torch.from_numpy(changed).view(pixels.shape)


class _Scratch(threading.local):
    """Two float32 [blocks, 3 * _BLOCK], kept: fresh memory costs as much as the product."""

    def __init__(self) -> None:
        self._memory = torch.zeros(2, 0)

    def of(self, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = blocks * 3 * _BLOCK
        if self._memory.shape[1] < size:
            self._memory = torch.zeros(2, size)
        before, after = (memory[:size].view(blocks, 3 * _BLOCK) for memory in self._memory)
        return before, after


_scratch = _Scratch()
