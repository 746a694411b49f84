"""Pictures and masks through a plan: decoded as small as will do, scaled once, put in place.

What is scaled and what comes of it are rectangles of whole pixels that stand for one place (see
`_Span`), so pictures keep to their boxes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from datamodules.color import ColorChange, recolored

if TYPE_CHECKING:
    from datamodules.geometry import Plan

VOID = 255
"""What a mask has where there is no picture."""
_NOTHING = ColorChange()
_MARGIN = 8
"""Pixels more that may be scaled, to meet the output's grid."""
_NEAR = 1e-3
"""Output pixels by which two places may differ and be one."""


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
        uint8 [3, H, W], channels last; may share memory with `pixels`.
    """
    height, width = plan.size_hw
    view, (inner_height, inner_width) = plan.view, plan.scaled_hw
    if pixels is None or not view.meets(size_hw):
        return _filled(plan.size_hw, fill).permute(2, 0, 1)
    factor = _factor(pixels, size_hw)
    rows = _Span.of(view.top, view.height, size_hw[0], factor, inner_height)
    columns = _Span.of(view.left, view.width, size_hw[1], factor, inner_width)
    part = _padded(pixels, rows, columns, fill)
    size = (rows.out_stop - rows.out_start, columns.out_stop - columns.out_start)
    if part.shape[:2] != size:
        # The strides of one picture among others: of [1, 3, H, W] without, torch takes a slow way.
        planes = part[None].permute(0, 3, 1, 2)
        scaled = interpolate(planes, size, mode="bilinear", antialias=True)
        part = scaled.permute(0, 2, 3, 1)[0]
    part = part[rows.cut, columns.cut]
    out_rows, out_columns = rows.seen, columns.seen
    if plan.is_flipped:
        part = part.flip(1)
        out_columns = slice(width - out_columns.stop, width - out_columns.start)
    part = recolored(part.contiguous(), change)
    if part.shape[:2] == (height, width):
        return part.permute(2, 0, 1)
    output = _filled(plan.size_hw, fill)
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
    seen: slice
    """Output pixels that show something of the picture."""
    fills_low: bool
    """Whether decoded pixels before the first are filled; else they are like the first."""
    fills_high: bool

    @classmethod
    def of(cls, first: int, length: int, stored: int, factor: int, scaled: int) -> _Span:
        """For a view that shows something of the picture.

        Args:
            first: Where the view begins, in stored pixels.
            length: How long it is.
            stored: Stored pixels of the picture.
            factor: Stored pixels to a decoded one; the last decoded one may stand for fewer.
            scaled: Output pixels of the view.
        """
        decoded = -(-stored // factor)
        begin, end = first / factor, (first + length) / factor
        scale = scaled * factor / length

        low = range(math.floor(begin), math.floor(begin) - _MARGIN, -1)
        if begin <= 0:  # the picture's own edge is seen
            low = range(0, max(-_MARGIN, math.ceil(begin)) - 1, -1)
        high = range(math.ceil(end), math.ceil(end) + _MARGIN)
        if end > decoded:
            high = range(decoded, min(decoded + _MARGIN, math.floor(end)) + 1)
        start, stop = _nearest(low, begin, scale), _nearest(high, begin, scale)
        out_start, out_stop = round((start - begin) * scale), round((stop - begin) * scale)
        out_start = min(out_start, scaled - 1)  # of a sliver, something is seen
        out_stop = max(out_stop, out_start + 1, 1)
        # Beyond the picture's edges there is only what fills.
        edge_low = math.floor(-begin * scale + _NEAR)
        edge_high = math.ceil((stored / factor - begin) * scale - _NEAR)
        seen_start = min(max(out_start, edge_low, 0), out_stop - 1, scaled - 1)
        seen_stop = max(min(out_stop, edge_high, scaled), seen_start + 1)
        seen = slice(seen_start, seen_stop)
        return cls(start, stop, out_start, out_stop, seen, begin < 0, end > decoded)

    @property
    def cut(self) -> slice:
        """What of the scaled pixels is seen."""
        return slice(self.seen.start - self.out_start, self.seen.stop - self.out_start)


def _nearest(edges: range, begin: float, scale: float) -> int:
    """The first of them that misses a whole number of output pixels by least."""
    found, least = edges[0], 1.0
    for at in edges:
        place = (at - begin) * scale
        off = abs(place - round(place))
        if off < least - _NEAR:
            found, least = at, off
            if off < _NEAR:
                break
    return found


def _factor(pixels: torch.Tensor, size_hw: tuple[int, int]) -> int:
    """By how much a picture was decoded smaller."""
    for factor in (1, 2, 4, 8):
        if tuple(pixels.shape[:2]) == tuple(-(-side // factor) for side in size_hw):
            return factor
    message = f"pixels {tuple(pixels.shape)} are not those of a picture of (H, W) = {size_hw}"
    raise ValueError(message)


def _filled(size_hw: tuple[int, int], fill: tuple[int, int, int]) -> torch.Tensor:
    """Uint8 [H, W, 3] of one colour."""
    output = torch.empty(*size_hw, 3, dtype=torch.uint8)
    output.view(size_hw[0], -1)[:] = _row(size_hw[1], fill)
    return output


@lru_cache(512)
def _row(width: int, fill: tuple[int, int, int]) -> torch.Tensor:
    """Uint8 [W * 3]; shared, so never written to."""
    return torch.tensor(fill, dtype=torch.uint8).repeat(width)


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
    padded = _filled((rows.stop - rows.start, columns.stop - columns.start), fill)
    inner_rows = slice(top - rows.start, bottom - rows.start)
    inner_columns = slice(left - columns.start, right - columns.start)
    padded[inner_rows, inner_columns] = part
    lines = padded[inner_rows]
    if not columns.fills_low:
        lines[:, : inner_columns.start] = part[:, :1]
    if not columns.fills_high:
        lines[:, inner_columns.stop :] = part[:, -1:]
    if not rows.fills_low:
        padded[: inner_rows.start] = padded[inner_rows.start]
    if not rows.fills_high:
        padded[inner_rows.stop :] = padded[inner_rows.stop - 1]
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
