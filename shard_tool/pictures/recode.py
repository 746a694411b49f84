"""Writes pictures again where they cannot stay as they are: rare formats, and --exif bake."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from shard_tool.errors import DataError
from shard_tool.format.sample import PICTURES
from shard_tool.pictures.header import KNOWN_FORMATS

if TYPE_CHECKING:
    from shard_tool.pictures.header import Header

EXTENSIONS = {format_: extension for extension, format_ in PICTURES.items()}
"""Pillow's name of a format that stays as it is, to its extension."""
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_PNG_LEVEL = 6
_420 = 2
"""JpegImagePlugin.get_sampling's number of colours at half the resolution."""
_BAKED_QUALITY = 95
"""A turned JPEG is encoded once more; at 95 it differs from the old one by a level or two."""


_TURN = Image.Transpose
_TO_UPRIGHT = {
    2: _TURN.FLIP_LEFT_RIGHT,
    3: _TURN.ROTATE_180,
    4: _TURN.FLIP_TOP_BOTTOM,
    5: _TURN.TRANSPOSE,
    6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE,
    8: _TURN.ROTATE_90,
}
"""EXIF orientation to the step that turns the stored picture upright (EXIF 2.32, 4.6.4 A)."""
_TO_STORED = _TO_UPRIGHT | {6: _TURN.ROTATE_90, 8: _TURN.ROTATE_270}


class Recoded(NamedTuple):
    """A picture as it goes into a shard."""

    extension: str
    content: bytes
    is_new: bool
    """Whether its bytes are not the source's."""


def stored_form(content: bytes, header: Header, place: str, *, turn: bool = False) -> Recoded:
    """The bytes of a picture for a shard: its own where readers know the format, else a PNG.

    Args:
        content: The picture.
        header: Its header.
        place: Its name in errors.
        turn: Write it turned upright by its EXIF orientation, without EXIF.

    Raises:
        DataError: It does not decode.
    """
    extension = EXTENSIONS.get(header.format)
    is_turned = turn and header.orientation != 1
    if extension and not is_turned:
        return Recoded(extension, content, is_new=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=KNOWN_FORMATS) as picture:
                sampling = get_sampling(picture) if extension == "jpg" else -1
                picture.load()
                turned = _turned(picture, header, to_upright=is_turned)
                content = _encoded(turned, extension or "png", sampling, place)
                return Recoded(extension or "png", content, is_new=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DataError(place, f"does not decode: {exc}") from exc


def _turned(picture: Image.Image, header: Header, *, to_upright: bool) -> Image.Image:
    """The picture upright, or as it is stored; loading a TIFF turns it upright."""
    is_upright = header.format == "TIFF" or header.orientation == 1
    if is_upright == to_upright or header.orientation == 1:
        return picture
    steps = _TO_UPRIGHT if to_upright else _TO_STORED
    return picture.transpose(steps[header.orientation])


def _encoded(picture: Image.Image, extension: str, sampling: int, place: str) -> bytes:
    buffer, icc = io.BytesIO(), picture.info.get("icc_profile")
    if extension == "jpg":
        picture.save(
            buffer,
            "JPEG",
            quality=_BAKED_QUALITY,
            subsampling="4:2:0" if sampling == _420 else "4:4:4",
            icc_profile=icc,
        )
    elif extension == "webp":
        picture.save(buffer, "WEBP", lossless=True, exact=True, icc_profile=icc)
    else:
        fits = picture.mode in _PNG_MODES
        plain = picture if fits else _plain(picture, place)
        plain.save(buffer, "PNG", compress_level=_PNG_LEVEL, icc_profile=icc if fits else None)
    return buffer.getvalue()


def _plain(picture: Image.Image, place: str) -> Image.Image:
    """A picture of a mode that PNG has not: 16 bits stay, colours become RGB."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(picture).astype(np.uint16))
    if picture.mode in ("I", "F"):
        problem = f"has {'whole' if picture.mode == 'I' else 'floating-point'} numbers of 32 bits"
        raise DataError(place, f"{problem} a pixel, which no PNG holds", "write 8 or 16 bits")
    return picture.convert("RGBA" if picture.mode in ("PA", "La", "RGBa") else "RGB")
