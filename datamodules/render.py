"""Pictures and masks through a plan: decoded as small as will do, scaled once, put in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from datamodules.color import ColorChange, recolored
from datamodules.resample import Span, filled, resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from datamodules.geometry import Plan

VOID = 255
"""What a mask has where there is no picture."""
_NOTHING = ColorChange()


def render(
    pixels: torch.Tensor | None,
    plan: Plan,
    size_hw: tuple[int, int],
    *,
    change: ColorChange = _NOTHING,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> torch.Tensor:
    """The output of decoded pixels.

    Args:
        pixels: uint8 [h, w, 3]: the stored picture, perhaps decoded smaller. May be None where the
            view shows nothing of it.
        plan: What becomes of it.
        size_hw: (height, width) of the stored picture.
        change: What becomes of its colours; the filled part has none of it.
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
    """What is scaled of the rows and the columns of a picture that the view shows some of.

    Args:
        plan: What becomes of it.
        size_hw: (height, width) of the stored picture.
        factor: By how much it is decoded smaller.
    """
    view, (height, width) = plan.view, plan.scaled_hw
    rows = Span.of(view.top, view.height, size_hw[0], factor, height)
    return rows, Span.of(view.left, view.width, size_hw[1], factor, width)


def decoded_factor(decoded_hw: Sequence[int], size_hw: tuple[int, int]) -> int:
    """By how much a picture was decoded smaller.

    Raises:
        ValueError: These are not the sides of such a picture.
    """
    for factor in (1, 2, 4, 8):
        if tuple(decoded_hw) == tuple(-(-side // factor) for side in size_hw):
            return factor
    message = f"pixels {tuple(decoded_hw)} are not those of a picture of (H, W) = {size_hw}"
    raise ValueError(message)


def render_mask(mask: torch.Tensor, plan: Plan) -> torch.Tensor:
    """A mask through the same plan, by nearest neighbour; `VOID` beyond the picture.

    Args:
        mask: uint8 [H, W] of the stored picture.
        plan: What becomes of it.

    Returns:
        uint8 [H, W] of the output.
    """
    (height, width), view = plan.scaled_hw, plan.view
    rows = _nearest_pixels(view.top, view.height, height)
    columns = _nearest_pixels(view.left, view.width, width)
    stored = mask.numpy()
    last_row, last_column = stored.shape[0] - 1, stored.shape[1] - 1
    is_inside = min(rows[0], columns[0]) >= 0  # neither ever turns back
    if is_inside and rows[-1] <= last_row and columns[-1] <= last_column:
        part = stored[rows][:, columns]
    else:
        part = stored[rows.clip(0, last_row)][:, columns.clip(0, last_column)]
        part[(rows < 0) | (rows > last_row)] = VOID
        part[:, (columns < 0) | (columns > last_column)] = VOID
    if (height, width) != plan.size_hw:
        inner, part = part, np.full(plan.size_hw, VOID, np.uint8)
        part[:height, :width] = inner
    return torch.from_numpy(part[:, ::-1].copy() if plan.is_flipped else part)


def _nearest_pixels(first: int, length: int, scaled: int) -> NDArray[np.int64]:
    """int64 [scaled]: the stored pixel under the middle of each output pixel."""
    return first + ((np.arange(scaled) + 0.5) * (length / scaled)).astype(np.int64)
