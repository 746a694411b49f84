"""Reads from a picture's bytes what it is: format, size and EXIF orientation; decodes nothing."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from shard_tool.errors import DataError
from shard_tool.pictures.jpeg_header import jpeg_header
from shard_tool.pictures.size import checked_size

KNOWN_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Formats that a source may have."""
_ORIENTATION = 0x0112


class Header(NamedTuple):
    """What a picture's header says."""

    format: str
    """Pillow's name of the format; 'JPEG' for MPO, too, as phones write it."""
    size_wh: tuple[int, int]
    """Width and height in pixels, as stored."""
    orientation: int
    """EXIF orientation, 1 … 8; 1 where the file does not say it, or says another number."""

    @property
    def is_transposed(self) -> bool:
        """Whether the upright picture's width is the stored one's height."""
        return self.orientation >= 5

    @property
    def upright_wh(self) -> tuple[int, int]:
        """Width and height of the upright picture."""
        return self.size_wh[::-1] if self.is_transposed else self.size_wh


def read_header(content: bytes, place: str) -> Header:
    """Read the header of a picture of any known format.

    Args:
        content: The file's bytes; of a JPEG the first 256 KiB are enough, mostly.
        place: The file's name in errors.

    Raises:
        DataError: It is no picture of a known format, or has no pixels or more than `MAX_PIXELS`.

    Source:
        EXIF 2.32, 4.6.4 A: orientation (tag 0x0112).
    """
    if (found := jpeg_header(content)) and not found.has_exif:
        return Header("JPEG", checked_size(found.size_wh, place), 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, and of EXIF blocks that are damaged
            with Image.open(io.BytesIO(content), formats=KNOWN_FORMATS) as picture:
                size_wh, format_ = picture.size, str(picture.format)
                orientation = _orientation(picture)
    except Image.DecompressionBombError as exc:
        raise DataError(place, f"is absurdly large: {exc}") from exc
    except UnidentifiedImageError:
        problem = f"not a picture of a known format ({len(content)} bytes)"
        raise DataError(place, problem, "known: JPEG, PNG, WebP, BMP, TIFF, GIF") from None
    except (OSError, ValueError, SyntaxError) as exc:
        raise DataError(place, f"not a picture ({len(content)} bytes): {exc}") from exc
    return Header(
        "JPEG" if format_ == "MPO" else format_, checked_size(size_wh, place), orientation
    )


def _orientation(picture: Image.Image) -> int:
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  (the block is damaged, in one of many ways)
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1
