"""Reads the size of a picture from its header and refuses absurd sizes; decodes nothing."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from shard_tool.errors import DataError
from shard_tool.format.sample import MAX_PIXELS
from shard_tool.pictures.jpeg_header import jpeg_size


def picture_size(content: bytes, format_: str, place: str) -> tuple[int, int]:
    """Read (width, height) in pixels from the header of a picture.

    Args:
        content: The file's bytes.
        format_: Pillow's name of the format, such as 'JPEG'.
        place: Name of the file in errors.

    Raises:
        DataError: The file is not of that format, or has no or more than `MAX_PIXELS` pixels.
    """
    if format_ == "JPEG" and (size_wh := jpeg_size(content)):
        return checked_size(size_wh, place)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decoded
            with Image.open(io.BytesIO(content), formats=(format_,)) as picture:
                size_wh = picture.size
    except Image.DecompressionBombError as exc:
        raise DataError(place, f"is absurdly large: {exc}") from exc
    except (OSError, ValueError, SyntaxError) as exc:
        raise DataError(place, f"not a {format_} picture ({len(content)} bytes)") from exc
    return checked_size(size_wh, place)


def checked_size(size_wh: tuple[int, int], place: str) -> tuple[int, int]:
    """The size, if a picture may have it.

    Raises:
        DataError: It has no pixels or more than `MAX_PIXELS`.
    """
    if size_wh[0] < 1 or size_wh[1] < 1:
        raise DataError(place, f"is {size_wh[0]} x {size_wh[1]} px")
    if size_wh[0] * size_wh[1] > MAX_PIXELS:
        problem = f"is {size_wh[0]} x {size_wh[1]} px, more than {MAX_PIXELS} pixels"
        raise DataError(place, problem, "make it smaller")
    return size_wh
