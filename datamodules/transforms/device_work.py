"""Says what a worker leaves to the device to do to a picture, as plain numbers.

The worker draws everything, by the sample's key. The numbers travel with the batch and say how
pixels are scaled and colours are changed. `datamodules.finish` does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from datamodules.pixels.render import Rendering
from datamodules.pixels.upright import turned_size

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from datamodules.pixels.color import ColorChange
    from datamodules.pixels.geometry import Plan

_NOTHING_SEEN = (slice(0, 0), slice(0, 0))


class DeviceWork(NamedTuple):
    """What the device has to do to one picture."""

    size_hw: tuple[int, int]
    """(height, width) of the output."""
    fill: tuple[int, int, int]
    """RGB of what lies beyond the picture; no colour change applies to it."""
    seen: tuple[slice, slice]
    """Rows and columns of the output that show something of the picture."""
    colors: NDArray[np.float32] | None
    """float32 [3, 6], see `ColorChange.of_any_mean`; None: colours do not change."""
    sent: tuple[int, ...] | None = None
    """Shape of what is sent instead of the output: (n,) bytes of a JPEG file, n = 0 if nothing of
    the picture is seen; (h, w, 3) if the worker had to decode it. None: the output is sent."""
    rendering: Rendering | None = None
    """How what is sent is rendered; None: nothing of it is seen, or the worker rendered it."""


def work_for_device(
    pixels: torch.Tensor | None,
    plan: Plan,
    size_hw: tuple[int, int],
    *,
    change: ColorChange,
    fill: tuple[int, int, int],
    is_rendered: bool,
    orientation: int = 1,
) -> DeviceWork:
    """The device work of one stored picture.

    Args:
        pixels: The decoded picture, uint8 [h, w, 3], or the JPEG file, uint8 [n]; None: nothing of
            it is seen.
        plan: How the upright picture is rendered.
        size_hw: (height, width) of the upright picture.
        change: How its colours change.
        fill: RGB of what lies beyond it.
        is_rendered: Whether the worker renders it, so that only colours are left.
        orientation: EXIF orientation of the stored picture.
    """
    colors = None if change.is_nothing else change.of_any_mean()
    if pixels is None:
        sent = None if is_rendered else (0,)
        return DeviceWork(plan.size_hw, fill, _NOTHING_SEEN, None, sent)
    is_file = pixels.ndim == 1
    decoded_hw = turned_size(size_hw, orientation) if is_file else pixels.shape[:2]
    rendering = Rendering.of(plan, size_hw, decoded_hw, orientation)
    left = DeviceWork(plan.size_hw, fill, rendering.seen, colors)
    return left if is_rendered else left._replace(sent=tuple(pixels.shape), rendering=rendering)
