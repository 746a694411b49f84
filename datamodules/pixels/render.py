"""Renders decoded pictures and masks by a `Plan`: scales, places and recolours them once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch

from datamodules.pixels.color import ColorChange, recolored
from datamodules.pixels.resample import Span, filled, resample
from datamodules.pixels.upright import TURNS, turned_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from datamodules.pixels.geometry import Plan

VOID = 255
"""Value of a mask beyond the picture."""
_NOWHERE = -1
"""Index where there is no stored pixel; a valid index, whose value is overwritten."""
_NOTHING = ColorChange()


class Rendering(NamedTuple):
    """How decoded pixels are scaled, turned and placed."""

    rows: Span
    """Along the decoded height."""
    columns: Span
    """Along the decoded width."""
    seen: tuple[slice, slice]
    """Rows and columns of the output that show something of the picture."""
    is_flipped: bool
    """Whether the scaled pixels are mirrored left to right."""
    is_upside_down: bool = False
    """Whether they are mirrored top to bottom."""
    swaps_axes: bool = False
    """Whether their rows then become columns of the output."""

    @classmethod
    def of(
        cls, plan: Plan, size_hw: tuple[int, int], decoded_hw: Sequence[int], orientation: int = 1
    ) -> Rendering:
        """How a plan renders a picture that its view shows some of.

        A picture that is stored turned is scaled as it is stored; the smaller result is turned.

        Args:
            plan: How the upright picture is rendered.
            size_hw: (height, width) of the upright picture.
            decoded_hw: (height, width) as stored, perhaps decoded smaller.
            orientation: EXIF orientation of the stored picture.

        Raises:
            ValueError: The picture has another size, or no factor makes it that small.
        """
        view, (height, width), turn = plan.view, plan.scaled_hw, TURNS[orientation]
        factor = decoded_factor(decoded_hw, turned_size(size_hw, orientation))
        top, left = view.top, view.left
        if turn.reverses_rows:
            top = size_hw[0] - top - view.height
        if turn.reverses_columns:
            left = size_hw[1] - left - view.width
        down = Span.of(top, view.height, size_hw[0], factor, height)
        across = Span.of(left, view.width, size_hw[1], factor, width)
        seen_down = _reversed(down.seen, height) if turn.reverses_rows else down.seen
        seen_across = _reversed(across.seen, width) if turn.reverses_columns else across.seen
        if plan.is_flipped:
            seen_across = _reversed(seen_across, plan.size_hw[1])
        seen, is_flipped = (seen_down, seen_across), turn.reverses_columns != plan.is_flipped
        if turn.swaps_axes:
            return cls(across, down, seen, turn.reverses_rows, is_flipped, swaps_axes=True)
        return cls(down, across, seen, is_flipped, turn.reverses_rows)


def render(
    pixels: torch.Tensor | None,
    plan: Plan,
    size_hw: tuple[int, int],
    *,
    change: ColorChange = _NOTHING,
    fill: tuple[int, int, int] = (0, 0, 0),
    orientation: int = 1,
) -> torch.Tensor:
    """Render a picture.

    Args:
        pixels: uint8 [h, w, 3]: the stored picture, perhaps decoded smaller. None is allowed if the
            view shows nothing of it.
        plan: How the upright picture is rendered.
        size_hw: (height, width) of the upright picture.
        change: How colours change; not those of the filled part.
        fill: RGB of what lies beyond the picture.
        orientation: EXIF orientation of the stored picture.

    Returns:
        uint8 [3, H, W], channels last.
    """
    height, width = plan.size_hw
    if pixels is None or not plan.view.meets(size_hw):
        return filled(plan.size_hw, fill).permute(2, 0, 1)
    rendering = Rendering.of(plan, size_hw, pixels.shape[:2], orientation)
    is_all = rendering.seen == (slice(0, height), slice(0, width))
    output = (
        torch.empty(height, width, 3, dtype=torch.uint8) if is_all else filled(plan.size_hw, fill)
    )
    seen = output[rendering.seen]
    _scale(pixels, rendering, fill, seen)
    if not change.is_nothing:
        recolored(seen, change, out=seen)
    return output.permute(2, 0, 1)


def _scale(
    pixels: torch.Tensor, rendering: Rendering, fill: tuple[int, int, int], seen: torch.Tensor
) -> None:
    """Scale and turn pixels, and write them to what is seen of the output, uint8 [h, w, 3]."""
    swaps_axes = rendering.swaps_axes
    out = torch.empty(seen.shape[1], seen.shape[0], 3, dtype=torch.uint8) if swaps_axes else seen
    resample(
        pixels,
        rendering.rows,
        rendering.columns,
        fill=fill,
        is_flipped=rendering.is_flipped,
        is_upside_down=rendering.is_upside_down,
        out=out,
    )
    if swaps_axes:
        cv2.transpose(out.numpy(), dst=seen.numpy())  # a tenth of torch's time


def _reversed(span: slice, length: int) -> slice:
    """The place of a span of [0, length) after this was reversed."""
    return slice(length - span.stop, length - span.start)


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
        mask: uint8 [H, W], as large as the upright picture.
        plan: How it is rendered.

    Returns:
        uint8 [H, W] of the output.
    """
    return torch.from_numpy(nearest(mask.numpy(), plan, beyond=VOID))


def nearest(stored: NDArray[np.uint8], plan: Plan, *, beyond: int) -> NDArray[np.uint8]:
    """The stored pixel under the middle of each output pixel.

    Args:
        stored: uint8 [H, W], as large as the upright picture.
        plan: How it is rendered.
        beyond: Value beyond the picture.

    Returns:
        uint8 [H, W] of the output.
    """
    view = plan.view
    (scaled_height, scaled_width), (height, width) = plan.scaled_hw, plan.size_hw
    rows = _nearest_pixels(view.top, view.height, scaled_height, height, len(stored))
    columns = _nearest_pixels(view.left, view.width, scaled_width, width, stored.shape[1])
    if plan.is_flipped:
        columns = columns[::-1]
    found = stored[rows][:, columns]
    for lines, places in ((found, rows), (found.T, columns)):
        is_beyond = places == _NOWHERE
        if is_beyond.any():
            lines[is_beyond] = beyond
    return found


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
