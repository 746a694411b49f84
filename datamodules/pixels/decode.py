"""Decodes pictures and masks.

simplejpeg decodes JPEG (by libjpeg-turbo with the accurate DCT: the same pixels as Pillow's, CMYK
within 2 levels). Pillow decodes what simplejpeg refuses (12 bits, PNG, WebP and others). Grey,
palettes, CMYK, 16 bits and alpha become RGB in one way each: docs/concepts/pixels.md. Masks keep
their palette indices and are never converted to colours: `png_masks` reads plain ones, Pillow the
others.
"""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError

from datamodules.pixels.png_masks import plain_png
from shard_tool.errors import OptionError, SampleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

MAX_PIXELS = 89_000_000
"""Pictures with more are refused before they are decoded: that is 267 MB of RGB, and just below
where Pillow starts to warn."""

PICTURE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM")
"""Formats that Pillow may read. For some others it starts programs (for EPS Ghostscript, which runs
the file), and the readers of some fail with errors of any kind."""
MASK_FORMATS = ("PNG", "GIF", "BMP", "TIFF")

_REFUSALS = (
    *(OSError, ValueError, SyntaxError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),  # the latter under -W error
)


def decode_image(content: bytes | memoryview, *, place: str) -> torch.Tensor:
    """Decode a JPEG, or another of `PICTURE_FORMATS`, to RGB.

    Args:
        content: The file's bytes.
        place: The file's name in messages.

    Returns:
        uint8 [3, H, W], channels last in memory, as torchvision's own decoder gives it: resizing
        that takes half as long. As stored: EXIF is not read, `upright` turns the pixels by what the
        annotation says.

    Raises:
        SampleError: Not a picture, damaged, or larger than `MAX_PIXELS`.
    """
    return torch.from_numpy(decode_scaled(content, 1, place=place)).permute(2, 0, 1)


def picture_size(content: bytes | memoryview, *, place: str) -> tuple[int, int]:
    """(height, width) of a picture, from its header.

    Raises:
        SampleError: Not a picture, or larger than `MAX_PIXELS`.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        with _opened(content, PICTURE_FORMATS, place) as picture:
            width, height = picture.size
    _check_size(width, height, place)
    return height, width


def decode_scaled(
    content: bytes | memoryview,
    factor: int,
    *,
    place: str,
    size_hw: tuple[int, int] | None = None,
    fast: bool = False,
) -> NDArray[np.uint8]:
    """Decode a JPEG, or another of `PICTURE_FORMATS`, to RGB at a fraction of its size.

    Args:
        content: The file's bytes.
        factor: 1, 2, 4 or 8; sides are divided by it and rounded up. Only JPEG is decoded smaller,
            by fewer terms of its cosine transforms, which comes near to an average over as many
            pixels.
        place: The file's name in messages.
        size_hw: What `picture_size` returned; None: it was not called yet.
        fast: Use libjpeg-turbo's quick cosine transform, and repeat colours stored at half the
            resolution instead of interpolating them.

    Returns:
        uint8 [H, W, 3]; of the full size where the format cannot be scaled.

    Raises:
        SampleError: As `decode_image`.
    """
    try:
        height, width = size_hw or picture_size(content, place=place)
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
    formats = MASK_FORMATS if mode is None else PICTURE_FORMATS
    with _opened(content, formats, place) as picture:
        if mode is None:
            return _values(picture, content, place)
        found: Image.Image = picture
        found.info.pop("transparency", None)  # alpha is dropped, and Pillow warns of some palettes'
        if picture.mode.startswith("I"):
            # 16-bit greys: Pillow's own conversion would turn all above 255 white.
            deep = np.array(picture).astype(np.int64)
            is_deep = picture.mode != "I" or deep.max() > 255
            found = Image.fromarray((deep >> 8 * is_deep).clip(0, 255).astype(np.uint8))
        return np.array(found.convert(mode))


@contextmanager
def _opened(
    content: bytes | memoryview, formats: tuple[str, ...], place: str
) -> Iterator[Image.Image]:
    """Open a picture with Pillow; errors inside the block become `SampleError`."""
    try:
        with Image.open(io.BytesIO(content), formats=formats) as picture:
            _check_size(*picture.size, place)
            yield picture
    except UnidentifiedImageError:
        raise SampleError(place, "is not a picture") from None  # its text names a buffer's address
    except _REFUSALS as exc:
        raise SampleError(place, f"does not decode: {exc}") from exc


def _values(mask: Image.Image, content: bytes | memoryview, place: str) -> NDArray[np.uint8]:
    if mask.mode not in {"P", "L"}:
        raise SampleError(place, f"a mask has mode 'P' or 'L', this is {mask.mode!r}")
    values = np.array(mask)
    if mask.format == "PNG" and mask.mode == "L":
        # Pillow scales greys of fewer bits to 0 … 255; this undoes it.
        bits = bytes(content[24:25])[0]  # in the IHDR chunk, with which every PNG begins
        values //= 255 // (2**bits - 1)
    return values


def _check_size(width: int, height: int, place: str) -> None:
    if width * height > MAX_PIXELS:
        raise SampleError(place, f"{width} x {height} px are more than {MAX_PIXELS:,}")


# On a device ------------------------------------------------------------------------------------

_EXIF = b"Exif\0\0"
_EXIF_WITHIN = 1 << 16


def is_for_device(content: bytes | memoryview) -> bool:
    """Whether nvJPEG decodes a file as this module does: a complete JPEG in YCbCr.

    It refuses other files, or decodes them differently: grey, RGB and CMYK JPEGs, cut ones, and
    other formats.
    """
    try:
        _, _, colors, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return False
    return bool(colors == "YCbCr" and content[-2:] == b"\xff\xd9")


def decode_on_device(
    contents: Sequence[torch.Tensor], device: torch.device, *, places: Sequence[str]
) -> list[torch.Tensor]:
    """Decode JPEG files by nvJPEG on a CUDA device; for any other device on the CPU.

    Args:
        contents: Each file's bytes, uint8 [n], on the CPU.
        device: The device for the pixels.
        places: Each file's name in messages.

    Returns:
        uint8 [3, H, W] each, on the device.

    Raises:
        SampleError: A file does not decode.
        OptionError: No library with nvJPEG is installed.
    """
    if device.type != "cuda" or not contents:
        return [
            decode_image(content.numpy().data, place=place).to(device)
            for content, place in zip(contents, places, strict=True)
        ]
    # On a stream of its own: torchvision allocates results on the current stream but decodes on
    # another, and the current stream may still use that memory.
    stream, here = _stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        pictures = decode_by_nvjpeg(contents, device, places=places)
    here.wait_stream(stream)
    for picture in pictures:
        picture.record_stream(here)
    return pictures


def decode_by_nvjpeg(
    contents: Sequence[torch.Tensor], device: torch.device, *, places: Sequence[str]
) -> list[torch.Tensor]:
    """Decode all files at once; if that fails, one by one, and on the CPU what fails alone too."""
    files = [_without_exif(content) for content in contents]
    try:
        return _called(nvjpeg(), files, device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as exc:
        if len(files) > 1:
            pairs = zip(contents, places, strict=True)
            return [decode_by_nvjpeg([file], device, places=[place])[0] for file, place in pairs]
        picture = decode_image(contents[0].numpy().data, place=places[0])
        log.warning("%s: decoded on the CPU, nvJPEG said: %s", places[0], exc)
        return [picture.to(device)]


@cache
def nvjpeg() -> Callable[..., list[torch.Tensor]]:
    """The function `decode_jpeg` of torchvision, which will drop it, or else of torchcodec.

    Raises:
        OptionError: Neither has it.
    """
    for home in ("torchvision.io", "torchcodec.decoders"):
        try:
            found: Callable[..., list[torch.Tensor]] = import_module(home).decode_jpeg
        except (ImportError, AttributeError, RuntimeError, OSError):  # torchcodec without FFmpeg
            continue
        return found
    problem = "'cuda' needs nvJPEG, and neither torchvision nor torchcodec has it"
    raise OptionError("decode", problem, "install torchcodec, or take decode='exact'")


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _called(
    decoder: Callable[..., list[torch.Tensor]], files: list[torch.Tensor], device: torch.device
) -> list[torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision's: see `nvjpeg`
        return decoder(files, mode="RGB", device=device)


def _without_exif(content: torch.Tensor) -> torch.Tensor:
    """The file with its EXIF tags made unreadable: torchcodec would rotate the picture by them."""
    at = content[:_EXIF_WITHIN].numpy().tobytes().find(_EXIF)
    if at < 0:
        return content
    changed = content.clone()
    changed[at] = 0
    return changed
