"""Reads from a picture's bytes what it is: format, size and EXIF orientation; decodes nothing."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, UnidentifiedImageError

from shard_tool.errors import DataError
from shard_tool.pictures.jpeg_header import jpeg_header
from shard_tool.pictures.size import checked_size

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Formats that a source may have."""
_ORIENTATION, _IMAGE_WIDTH, _IMAGE_LENGTH = 0x0112, 256, 257
_PNG = b"\x89PNG\r\n\x1a\n"


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
        content: The file's bytes; of a JPEG the first 256 KiB are enough, mostly. Of other formats
            the first bytes alone are an error.
        place: The file's name in errors.

    Raises:
        DataError: It is no picture of a known format, or has no pixels or more than `MAX_PIXELS`,
            or is a PNG without its end.

    Source:
        EXIF 2.32, 4.6.4 A: orientation (tag 0x0112).
    """
    if (found := jpeg_header(content)) and not found.has_exif:
        return Header("JPEG", checked_size(found.size_wh, place), 1)
    if content.startswith(_PNG) and not _is_whole_png(content):
        raise DataError(place, f"is cut short: a PNG of {len(content)} bytes without its end")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, and of EXIF blocks that are damaged
            with Image.open(io.BytesIO(content), formats=KNOWN_FORMATS) as picture:
                size_wh, format_ = picture.size, str(picture.format)
                orientation = _orientation(picture, content)
                if picture.format == "TIFF":  # Pillow turns its size, and its pixels
                    tags = picture.tag_v2  # type: ignore[attr-defined]
                    size_wh = (tags[_IMAGE_WIDTH], tags[_IMAGE_LENGTH])
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


def _orientation(picture: Image.Image, content: bytes) -> int:
    """The orientation that EXIF says; XMP's is not read, as browsers and OpenCV do not."""
    try:
        if picture.format == "TIFF":
            found = picture.tag_v2.get(_ORIENTATION, 1)  # type: ignore[attr-defined]
        else:
            exif = Image.Exif()
            exif.load(_exif_block(picture, content))
            found = exif.get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  (the block is damaged, in one of many ways)
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _exif_block(picture: Image.Image, content: bytes) -> bytes:
    """The EXIF block, without decoding the picture; b"" if there is none."""
    block: bytes | None = picture.info.get("exif")
    if block is None and content.startswith(_PNG):
        block = dict(_png_chunks(content)).get(b"eXIf")  # it may follow the pixels
        if block is None and (text := picture.info.get("Raw profile type exif")):  # ImageMagick's
            block = bytes.fromhex("".join(text.split("\n")[3:]))
    return block or b""


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (type, data) of each whole chunk but those of pixels.

    Source:
        PNG 3, 5.3: chunk layout; 11.3.4.5 eXIf.
    """
    at = len(_PNG)
    while at + 12 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if at + 12 + length > len(content):
            return
        yield kind, b"" if kind == b"IDAT" else content[at + 8 : at + 8 + length]
        at += 12 + length


def _is_whole_png(content: bytes) -> bool:
    return any(kind == b"IEND" for kind, _ in _png_chunks(content))
