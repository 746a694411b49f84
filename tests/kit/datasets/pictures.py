"""Draws and encodes pictures: with edges and gradients, or with false headers."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def scene(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture with edges and gradients in every channel, no two alike."""
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [127 + 90 * np.sin(x / (3 + c) + c) + 30 * np.sign(np.sin(y / 5)) for c in range(4)]
    pixels = np.stack(waves[:channels], -1).clip(0, 255).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def encoded(picture: Image.Image | np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PHOTOGRAPH = encoded(scene(90, 120))
"""A JPEG as cameras write it, which a device decodes."""


def odd_files() -> dict[str, bytes]:
    """Pictures that workers decode because a device does not."""
    picture = Image.fromarray(scene(90, 120))
    return {
        "grey": encoded(scene(90, 120, 1)),
        "CMYK": encoded(Image.fromarray(scene(90, 120, 4), "CMYK")),
        "RGB": encoded(picture, keep_rgb=True),
        "PNG": encoded(picture, "PNG"),
    }


def by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.array(picture.convert("RGB"))


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10))), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def jpeg_that_claims(width: int, height: int, mode: str = "RGB") -> bytes:
    content = bytearray(encoded(Image.new(mode, (32, 16))))
    struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, height, width)
    return bytes(content)


def voc_mask() -> tuple[np.ndarray, bytes]:
    """A mask of classes 0 to 20 and void, with a palette unlike VOC's."""
    values = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16) % 21
    values[3:5, 2:9] = 255
    picture = Image.fromarray(values, "P")
    picture.putpalette(bytes((i * 7 + c * 50) % 256 for i in range(256) for c in range(3)))
    return values, encoded(picture, "PNG")


def turned(picture: np.ndarray, orientation: int, kind: str = "JPEG", **options: Any) -> bytes:
    """A stored picture whose EXIF says that it has to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, kind, exif=exif, **options)


def upright_by_pillow(content: bytes) -> np.ndarray:
    """The pixels of a picture that Pillow turned by its EXIF."""
    with Image.open(io.BytesIO(content)) as picture:
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
