"""Reads the class ids of masks, by their colours where they have any, else by their values.

The mask of a shard is a PNG whose values are class ids, 0 background and 255 void. A mask whose
values are right already keeps its bytes.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from shard_tool.errors import DataError
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.pictures.size import picture_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

VOID = 255
_VOID_COLOR = (224, 224, 192)
"""VOC's colour of borders and of what is not judged."""
_MOST_SHOWN = 5
_PNG_LEVEL = 6


def voc_color(label: int) -> tuple[int, int, int]:
    """VOC's colour of a label.

    Source: the devkits' VOClabelcolormap: the label's bits, spread over the channels, highest
    first.

    >>> voc_color(1), voc_color(20), voc_color(255)
    ((128, 0, 0), (0, 64, 128), (224, 224, 192))
    """
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (label >> channel & 1) << (7 - bit)
        label >>= 3
    return channels[0], channels[1], channels[2]


VOC_COLORS = {name: voc_color(label) for label, name in enumerate(VOC_CLASSES, start=1)}
_VOC_PALETTE = bytes(channel for label in range(256) for channel in voc_color(label))


class ReadMask(NamedTuple):
    """A mask as it goes into a shard."""

    content: bytes
    note: str | None
    """Code of what is to be reported; None: the bytes are the source's."""


@dataclass(frozen=True)
class MaskColors:
    """The colours of a dataset's classes."""

    names: tuple[str, ...]
    """Classes in label order, from 1."""
    colors: Mapping[str, tuple[int, int, int]]
    """Class to colour; '' is the background's, if it is not black."""

    @cached_property
    def ids(self) -> dict[tuple[int, int, int], int]:
        """Colour to class id."""
        labels = {name: label for label, name in enumerate(self.names, start=1)}
        known = {(0, 0, 0): 0, _VOID_COLOR: VOID}
        for name, color in self.colors.items():
            if not name or name in labels:
                known[color] = labels.get(name, 0)
        return known

    @cached_property
    def is_voc(self) -> bool:
        """Whether VOC's palette gives each class its id."""
        return all(self.ids.get(voc_color(n)) == n for n in range(1, len(self.names) + 1))

    def read(self, content: bytes, size_wh: tuple[int, int], place: str) -> ReadMask:
        """Read a class mask.

        Args:
            content: A PNG: palette, grey, RGB or RGBA.
            size_wh: Width and height of its upright picture.
            place: The mask's name in errors.

        Raises:
            DataError: It is no PNG, has another size, or colours or values of no class.
        """
        check_mask_size(content, size_wh, place)
        with _opened(content, place) as mask:
            if mask.mode == "P":
                return self._of_palette(mask, content, place)
            if mask.mode in ("1", "L", "I;16", "I"):
                self._check_values(_grey_values(mask, content), place)
                return ReadMask(content, None) if mask.mode == "L" else self._packed_grey(mask)
            pixels = np.asarray(mask.convert("RGB"))
            return ReadMask(_png(self._by_colors(pixels, place)), "mask-by-color")

    def _of_palette(self, mask: Image.Image, content: bytes, place: str) -> ReadMask:
        values = np.asarray(mask)
        used = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
        palette = mask.getpalette() or []
        colors = [_color(palette[3 * i : 3 * i + 3]) for i in used.tolist()]
        ids = [self.ids.get(color) for color in colors]
        if ids == used.tolist():
            return ReadMask(content, None)
        known = [i for i, color in zip(ids, colors, strict=True) if i is not None and any(color)]
        if None not in ids:
            table = np.zeros(256, np.uint8)
            table[used] = np.array(ids, np.uint8)
            return ReadMask(_png(table[values]), "mask-by-color")
        if known:
            strange = [color for i, color in zip(ids, colors, strict=True) if i is None]
            raise self._strange_colors(strange, values, place)
        self._check_values(values, place)
        return ReadMask(content, "mask-by-value")

    def _packed_grey(self, mask: Image.Image) -> ReadMask:
        return ReadMask(_png(np.asarray(mask).astype(np.uint8)), "mask-by-value")

    def _check_values(self, values: NDArray[np.generic], place: str) -> None:
        found = np.unique(values)
        strange = found[(found > len(self.names)) & (found != VOID)]
        if len(strange):
            shown = ", ".join(map(str, strange[:_MOST_SHOWN].tolist()))
            problem = (
                f"holds values of no class: {shown} (classes: 1 … {len(self.names)}, void 255)"
            )
            hint = "give the classes by --classes or a labelmap.txt beside the masks"
            raise DataError(place, problem, hint)

    def _by_colors(self, pixels: NDArray[np.uint8], place: str) -> NDArray[np.uint8]:
        packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        colors, where = np.unique(packed, return_inverse=True)
        split = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in colors.tolist()]
        strange = [color for color in split if color not in self.ids]
        if strange:
            raise self._strange_colors(strange, pixels, place)
        ids = np.array([self.ids[color] for color in split], np.uint8)
        return ids[where].reshape(pixels.shape[:2])

    def _strange_colors(
        self, colors: Sequence[tuple[int, ...]], pixels: NDArray[np.generic], place: str
    ) -> DataError:
        shown = ", ".join(str(color) for color in colors[:_MOST_SHOWN])
        more = f" and {len(colors) - _MOST_SHOWN} more" if len(colors) > _MOST_SHOWN else ""
        problem = f"holds colours of no class: {shown}{more}"
        if len(colors) > len(self.names) + 50 and pixels.ndim == 3:
            problem += "; so many colours come of smoothing or of JPEG"
        return DataError(place, problem, "add them to a labelmap.txt beside the masks")


def _color(channels: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = [*channels, 0, 0, 0][:3]  # a palette may be shorter than its values
    return red, green, blue


def check_mask_size(content: bytes, size_wh: tuple[int, int], place: str) -> None:
    """Check that a mask is a PNG of its picture's size.

    Raises:
        DataError: It is not.
    """
    found = picture_size(content, "PNG", place)
    if found != size_wh:
        problem = f"is {found[0]} x {found[1]} px, its picture {size_wh[0]} x {size_wh[1]}"
        raise DataError(place, problem)


def check_object_mask(content: bytes, size_wh: tuple[int, int], place: str) -> None:
    """Check that a mask of objects holds numbers: a palette or grey PNG of its picture's size.

    Raises:
        DataError: It does not.
    """
    check_mask_size(content, size_wh, place)
    with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
        if picture.mode not in {"P", "L"}:
            raise DataError(place, f"a mask of objects has mode 'P' or 'L', not {picture.mode!r}")


class _opened:  # noqa: N801
    def __init__(self, content: bytes, place: str) -> None:
        self._content, self._place = content, place

    def __enter__(self) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._picture = Image.open(io.BytesIO(self._content), formats=("PNG",))
                self._picture.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
            raise DataError(self._place, f"does not decode: {exc}") from exc
        return self._picture

    def __exit__(self, *_: object) -> None:
        self._picture.close()


def _grey_values(mask: Image.Image, content: bytes) -> NDArray[np.generic]:
    values = np.asarray(mask)
    if mask.mode == "L":
        bits = content[24]  # of the IHDR chunk: Pillow scales greys of fewer bits to 0 … 255
        return values // (255 // (2**bits - 1)) if bits < 8 else values
    return values


def _png(ids: NDArray[np.uint8]) -> bytes:
    """Encode class ids with VOC's palette, so that people see them."""
    image = Image.fromarray(ids)
    image.putpalette(_VOC_PALETTE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
