"""Reads which class has which colour in masks: ``labelmap.txt`` and ``class_names.txt``.

Sources:
    CVAT and Datumaro write ``labelmap.txt``: lines ``name:r,g,b:parts:actions``, background first.
    labelme2voc writes ``class_names.txt``: a name a line, ``_background_`` first; the colours are
    VOC's by number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.errors import SourceError
from shard_tool.pictures.masks import voc_color

if TYPE_CHECKING:
    from shard_tool.sources.archive import SourceFiles
    from shard_tool.sources.file_table import FileTable
    from shard_tool.sources.voc.layout import Layout

_BACKGROUND = ("background", "_background_")
_IGNORED = ("__ignore__", "_ignore_", "ignore", "void")
Colors = dict[str, tuple[int, int, int]]


def read_labelmap(files: SourceFiles, table: FileTable, layout: Layout) -> Colors:
    """The colours of a source's classes, of the background as ''; empty if it does not say them.

    Raises:
        SourceError: A line is not of the format, or a name or colour is there twice.
    """
    above = [layout.root, layout.root.rpartition("/")[0], ""]
    for folder in dict.fromkeys(above):
        lists = table.files.get((folder, "list"))
        for name, parse in (("labelmap", _labelmap), ("class_names", _class_names)):
            if lists is not None and (span := lists.find(name)):
                place = files.place(span)
                text = files.read(span).decode("utf-8-sig", "replace")
                return _checked(parse(text.splitlines(), place), place)
    return {}


def _labelmap(lines: list[str], place: str) -> list[tuple[str, tuple[int, ...]]]:
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        numbers = rest.partition(":")[0].split(",")
        if len(numbers) != 3 or not all(n.strip().isdecimal() and int(n) < 256 for n in numbers):
            raise SourceError(place, f"line {number} is {line!r}, expected name:red,green,blue::")
        found.append((name.strip(), tuple(int(n) for n in numbers)))
    return found


def _class_names(lines: list[str], place: str) -> list[tuple[str, tuple[int, ...]]]:  # noqa: ARG001
    names = [line.strip() for line in lines if line.strip()]
    if names and names[0] in _IGNORED:
        names = names[1:]
    first = 0 if names and names[0] in _BACKGROUND else 1
    return [(name, voc_color(label)) for label, name in enumerate(names, start=first)]


def _checked(found: list[tuple[str, tuple[int, ...]]], place: str) -> Colors:
    colors: Colors = {}
    for name, color in found:
        if name.casefold() in _IGNORED:
            continue
        if name.casefold() in _BACKGROUND:
            name = ""
        if name in colors or color in colors.values():
            raise SourceError(place, f"{name!r} or its colour {color} is there twice")
        colors[name] = (color[0], color[1], color[2])
    return colors
