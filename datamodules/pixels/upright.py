"""Turns stored pictures upright, as their EXIF orientation says.

Turning is a swap of the two axes, or none, and then a reversal of one axis, of both or of none.
Masks are stored upright and are never turned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import cv2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Turn(NamedTuple):
    """What makes a stored picture upright: swapped axes first, reversed ones then."""

    swaps_axes: bool
    """Whether stored rows become columns."""
    reverses_rows: bool
    """Whether the upright picture's rows then run from the last to the first."""
    reverses_columns: bool
    """The same for its columns."""


_NOTHING = Turn(swaps_axes=False, reverses_rows=False, reverses_columns=False)
TURNS = (
    _NOTHING,  # EXIF has no 0
    _NOTHING,
    Turn(swaps_axes=False, reverses_rows=False, reverses_columns=True),
    Turn(swaps_axes=False, reverses_rows=True, reverses_columns=True),
    Turn(swaps_axes=False, reverses_rows=True, reverses_columns=False),
    Turn(swaps_axes=True, reverses_rows=False, reverses_columns=False),
    Turn(swaps_axes=True, reverses_rows=False, reverses_columns=True),
    Turn(swaps_axes=True, reverses_rows=True, reverses_columns=True),
    Turn(swaps_axes=True, reverses_rows=True, reverses_columns=False),
)
"""By EXIF orientation, 1 … 8. Source: Exif 2.32 (CIPA DC-008), 4.6.4.A, tag 274."""
_FLIP = {(True, False): 0, (False, True): 1, (True, True): -1}
"""OpenCV's code to reverse (rows, columns)."""


def turned_size(size_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(height, width) of the upright picture from that of the stored one, or the other way."""
    return (size_hw[1], size_hw[0]) if TURNS[orientation].swaps_axes else size_hw


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels upright.

    Args:
        pixels: uint8 [h, w, 3] as stored.
        orientation: EXIF orientation, 1 … 8.

    Returns:
        uint8 [h, w, 3] or, with swapped axes, [w, h, 3]; contiguous. `pixels` itself for 1.
    """
    swaps_axes, *reverses = TURNS[orientation]
    turned: Any = cv2.transpose(pixels) if swaps_axes else pixels
    if any(reverses):  # in place where it is our own memory: new memory costs more than turning
        turned = cv2.flip(turned, _FLIP[reverses[0], reverses[1]], turned if swaps_axes else None)
    return cast("NDArray[np.uint8]", turned)
