"""A devkit with every kind of problem at once, each in some pictures among good ones."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from tests.kit.datasets.composed_files import encoded
from tests.kit.datasets.voc_tree import write

if TYPE_CHECKING:
    from pathlib import Path

W, H = 40, 30
GOOD = (3, 4, 20, 21)
NAMES = ("cat", "dog", "person", "car", "bus", "horse", "sheep")
_GOOD_PICTURES = [encoded("JPEG", (W, H), 1, shade) for shade in range(8)]


class Kind(NamedTuple):
    """A kind of problem, and what a dry run shows of it."""

    annotation: str | None
    picture: bytes | None
    told: str
    way: str
    """An option that helps, or what to mend."""


def thing(name: str, corners: tuple[object, ...] = GOOD, more: str = "") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def annotation(*things: str, size: tuple[int, int] | None = (W, H)) -> str:
    told = "<size><width>{}</width><height>{}</height></size>".format(*size) if size else ""
    return f"<annotation>{told}{''.join(things)}</annotation>"


def _absurd() -> bytes:
    """A PNG of one pixel whose header says 3.6 gigapixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


def _box(corners: tuple[object, ...], told: str, way: str = "--bad-boxes clip or drop") -> Kind:
    return Kind(annotation(thing("dog"), thing("cat", corners)), _GOOD_PICTURES[0], told, way)


def _object(text: str, told: str) -> Kind:
    content = annotation(thing("dog"), text)
    return Kind(content, _GOOD_PICTURES[0], told, "--on-bad-record skip")


def _file(text: str, told: str) -> Kind:
    return Kind(text, _GOOD_PICTURES[0], told, "--on-bad-record skip")


def _picture(content: bytes, told: str, text: str = "", way: str = "--on-bad-record skip") -> Kind:
    return Kind(text or annotation(thing("dog")), content, told, way)


_TWO = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
_PLAIN = annotation(thing("dog"))
KINDS: dict[str, Kind] = {
    "no picture": Kind(_PLAIN, None, "an annotation without its picture", "--on-bad-record skip"),
    "no annotation": Kind(None, _GOOD_PICTURES[0], "without its annotation", "--unlabelled drop"),
    "neither": Kind(None, None, "there is no such file", "--on-bad-record skip"),
    "cut": _file(_PLAIN[:-20], "not well-formed XML: unclosed"),
    "entity": _file(f'<!DOCTYPE a [<!ENTITY x "y">]>{_PLAIN}', "refused for safety"),
    "encoding": _file(f'<?xml version="1.0" encoding="klingon"?>{_PLAIN}', "klingon"),
    "root": _file(_PLAIN.replace("annotation>", "html>"), "the root tag is 'html'"),
    "hidden": _file(annotation(f"<items>{thing('dog')}</items>"), "no object was found"),
    "no name": _object(f"<object>{_TWO}</object>", "has no <name>"),
    "no box": _object("<object><name>cat</name></object>", "has no <bndbox>"),
    "two boxes": _object(thing("cat", more=_TWO), "has two <bndbox>"),
    "two names": _object(thing("cat", more="<name>dog</name>"), "has two <name>"),
    "word": _object(thing("cat", ("left", 1, 5, 5)), "expected a number"),
    "flag": _object(thing("cat", more="<difficult>maybe</difficult>"), "<difficult> is 'maybe'"),
    "right": _box((1, 1, 45, 5), "is outside width"),
    "below": _box((1, 1, 5, 45), "is outside height"),
    "left": _box((-5, 1, 5, 5), "xmin -5 is below"),
    "above": _box((1, -5, 5, 5), "ymin -5 is below"),
    "inverted": _box((20, 1, 5, 5), "lies right of xmax", "--bad-boxes drop"),
    "turned over": _box((1, 20, 5, 5), "lies below ymax", "--bad-boxes drop"),
    "apart": _box((50, 1, 60, 5), "xmax 60 is outside width", "--bad-boxes drop"),
    "twice as large": Kind(
        annotation(thing("dog"), size=(80, 60)),
        _GOOD_PICTURES[0],
        "says 80 x 60 px",
        "mismatch scale",
    ),
    "other aspect": Kind(
        annotation(thing("dog"), size=(70, 30)),
        _GOOD_PICTURES[0],
        "says 70 x 30 px",
        "mismatch ignore",
    ),
    "turned": _picture(encoded("JPEG", (W, H), 3, 1), "has EXIF orientation", way="--exif upright"),
    "no image": _picture(b"hello", "not a picture of a known format"),
    "absurd": _picture(_absurd(), "absurdly large"),
}
QUESTIONS = ("--rename Dog=dog --other-classes drop", "--boxes corners")
"""What the classes 'Dog' and 'raccoon' among VOC's make it ask, and boxes that begin at 0."""


_ODD = {0: thing("Dog"), 1: thing("raccoon"), 3: thing("cat", (0, 0, 5, 5))}


def all_wrong(root: Path, count: int) -> dict[str, int]:
    """Write `count` pictures, two of three good.

    Returns:
        Kind of problem to its number of pictures.
    """
    draw = random.Random(0)
    names, kinds = [], list(KINDS)
    counts = dict.fromkeys(KINDS, 0)
    for number in range(count):
        key = f"{number:06d}"
        names.append(key)
        content: str | None = annotation(thing(draw.choice(NAMES)))
        image: bytes | None = draw.choice(_GOOD_PICTURES)
        if number % 3 == 2:
            kind = kinds[number // 3 % len(kinds)]
            counts[kind] += 1
            content, image = KINDS[kind][:2]
        elif number in _ODD:
            content = annotation(_ODD[number])
        if content is not None:
            write(root / f"Annotations/{key}.xml", content.encode())
        if image is not None:
            write(root / f"JPEGImages/{key}.jpg", image)
    write(root / "ImageSets/Main/train.txt", "\n".join([*names, ""]).encode())
    return counts
