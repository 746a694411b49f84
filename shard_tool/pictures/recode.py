"""Writes pictures again where they cannot stay as they are: rare formats, and --exif bake."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageOps

from shard_tool.errors import DataError
from shard_tool.format.sample import PICTURES

if TYPE_CHECKING:
    from shard_tool.pictures.header import Header

EXTENSIONS = {format_: extension for extension, format_ in PICTURES.items()}
"""Pillow's name of a format that stays as it is, to its extension."""
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_PNG_LEVEL = 6
_BAKED_QUALITY = 95
"""A turned JPEG is encoded once more; at 95 it differs from the old one by a level or two."""


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
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
                turned = ImageOps.exif_transpose(picture) if is_turned else picture
                return Recoded(
                    extension or "png", _encoded(turned, extension or "png"), is_new=True
                )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DataError(place, f"does not decode: {exc}") from exc


def _encoded(picture: Image.Image, extension: str) -> bytes:
    buffer, icc = io.BytesIO(), picture.info.get("icc_profile")
    if extension == "jpg":
        picture.save(buffer, "JPEG", quality=_BAKED_QUALITY, icc_profile=icc)
    elif extension == "webp":
        picture.save(buffer, "WEBP", lossless=True, icc_profile=icc)
    else:
        fits = picture.mode in _PNG_MODES
        plain = picture if fits else picture.convert("RGB")
        plain.save(buffer, "PNG", compress_level=_PNG_LEVEL, icc_profile=icc if fits else None)
    return buffer.getvalue()
