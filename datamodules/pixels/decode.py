"""The only door from compressed bytes to pixels.

JPEG goes through simplejpeg (libjpeg-turbo, accurate DCT: the pixels Pillow gives as well; CMYK
within 2 levels of them); whatever that refuses (12 bits, PNG) goes through Pillow. Masks keep
their palette indices and never pass through colours; `png` reads plain ones, Pillow others.
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
"""A picture with more is refused before it is decoded: that is 267 MB of RGB, and just below where
Pillow starts to warn."""

PICTURE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM")
"""What Pillow may take a picture for. It knows others: some it hands to other programs (EPS to
Ghostscript, which runs it), and the readers of some fail with errors of any kind."""
MASK_FORMATS = ("PNG", "GIF", "BMP", "TIFF")

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
    """Decode a JPEG (or what Pillow knows) to RGB at a fraction of its size.

    Args:
        content: The file's bytes.
        factor: 1, 2, 4 or 8; sides are divided by it and rounded up. Only JPEG is decoded smaller,
            by fewer terms of its cosine transforms, which is what an average over as many pixels
            comes near to.
        place: What errors call it.
        size_hw: What `picture_size` says of it; None: not asked yet.
        fast: Take libjpeg-turbo's quick cosine transform, and repeat colours instead of
            interpolating them where they are stored at half the resolution.

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
        if picture.mode.startswith("I"):
            # 16-bit greys, which Pillow's own conversion would make white above 255.
            deep = np.array(picture).astype(np.int64)
            is_deep = picture.mode != "I" or deep.max() > 255
            found = Image.fromarray((deep >> 8 * is_deep).clip(0, 255).astype(np.uint8))
        return np.array(found.convert(mode))


@contextmanager
def _opened(
    content: bytes | memoryview, formats: tuple[str, ...], place: str
) -> Iterator[Image.Image]:
    """A picture whose header was read; whatever goes wrong with it is the sample's fault."""
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
        # Of greys with fewer bits Pillow makes shades from black to white: back to their numbers.
        bits = bytes(content[24:25])[0]  # of IHDR, which every PNG begins with
        values //= 255 // (2**bits - 1)
    return values


def _check_size(width: int, height: int, place: str) -> None:
    if width * height > MAX_PIXELS:
        raise SampleError(place, f"{width} x {height} px are more than {MAX_PIXELS:,}")


# On a device ------------------------------------------------------------------------------------

_EXIF = b"Exif\0\0"
_EXIF_WITHIN = 1 << 16


def is_for_device(content: bytes | memoryview) -> bool:
    """Whether a GPU can be trusted with a file: a JPEG in YCbCr, as cameras make them, with an end.

    Others nvJPEG refuses, or may make something else of than a decoder here: grey, RGB and CMYK
    ones, those that were cut, other formats.
    """
    try:
        _, _, colors, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return False
    return bool(colors == "YCbCr" and content[-2:] == b"\xff\xd9")


def decode_on_device(
    contents: Sequence[torch.Tensor], device: torch.device, *, places: Sequence[str]
) -> list[torch.Tensor]:
    """Decode JPEG files of a batch: by nvJPEG on a CUDA device, else here, and copied there.

    Args:
        contents: Each file's bytes, uint8 [n], in this machine's memory.
        device: Where pixels are wanted.
        places: What errors call each file.

    Returns:
        uint8 [3, H, W] each, on the device.

    Raises:
        SampleError: A file does not decode.
        OptionError: There is no nvJPEG to be had.
    """
    if device.type != "cuda" or not contents:
        return [
            decode_image(content.numpy().data, place=place).to(device)
            for content, place in zip(contents, places, strict=True)
        ]
    # On a stream of its own: torchvision decodes on another stream than the one its results are
    # allocated on, whose memory may still be in use there.
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
    """All at once; where that fails, one by one, and here what fails alone as well."""
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
    """`decode_jpeg` of torchvision, which is to lose it, or of torchcodec, which is to have it.

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
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision's: `nvjpeg` knows
        return decoder(files, mode="RGB", device=device)


def _without_exif(content: torch.Tensor) -> torch.Tensor:
    """The file with its EXIF tags unreadable: by them torchcodec would turn the picture."""
    at = content[:_EXIF_WITHIN].numpy().tobytes().find(_EXIF)
    if at < 0:
        return content
    changed = content.clone()
    changed[at] = 0
    return changed
