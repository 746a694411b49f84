"""Pictures and masks through a plan: decoded as small as will do, scaled once, put in place.

What is scaled and what comes of it are rectangles of whole pixels that stand for one place (see
`_Span`), so pictures keep to their boxes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from datamodules.color import ColorChange, recolored
from datamodules.decode import decode_scaled
from datamodules.geometry import decode_factor

if TYPE_CHECKING:
    from datamodules.geometry import Plan

VOID = 255
"""What a mask has where there is no picture."""
_NOTHING = ColorChange()
_MARGIN = 8
"""Pixels more that may be scaled, to meet the output's grid."""


def render_jpeg(
    content: bytes | memoryview,
    plan: Plan,
    size_hw: tuple[int, int],
    *,
    place: str,
    change: ColorChange = _NOTHING,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> torch.Tensor:
    """A stored picture's output.

    Args:
        content: The file's bytes.
        plan: What becomes of it.
        size_hw: (height, width) of the stored picture.
        place: What errors call it.
        change: What becomes of its colours; the filled part has none of it.
        fill: RGB of what lies beyond the picture.

    Returns:
        uint8 [3, H, W], channels last.

    Raises:
        SampleError: As `decode_image`.
    """
    pixels = decode_scaled(content, decode_factor(plan, size_hw), place=place)
    return render(torch.from_numpy(pixels), plan, size_hw, change=change, fill=fill)


def render(
    pixels: torch.Tensor,
    plan: Plan,
    size_hw: tuple[int, int],
    *,
    change: ColorChange = _NOTHING,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> torch.Tensor:
    """The output of decoded pixels.

    Args:
        pixels: uint8 [h, w, 3]: the stored picture, perhaps decoded smaller.
        plan: What becomes of it.
        size_hw: (height, width) of the stored picture.
        change: What becomes of its colours.
        fill: RGB of what lies beyond the picture.

    Returns:
        uint8 [3, H, W], channels last.
    """
    height, width = plan.size_hw
    view, (inner_height, inner_width) = plan.view, plan.scaled_hw
    rows = _Span.of(view.top, view.height, size_hw[0], pixels.shape[0], inner_height)
    columns = _Span.of(view.left, view.width, size_hw[1], pixels.shape[1], inner_width)
    part = _padded(pixels, rows, columns, fill)
    size = (rows.out_stop - rows.out_start, columns.out_stop - columns.out_start)
    if part.shape[:2] != size:
        # The strides of one picture among others: of [1, 3, H, W] without, torch takes a slow way.
        planes = part[None].permute(0, 3, 1, 2)
        scaled = interpolate(planes, size, mode="bilinear", antialias=True)
        part = scaled.permute(0, 2, 3, 1)[0]
    part = part[rows.cut(inner_height), columns.cut(inner_width)]
    out_rows, out_columns = rows.seen(inner_height), columns.seen(inner_width)
    if plan.is_flipped:
        part = part.flip(1)
        out_columns = slice(width - out_columns.stop, width - out_columns.start)
    part = recolored(part.contiguous(), change)
    if part.shape[:2] == (height, width):
        return part.permute(2, 0, 1)
    output = torch.empty(height, width, 3, dtype=torch.uint8)
    output.view(height, -1)[:] = torch.tensor(fill, dtype=torch.uint8).repeat(width)
    output[out_rows, out_columns] = part
    return output.permute(2, 0, 1)


class _Span(NamedTuple):
    """Along one axis: which decoded pixels are scaled, and to which output pixels.

    Both are whole numbers, chosen so that they stand for the same place: where an edge of what is
    seen lies between two output pixels, a few more decoded ones are taken, or of what is filled.
    What is scaled may reach beyond the picture, and what comes of it beyond the output.
    """

    start: int
    stop: int
    out_start: int
    out_stop: int

    @classmethod
    def of(cls, first: int, length: int, stored: int, decoded: int, scaled: int) -> _Span:
        """For a view.

        Args:
            first: Where the view begins, in stored pixels.
            length: How long it is.
            stored: Stored pixels of the picture.
            decoded: Pixels it was decoded to.
            scaled: Output pixels of the view.
        """
        ratio = decoded / stored
        begin, scale = first * ratio, scaled / (length * ratio)
        end = begin + length * ratio
        low = range(math.floor(begin), math.floor(begin) - _MARGIN, -1)
        if begin <= 0:  # the picture's own edge is seen
            low = range(0, max(-_MARGIN, math.ceil(begin)) - 1, -1)
        high = range(math.ceil(end), math.ceil(end) + _MARGIN)
        if end >= decoded:
            high = range(decoded, min(decoded + _MARGIN, math.floor(end)) + 1)

        def off(at: int) -> float:
            """Output pixels by which an edge there misses a whole number."""
            place = (at - begin) * scale
            return round(abs(place - round(place)), 3)

        inside_low = [at for at in low if at >= 0 or begin <= 0]
        inside_high = [at for at in high if at <= decoded or end >= decoded]
        start, stop = min(inside_low, key=off), min(inside_high, key=off)
        out_start, out_stop = round((start - begin) * scale), round((stop - begin) * scale)
        return cls(start, stop, out_start, max(out_stop, out_start + 1))

    def seen(self, scaled: int) -> slice:
        """Output pixels it covers."""
        start = min(max(self.out_start, 0), scaled - 1)
        return slice(start, max(start + 1, min(self.out_stop, scaled)))

    def cut(self, scaled: int) -> slice:
        """What of the scaled pixels that is."""
        seen = self.seen(scaled)
        start = max(0, min(seen.start - self.out_start, self.out_stop - self.out_start - 1))
        return slice(start, start + seen.stop - seen.start)


def _padded(
    pixels: torch.Tensor, rows: _Span, columns: _Span, fill: tuple[int, int, int]
) -> torch.Tensor:
    """The pixels of both spans, uint8 [h, w, 3], contiguous."""
    height, width = pixels.shape[:2]
    top, bottom = max(rows.start, 0), min(rows.stop, height)
    left, right = max(columns.start, 0), min(columns.stop, width)
    part = pixels[top:bottom, left:right]
    if (top, bottom, left, right) == (rows.start, rows.stop, columns.start, columns.stop):
        return part.contiguous()
    padded = torch.empty(rows.stop - rows.start, columns.stop - columns.start, 3, dtype=torch.uint8)
    padded.view(len(padded), -1)[:] = torch.tensor(fill, dtype=torch.uint8).repeat(padded.shape[1])
    padded[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = (
        part
    )
    return padded


def render_mask(mask: torch.Tensor, plan: Plan) -> torch.Tensor:
    """A mask through the same plan, by nearest neighbour; `VOID` beyond the picture.

    Args:
        mask: uint8 [H, W] of the stored picture.
        plan: What becomes of it.

    Returns:
        uint8 [H, W] of the output.
    """
    (height, width), view = plan.scaled_hw, plan.view
    rows = view.top + ((np.arange(height) + 0.5) * (view.height / height)).astype(np.int64)
    columns = view.left + ((np.arange(width) + 0.5) * (view.width / width)).astype(np.int64)
    is_row, row_limit = (rows >= 0) & (rows < mask.shape[0]), mask.shape[0] - 1
    is_column, column_limit = (columns >= 0) & (columns < mask.shape[1]), mask.shape[1] - 1
    stored = mask.numpy()
    output = np.full(plan.size_hw, VOID, np.uint8)
    part = stored.take(rows.clip(0, row_limit), 0).take(columns.clip(0, column_limit), 1)
    part[~is_row] = VOID
    part[:, ~is_column] = VOID
    output[:height, :width] = part
    return torch.from_numpy(output[:, ::-1].copy() if plan.is_flipped else output)
