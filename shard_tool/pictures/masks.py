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
from shard_tool.format.class_names import classes_option
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.pictures.size import picture_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

VOID = 255
_VOID_COLOR = (224, 224, 192)
"""VOC's colour of borders and of what is not judged."""
_MOST_SHOWN = 5
_SAY_CLASSES = (
    "put a labelmap.txt (lines name:red,green,blue::) beside the folder of masks; or, where values "
    "count the classes from 1, give these by --classes"
)
Color = tuple[int, int, int]
_PNG_LEVEL = 6
_BITS = 24
"""Where a PNG says its bits a channel, in its IHDR chunk."""


def voc_color(label: int) -> Color:
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


VOC_COLORS = tuple((name, voc_color(label)) for label, name in enumerate(VOC_CLASSES, start=1))
_VOC_PALETTE = bytes(channel for label in range(256) for channel in voc_color(label))


class ReadMask(NamedTuple):
    """A mask as it goes into a shard."""

    content: bytes
    note: str | None
    """Code of what is to be reported; None: the bytes are the source's."""
    dropped: tuple[str, ...] = ()
    """Classes whose pixels became void, since the user drops them."""


@dataclass(frozen=True)
class MaskColors:
    """What colours and values mean in the masks of one source."""

    names: tuple[str, ...]
    """The dataset's classes in label order, from 1."""
    colors: tuple[tuple[str, Color], ...]
    """Class and its colour; a class may have several. '' is background that is not black."""
    values: tuple[str, ...] | None
    """Class of each value, from 1; None: nothing says it."""
    void_colors: tuple[Color, ...] = ()
    """Colours of what is not judged, beside VOC's."""
    drops_others: bool = False
    """Whether pixels of other classes than `names` become void; else they are errors."""

    @cached_property
    def labels(self) -> dict[str, int]:
        """Class to label."""
        return {name: label for label, name in enumerate(self.names, start=1)}

    @cached_property
    def ids(self) -> dict[Color, int]:
        """Colour to class id."""
        known = {(0, 0, 0): 0} | dict.fromkeys((_VOID_COLOR, *self.void_colors), VOID)
        for name, color in self.colors:
            if not name or name in self.labels:
                known[color] = self.labels.get(name, 0)
            elif self.drops_others:
                known[color] = VOID
        return known

    @cached_property
    def id_of_value(self) -> NDArray[np.int64]:
        """[256]: value of a grey mask to class id; -1 for a value of no class."""
        table = np.full(256, -1)
        table[0], table[VOID] = 0, VOID
        other = VOID if self.drops_others else -1
        for value, name in enumerate((self.values or ())[: VOID - 1], start=1):
            table[value] = self.labels.get(name, other)
        return table

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
            if mask.mode in ("1", "L", "LA", "I;16", "I"):
                greys = _greys(mask)
                if self._are_colors(greys):
                    return self._by_greys(greys, place)
                return self._of_values(_grey_values(mask, content), mask.mode, content, place)
            pixels = np.asarray(mask.convert("RGB"))
            return self._by_colors(pixels, place)

    @cached_property
    def _class_greys(self) -> frozenset[int]:
        """Greys that a file of the source gives classes, such as white.

        VOC's own colours do not count, nor black: values mean more there.
        """
        named = enumerate((color for name, color in self.colors if name), start=1)
        greys = (color for number, color in named if color != voc_color(min(number, VOID)))
        return frozenset(color[0] for color in greys if len(set(color)) == 1 and any(color))

    @cached_property
    def _id_of_grey(self) -> dict[int, int]:
        greys = {color[0]: i for color, i in self.ids.items() if len(set(color)) == 1}
        return greys if VOID in self._class_greys else {VOID: VOID} | greys

    def _are_colors(self, greys: NDArray[np.generic]) -> bool:
        """Whether the values of a grey mask are all colours, some of them of classes."""
        if not self._class_greys:
            return False
        found = {*np.unique(greys).tolist()}
        is_one_a_class = not found.isdisjoint(self._class_greys)
        return is_one_a_class and found <= self._id_of_grey.keys() | self._class_greys

    def _by_greys(self, greys: NDArray[np.generic], place: str) -> ReadMask:
        found, where = np.unique(greys, return_inverse=True)
        ids = [self._id_of_grey.get(grey) for grey in found.tolist()]
        colors = [(g, g, g) for g in found.tolist()]
        if strange := [color for color, i in zip(colors, ids, strict=True) if i is None]:
            raise self._strange_colors(strange, greys, place)
        content = _png(np.array(ids, np.uint8)[where].reshape(greys.shape))
        return ReadMask(content, "mask-by-color", self._dropped(colors))

    def _dropped(self, colors: Sequence[Color | None]) -> tuple[str, ...]:
        """The classes among colours that the user drops."""
        if not self.drops_others:
            return ()
        others = ((name, color) for name, color in self.colors if name not in self.labels)
        return tuple(dict.fromkeys(name for name, color in others if name and color in colors))

    def _dropped_values(self, found: NDArray[np.generic]) -> tuple[str, ...]:
        names = enumerate(self.values or (), start=1)
        others = [name for value, name in names if name not in self.labels and value in found]
        return tuple(dict.fromkeys(others))

    def _of_palette(self, mask: Image.Image, content: bytes, place: str) -> ReadMask:
        values = np.asarray(mask)
        used = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
        palette = mask.getpalette() or []
        colors = [_color(palette, value) for value in used.tolist()]
        ids = [None if color is None else self.ids.get(color) for color in colors]
        if ids == used.tolist():
            return ReadMask(content, _note(used), self._dropped(colors))
        both = list(zip(ids, colors, strict=True))
        known = [color for i, color in both if i is not None and any(color or ())]
        is_plain = len(set(colors)) == len(colors) and any(palette)
        if is_plain and None not in ids:
            table = np.zeros(256, np.uint8)
            table[used] = np.array(ids, np.uint8)
            return ReadMask(_png(table[values]), "mask-by-color", self._dropped(colors))
        strange = [color for i, color in both if i is None and color is not None]
        if strange and (known or self.values is None):
            raise self._strange_colors(strange, values, place)
        if known:
            raise _bad_palette(used.tolist(), colors, place)
        read = self._of_values(values, mask.mode, content, place)
        return read._replace(note=read.note or "mask-by-value")

    def _of_values(
        self, values: NDArray[np.generic], mode: str, content: bytes, place: str
    ) -> ReadMask:
        found = np.unique(values).astype(int)
        if self.values is None and found[found != VOID].any():
            problem = "holds values, and nothing says which class each of them is"
            raise DataError(place, problem, _SAY_CLASSES)
        is_known = (found <= VOID) & (self.id_of_value[np.minimum(found, VOID)] >= 0)
        if not is_known.all():
            shown = ", ".join(map(str, found[~is_known][:_MOST_SHOWN].tolist()))
            problem = f"holds values of no class: {shown} (classes: 1 … {len(self.values or ())}"
            raise DataError(place, f"{problem}, void {VOID})", _SAY_CLASSES)
        is_same = bool((self.id_of_value[found] == found).all())
        if is_same and (mode == "P" or (mode == "L" and content[_BITS] == 8)):
            return ReadMask(content, _note(found))
        ids = self.id_of_value[values.astype(int)].astype(np.uint8)
        return ReadMask(_png(ids), "mask-by-value", self._dropped_values(found))

    def _by_colors(self, pixels: NDArray[np.uint8], place: str) -> ReadMask:
        packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        colors, where = np.unique(packed, return_inverse=True)
        split = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in colors.tolist()]
        strange = [color for color in split if color not in self.ids]
        if strange:
            raise self._strange_colors(strange, pixels, place)
        ids = np.array([self.ids[color] for color in split], np.uint8)
        content = _png(ids[where].reshape(pixels.shape[:2]))
        return ReadMask(content, "mask-by-color", self._dropped(split))

    def _strange_colors(
        self, colors: Sequence[tuple[int, ...]], pixels: NDArray[np.generic], place: str
    ) -> DataError:
        others = {color: name for name, color in self.colors}
        told = [
            f"{color}" + (f" of {others[color]!r}" if color in others else "") for color in colors
        ]
        more = f" and {len(colors) - _MOST_SHOWN} more" if len(colors) > _MOST_SHOWN else ""
        problem = f"holds colours of no class: {', '.join(told[:_MOST_SHOWN])}{more}"
        if len(colors) > len(self.names) + 50 and pixels.ndim == 3:
            problem += "; so many colours come of smoothing or of JPEG"
        if any(color in others for color in colors):
            names = dict.fromkeys([*self.names, *(name for name, _ in self.colors if name)])
            return DataError(place, problem, f"add {classes_option(list(names))}")
        return DataError(place, problem, _SAY_CLASSES)


def _note(ids: NDArray[np.generic]) -> str | None:
    """Masks of 0 and 255 may be drawn in black and white, and mean another thing by 255."""
    return "mask-void-alone" if VOID in ids and not np.any((ids != 0) & (ids != VOID)) else None


def _color(palette: Sequence[int], value: int) -> Color | None:
    """The colour of a value; None where the palette is shorter."""
    channels = palette[3 * value : 3 * value + 3]
    return (channels[0], channels[1], channels[2]) if len(channels) == 3 else None


def _bad_palette(used: Sequence[int], colors: Sequence[Color | None], place: str) -> DataError:
    """The error for a palette that tells some classes, and not all values from each other."""
    color = next(color for color in colors if color is None or colors.count(color) > 1)
    values = [value for value, its in zip(used, colors, strict=True) if its == color]
    shown = ", ".join(map(str, values[:_MOST_SHOWN]))
    told = "has no colour for" if color is None else f"has one colour, {color}, for"
    hint = "give each class its colour, or write grey masks whose values count the classes"
    return DataError(place, f"its palette {told} values {shown}", hint)


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


def check_class_ids(content: bytes, num_classes: int, place: str) -> int:
    """Check that a mask of a shard holds class ids; returns the highest one, void apart.

    Args:
        content: A PNG.
        num_classes: How many classes there are: ids are 0 … `num_classes`, and 255 for void.
        place: The mask's name in errors.

    Raises:
        DataError: It does not decode, has colours instead of values, or values of no class.
    """
    with _opened(content, place) as mask:
        if mask.mode not in {"P", "L", "1"}:
            raise DataError(place, f"a mask of classes has mode 'P' or 'L', not {mask.mode!r}")
        found = np.unique(_grey_values(mask, content))
    ids = found[found != VOID].astype(int)
    if (strange := ids[ids > num_classes]).size:
        shown = ", ".join(map(str, strange[:_MOST_SHOWN].tolist()))
        problem = f"holds values of no class: {shown} (classes: 1 … {num_classes}, void {VOID})"
        raise DataError(place, problem, "values are the classes' labels; convert the data")
    return int(ids.max(initial=0))


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


def _greys(mask: Image.Image) -> NDArray[np.generic]:
    """The greys of a mask as one sees them: white is 255, with few bits as well."""
    if mask.mode in ("1", "LA"):
        return np.asarray(mask.convert("L"))
    return np.asarray(mask)


def _grey_values(mask: Image.Image, content: bytes) -> NDArray[np.generic]:
    values = np.asarray(mask.getchannel("L") if mask.mode == "LA" else mask)
    if mask.mode == "L":
        bits = content[_BITS]  # Pillow scales greys of fewer bits to 0 … 255
        return values // (255 // (2**bits - 1)) if bits < 8 else values
    return values


def _png(ids: NDArray[np.uint8]) -> bytes:
    """Encode class ids with VOC's palette, so that people see them."""
    image = Image.fromarray(ids)
    image.putpalette(_VOC_PALETTE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
