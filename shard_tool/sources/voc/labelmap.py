"""Reads which class has which colour in masks: labelmap.txt, class_names.txt and colors.txt.

Sources:
    CVAT and Datumaro write ``labelmap.txt``: lines ``name:r,g,b:parts:actions``.
    labelme2voc writes ``class_names.txt``: a name a line, ``_background_`` first; the colours are
    VOC's by number.
    Supervisely writes ``colors.txt``: lines ``name r g b``; ``neutral`` is the border
    (supervisely-ecosystem/export-to-pascal-voc, src/main.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from shard_tool.errors import SourceError
from shard_tool.pictures.masks import Color, voc_color

if TYPE_CHECKING:
    from shard_tool.sources.files.archive import SourceFiles
    from shard_tool.sources.files.file_table import FileTable
    from shard_tool.sources.voc.layout import Layout

_BACKGROUND = ("background", "_background_")
_IGNORED = ("__ignore__", "_ignore_", "ignore", "void")


class LabelMap(NamedTuple):
    """What a file says of the colours in masks."""

    colors: tuple[tuple[str, Color], ...]
    """Class and colour, in the file's order; '' is the background."""
    void: tuple[Color, ...]
    """Colours of what is not judged."""


def read_labelmap(files: SourceFiles, table: FileTable, layout: Layout) -> LabelMap | None:
    """The colours of a source's classes; None if it does not say them, or has no masks.

    Raises:
        SourceError: A line is not of the format, or a name or colour is there twice.
    """
    if all(part.class_masks is None for part in layout.parts):
        return None
    above = [layout.root, layout.root.rpartition("/")[0], ""]
    for folder in dict.fromkeys(above):
        lists = table.files.get((folder, "list"))
        for name, parse in _FILES.items():
            if lists is not None and (span := lists.find(name)):
                place = files.place(span)
                lines = files.read(span).decode("utf-8-sig", "replace").splitlines()
                return _checked(parse([line.strip() for line in lines], place), place)
    return None


Named = list[tuple[str, tuple[int, ...]]]


def _labelmap(lines: list[str], place: str) -> Named:
    found = []
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#"):
            name, _, rest = line.partition(":")
            channels = rest.partition(":")[0].split(",")
            expected = "name:red,green,blue::"
            found.append((name.strip(), _channels(channels, line, number, expected, place)))
    return found


def _colors(lines: list[str], place: str) -> Named:
    found = []
    for number, line in enumerate(lines, start=1):
        if line:
            name, *channels = line.rsplit(maxsplit=3)
            color = _channels(channels, line, number, "name red green blue", place)
            found.append(("__ignore__" if name == "neutral" else name, color))
    return found


def _channels(
    channels: list[str], line: str, number: int, expected: str, place: str
) -> tuple[int, ...]:
    if len(channels) != 3 or not all(n.strip().isdecimal() and int(n) < 256 for n in channels):
        raise SourceError(place, f"line {number} is {line!r}, expected {expected}")
    return tuple(int(n) for n in channels)


def _class_names(lines: list[str], place: str) -> Named:  # noqa: ARG001
    names = [line for line in lines if line]
    if names and names[0] in _IGNORED:
        names = names[1:]
    first = 0 if names and names[0] in _BACKGROUND else 1
    return [(name, voc_color(label)) for label, name in enumerate(names, start=first)]


_FILES = {"labelmap": _labelmap, "class_names": _class_names, "colors": _colors}
"""Name of a file without '.txt' to what parses its lines."""


def _checked(found: Named, place: str) -> LabelMap:
    colors, void = dict[str, Color](), list[Color]()
    for name, (red, green, blue) in found:
        color = (red, green, blue)
        if color in [*colors.values(), *void]:
            raise SourceError(place, f"{name!r} or its colour {color} is there twice")
        if name.casefold() in _IGNORED:
            void.append(color)
            continue
        if name.casefold() in _BACKGROUND:
            name = ""
        if name in colors:
            raise SourceError(place, f"{name!r} or its colour {color} is there twice")
        colors[name] = color
    return LabelMap(tuple(colors.items()), tuple(void))
