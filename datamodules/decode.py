"""The only door from compressed bytes to pixels.

JPEG goes through simplejpeg (libjpeg-turbo, accurate DCT: the pixels Pillow gives as well; CMYK
within 2 levels of them); whatever that refuses (12 bits, PNG) goes through Pillow. Masks keep
their palette indices and never pass through colours; `png` reads plain ones, Pillow others.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError

from datamodules.png import plain_png
from shard_tool.errors import SampleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PIXELS = 89_000_000
"""A picture with more is refused before it is decoded: that is 267 MB of RGB, and just below where
Pillow starts to warn."""

_REFUSALS = (
    *(OSError, ValueError, SyntaxError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),  # the latter under -W error
)


def decode_image(content: bytes | memoryview, *, place: str) -> torch.Tensor:
    """Decode a JPEG (or what Pillow knows) to RGB.

    Args:
        content: The file's bytes.
        place: What errors call it.

    Returns:
        uint8 [3, H, W], a view of the decoder's rows of RGB (channels last, as torchvision's own
        decoder gives it: resizing it takes half as long); grey pictures have three equal channels.
        EXIF rotation is not applied: annotations are in the stored orientation.

    Raises:
        SampleError: Not a picture, damaged, or larger than `MAX_PIXELS`.
    """
    return torch.from_numpy(decode_scaled(content, 1, place=place)).permute(2, 0, 1)


def picture_size(content: bytes | memoryview, *, place: str) -> tuple[int, int]:
    """(height, width) of a picture, by its header.

    Raises:
        SampleError: Not a picture, or larger than `MAX_PIXELS`.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        height, width = _decode_by_pillow(content, "RGB", place).shape[:2]
    _check_size(width, height, place)
    return height, width


def decode_scaled(
    content: bytes | memoryview, factor: int, *, place: str, fast: bool = False
) -> NDArray[np.uint8]:
    """Decode a JPEG (or what Pillow knows) to RGB at a fraction of its size.

    Args:
        content: The file's bytes.
        factor: 1, 2, 4 or 8; sides are divided by it and rounded up. Only JPEG is decoded smaller,
            by fewer terms of its cosine transforms, which is what an average over as many pixels
            comes near to.
        place: What errors call it.
        fast: Take libjpeg-turbo's quick cosine transform, and repeat colours instead of
            interpolating them where they are stored at half the resolution.

    Returns:
        uint8 [H, W, 3]; of the full size where the format cannot be scaled.

    Raises:
        SampleError: As `decode_image`.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
        _check_size(width, height, place)
        options: dict[str, Any] = {"fastdct": True, "fastupsample": True} if fast else {}
        if factor > 1:
            options |= {"min_height": -(-height // factor), "min_width": -(-width // factor)}
        return cast(
            "NDArray[np.uint8]", simplejpeg.decode_jpeg(content, colorspace="RGB", **options)
        )
    except ValueError:
        return _decode_by_pillow(content, "RGB", place)


def decode_mask(content: bytes | memoryview, *, place: str) -> torch.Tensor:
    """Decode a palette or grey PNG to its values.

    Returns:
        uint8 [H, W]: class or object numbers, 255 = void.

    Raises:
        SampleError: Not a picture, in colours instead of a palette, damaged or too large.
    """
    values = plain_png(content, MAX_PIXELS)
    return torch.from_numpy(
        _decode_by_pillow(content, None, place) if values is None else values.copy()
    )


def _decode_by_pillow(
    content: bytes | memoryview, mode: str | None, place: str
) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            _check_size(*picture.size, place)
            if mode is None and picture.mode not in {"P", "L"}:
                raise SampleError(place, f"a mask has mode 'P' or 'L', this is {picture.mode!r}")
            found: Image.Image = picture
            if mode is not None and picture.mode.startswith("I"):
                # 16-bit greys, which Pillow's own conversion would make white above 255.
                deep = np.array(picture).astype(np.int64)
                is_deep = picture.mode != "I" or deep.max() > 255
                found = Image.fromarray((deep >> 8 * is_deep).clip(0, 255).astype(np.uint8))
            return np.array(found if mode is None else found.convert(mode))
    except UnidentifiedImageError:
        raise SampleError(place, "is not a picture") from None  # its text names a buffer's address
    except _REFUSALS as exc:
        raise SampleError(place, f"does not decode: {exc}") from exc


def _check_size(width: int, height: int, place: str) -> None:
    if width * height > MAX_PIXELS:
        raise SampleError(place, f"{width} x {height} px are more than {MAX_PIXELS:,}")
