"""Renders decoded pictures and masks by a `Plan`: scales, places and recolours them once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from datamodules.pixels.color import ColorChange, recolored
from datamodules.pixels.resample import Span, filled, resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from datamodules.pixels.geometry import Plan

VOID = 255
"""Value of a mask beyond the picture."""
_NOWHERE = -1
"""Index where there is no stored pixel; a valid index, whose value is overwritten."""
_NOTHING = ColorChange()


def render(
    pixels: torch.Tensor | None,
    plan: Plan,
    size_hw: tuple[int, int],
    *,
    change: ColorChange = _NOTHING,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> torch.Tensor:
    """Render a picture.

    Args:
        pixels: uint8 [h, w, 3]: the stored picture, perhaps decoded smaller. None is allowed if the
            view shows nothing of it.
        plan: How it is rendered.
        size_hw: (height, width) of the stored picture.
        change: How colours change; not those of the filled part.
        fill: RGB of what lies beyond the picture.

    Returns:
        uint8 [3, H, W], channels last.
    """
    height, width = plan.size_hw
    if pixels is None or not plan.view.meets(size_hw):
        return filled(plan.size_hw, fill).permute(2, 0, 1)
    rows, columns = spans(plan, size_hw, decoded_factor(pixels.shape[:2], size_hw))
    seen_rows, seen_columns = rows.seen, columns.seen
    if plan.is_flipped:
        seen_columns = slice(width - seen_columns.stop, width - seen_columns.start)
    is_all = (rows.seen, columns.seen) == (slice(0, height), slice(0, width))
    output = (
        torch.empty(height, width, 3, dtype=torch.uint8) if is_all else filled(plan.size_hw, fill)
    )
    seen = output[seen_rows, seen_columns]
    resample(pixels, rows, columns, fill=fill, is_flipped=plan.is_flipped, out=seen)
    if not change.is_nothing:
        recolored(seen, change, out=seen)
    return output.permute(2, 0, 1)


def spans(plan: Plan, size_hw: tuple[int, int], factor: int) -> tuple[Span, Span]:
    """The rows and the columns to scale of a picture that the view shows some of.

    Args:
        plan: How it is rendered.
        size_hw: (height, width) of the stored picture.
        factor: The factor by which it is decoded smaller.
    """
    view, (height, width) = plan.view, plan.scaled_hw
    rows = Span.of(view.top, view.height, size_hw[0], factor, height)
    return rows, Span.of(view.left, view.width, size_hw[1], factor, width)


def decoded_factor(decoded_hw: Sequence[int], size_hw: tuple[int, int]) -> int:
    """The factor by which a picture was decoded smaller.

    Raises:
        ValueError: No factor gives these sides.
    """
    for factor in (1, 2, 4, 8):
        if tuple(decoded_hw) == tuple(-(-side // factor) for side in size_hw):
            return factor
    message = f"pixels {tuple(decoded_hw)} are not those of a picture of (H, W) = {size_hw}"
    raise ValueError(message)


def render_mask(mask: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Render a mask by nearest neighbour; `VOID` beyond the picture.

    Args:
        mask: uint8 [H, W] of the stored picture.
        plan: How it is rendered.

    Returns:
        uint8 [H, W] of the output.
    """
    view, stored = plan.view, mask.numpy()
    (scaled_height, scaled_width), (height, width) = plan.scaled_hw, plan.size_hw
    rows = _nearest_pixels(view.top, view.height, scaled_height, height, len(stored))
    columns = _nearest_pixels(view.left, view.width, scaled_width, width, stored.shape[1])
    if plan.is_flipped:
        columns = columns[::-1]
    found = stored[rows][:, columns]
    for lines, places in ((found, rows), (found.T, columns)):
        is_beyond = places == _NOWHERE
        if is_beyond.any():
            lines[is_beyond] = VOID
    return torch.from_numpy(found)


def _nearest_pixels(
    first: int, length: int, scaled: int, total: int, stored: int
) -> NDArray[np.int64]:
    """int64 [total]: the stored pixel under the middle of each output pixel.

    `_NOWHERE` beyond the picture, and after the first `scaled` pixels, which show the view.
    """
    places = first + ((np.arange(scaled) + 0.5) * (length / scaled)).astype(np.int64)
    if places[0] < 0 or places[-1] >= stored:
        places[(places < 0) | (places >= stored)] = _NOWHERE
    if scaled == total:
        return places
    return np.concatenate([places, np.full(total - scaled, _NOWHERE)])
