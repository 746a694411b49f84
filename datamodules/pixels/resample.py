"""Scales pictures, and computes which decoded rectangle becomes which rectangle of the output.

The corners of both rectangles are whole pixels and show the same part of the picture (see `Span`),
so boxes stay where their objects are.

`kernels.c` does it where it is compiled, else torch, with the same result to the last bit. The
kernel takes about a third of torch's time: it copies no crop, and writes the result in place, also
mirrored.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import interpolate

from datamodules.pixels.kernels import Axis, kernels

if TYPE_CHECKING:
    from ctypes import Array, c_int64

_MARGIN = 8
"""Most pixels that may be scaled in addition, to meet the output's grid."""
_NEAR = 1e-3
"""Places count as one if they differ by no more output pixels."""


class Span(NamedTuple):
    """Along one axis: which decoded pixels are scaled, and to which output pixels.

    Both are whole numbers and cover the same part of the picture. Where an edge of what is seen
    lies between two output pixels, a few more decoded pixels are scaled, or filled ones. So the
    scaled pixels may reach beyond the picture, and the result beyond the output.
    """

    decoded: int
    """Pixels the decoded picture has."""
    start: int
    stop: int
    out_start: int
    out_stop: int
    seen: slice
    """Output pixels that show something of the picture."""
    fills_low: bool
    """Whether pixels before the first decoded one are filled; else they repeat it."""
    fills_high: bool
    """The same after the last decoded pixel."""

    @classmethod
    def of(cls, first: int, length: int, stored: int, factor: int, scaled: int) -> Span:
        """The span of a view that shows something of the picture.

        Args:
            first: Where the view begins, in stored pixels.
            length: The view's length, in stored pixels.
            stored: Stored pixels of the picture.
            factor: Stored pixels to a decoded one; the last decoded one may cover fewer.
            scaled: Output pixels of the view.
        """
        # Plain integers: NumPy's are equal to them and would stay in the cache in their place.
        return _span(int(first), int(length), int(stored), int(factor), int(scaled))

    @property
    def cut(self) -> slice:
        """The scaled pixels that are seen."""
        return slice(self.seen.start - self.out_start, self.seen.stop - self.out_start)


@lru_cache(4096)  # a dataset's pictures have few sizes
def _span(first: int, length: int, stored: int, factor: int, scaled: int) -> Span:
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
    out_start = min(out_start, scaled - 1)  # at least one output pixel, however little is seen
    out_stop = max(out_stop, out_start + 1, 1)
    # Beyond the picture's edges there is only fill.
    edge_low = math.floor(-begin * scale + _NEAR)
    edge_high = math.ceil((stored / factor - begin) * scale - _NEAR)
    seen_start = min(max(out_start, edge_low, 0), out_stop - 1, scaled - 1)
    seen_stop = max(min(out_stop, edge_high, scaled), seen_start + 1)
    seen = slice(seen_start, seen_stop)
    return Span(decoded, start, stop, out_start, out_stop, seen, begin < 0, end > decoded)


def _nearest(edges: range, begin: float, scale: float) -> int:
    """The edge nearest to a whole number of output pixels; of equal ones the first."""
    found, least = edges[0], 1.0
    for at in edges:
        place = (at - begin) * scale
        off = abs(place - round(place))
        if off < least - _NEAR:
            found, least = at, off
            if off < _NEAR:
                break
    return found


def resample(
    pixels: torch.Tensor,
    rows: Span,
    columns: Span,
    *,
    fill: tuple[int, int, int],
    is_flipped: bool,
    is_upside_down: bool = False,
    out: torch.Tensor,
) -> None:
    """Scale the pixels of two spans, and write what is seen.

    Args:
        pixels: uint8 [h, w, 3] on the CPU; copied unless a line's pixels lie side by side.
        rows: The span along the height.
        columns: The span along the width.
        fill: RGB of what lies beyond the picture.
        is_flipped: Mirror left to right.
        is_upside_down: Mirror top to bottom.
        out: uint8 [rows seen, columns seen, 3] on the CPU, a line's pixels side by side; the result
            is written to it.

    Raises:
        ValueError: `pixels` or `out` have another size than the spans, or are not on the CPU.
    """
    size = (rows.seen.stop - rows.seen.start, columns.seen.stop - columns.seen.start)
    decoded = (rows.decoded, columns.decoded)
    if (pixels.shape, out.shape, len(fill)) != ((*decoded, 3), (*size, 3), 3):
        problem = (
            f"pixels {tuple(pixels.shape)} and out {tuple(out.shape)} are not {decoded}, {size}"
        )
        raise ValueError(problem)  # before memory is written to
    if not (pixels.is_cpu and out.is_cpu):
        raise ValueError(f"pixels on {pixels.device} and out on {out.device} are not on the CPU")
    if pixels.stride()[1:] != (3, 1):  # as other transforms leave pictures
        pixels = pixels.contiguous()
    compiled = kernels()
    if compiled is None:
        color = torch.tensor(fill, dtype=torch.uint8)
        flips = {"is_flipped": is_flipped, "is_upside_down": is_upside_down}
        resample_by_torch(pixels, rows, columns, fill=color, **flips, out=out)
        return
    line, first = out.stride(0), out.data_ptr()
    if is_upside_down:
        first, line = first + (size[0] - 1) * line, -line
    failed = compiled.voc_resample(
        pixels.data_ptr(),
        pixels.stride(0),
        _axis(rows),
        _axis(columns),
        bytes(fill),
        is_flipped,
        first,
        line,
    )
    if failed:
        raise MemoryError(f"no memory to scale {tuple(pixels.shape)} to {tuple(out.shape)}")


def resample_by_torch(
    pixels: torch.Tensor,
    rows: Span,
    columns: Span,
    *,
    fill: torch.Tensor,
    is_flipped: bool,
    is_upside_down: bool = False,
    out: torch.Tensor,
) -> None:
    """Do what `resample` does, by torch on any device, in the dtype of `fill`.

    A floating dtype rounds nothing.

    Args:
        pixels: uint8 [h, w, 3], with any strides.
        rows: As for `resample`.
        columns: As for `resample`.
        fill: [3], on the device of `pixels`.
        is_flipped: As for `resample`.
        is_upside_down: As for `resample`.
        out: [rows seen, columns seen, 3], of the dtype of `fill`.
    """
    part = _padded(pixels, rows, columns, fill)
    size = (rows.out_stop - rows.out_start, columns.out_stop - columns.out_start)
    if part.shape[:2] != size:
        # Channels last, with the strides of a batch: for [1, 3, H, W] with other strides torch is
        # slow, and its CPU kernel returns wrong values for planes one pixel wide.
        planes = part[None].permute(0, 3, 1, 2)
        scaled = interpolate(planes, size, mode="bilinear", antialias=True)
        part = scaled.permute(0, 2, 3, 1)[0]
    part = part[rows.cut, columns.cut]
    if is_flipped or is_upside_down:
        part = part.flip([axis for axis, flips in enumerate((is_upside_down, is_flipped)) if flips])
    out.copy_(part)


def _padded(pixels: torch.Tensor, rows: Span, columns: Span, fill: torch.Tensor) -> torch.Tensor:
    """The pixels of both spans, [h, w, 3] of the dtype of `fill`, contiguous."""
    top, bottom = max(rows.start, 0), min(rows.stop, rows.decoded)
    left, right = max(columns.start, 0), min(columns.stop, columns.decoded)
    size = (rows.stop - rows.start, columns.stop - columns.start, 3)
    part = torch.empty(size, dtype=fill.dtype, device=pixels.device)
    lines = part[top - rows.start : bottom - rows.start]
    inner = lines[:, left - columns.start : right - columns.start]
    inner.copy_(pixels[top:bottom, left:right])
    _extend(lines.transpose(0, 1), left - columns.start, columns.stop - right, columns, fill)
    _extend(part, top - rows.start, rows.stop - bottom, rows, fill)
    return part


def _extend(part: torch.Tensor, before: int, after: int, span: Span, fill: torch.Tensor) -> None:
    """Fill what lies beyond the picture on the first axis, or repeat the colour of its edge."""
    stop = len(part) - after
    if before:
        part[:before] = fill if span.fills_low else part[before]
    if after:
        part[stop:] = fill if span.fills_high else part[stop - 1]


def filled(size_hw: tuple[int, int], fill: tuple[int, int, int]) -> torch.Tensor:
    """Uint8 [H, W, 3] of one colour."""
    output = torch.empty(*size_hw, 3, dtype=torch.uint8)
    output.view(size_hw[0], -1)[:] = _row(size_hw[1], fill)
    return output


@lru_cache(512)
def _row(width: int, fill: tuple[int, int, int]) -> torch.Tensor:
    """Uint8 [W * 3]. Shared, so never write to it."""
    return torch.tensor(fill, dtype=torch.uint8).repeat(width)


def _axis(span: Span) -> Array[c_int64]:
    """A span as the kernel's struct."""
    cut = span.cut
    scaled = span.out_stop - span.out_start
    return Axis(
        *(span.decoded, span.start, span.stop, scaled),
        *(cut.start, cut.stop, span.fills_low, span.fills_high),
    )
