"""Reads darknet's obj.data, as CVAT and Datumaro write it too: lines ``key = value``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.errors import SourceError
from shard_tool.sources.yolo.data_file import (
    SPLIT_KEYS,
    DataFile,
    check_count,
    names_of_lines,
    splits_of,
)
from shard_tool.sources.yolo.text import text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shard_tool.sources.files.file_span import FileSpan
    from shard_tool.sources.yolo.places import TextFile

MAX_BYTES = 1 << 16
"""A larger file is no obj.data."""


def parse_obj_data(
    content: bytes,
    span: FileSpan,
    place: str,
    find: Callable[[str, str], tuple[TextFile, bytes] | None],
) -> DataFile | None:
    """Parse a file ``*.data``.

    Args:
        content: The file's bytes.
        span: Where it lies.
        place: Its name in messages.
        find: Finds the file of names by the path written, seen from a folder.

    Returns:
        None: it is not darknet's, since it does not have `names` and a split.

    Raises:
        SourceError: It is darknet's, and a key is there twice, or the names are missing.
    """
    try:
        lines = text_of(content, place).split("\n")
    except SourceError:
        return None
    values = dict[str, str]()
    twice = ""
    for line in lines:
        key, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith(("#", ";")):
            twice = (
                key.strip() if values.get(key.strip(), value.strip()) != value.strip() else twice
            )
            values[key.strip()] = value.strip()
    splits = {key: (values[key],) for key in SPLIT_KEYS if values.get(key)}
    if not values.get("names") or not splits:
        return None
    if twice:
        raise SourceError(place, f"{twice!r} is there twice", "keep one")
    found = find(values["names"], span.name.rpartition("/")[0])
    if found is None:
        raise SourceError(place, f"names = {values['names']!r}: there is no such file")
    its, text = found[0], text_of(found[1], place)
    names = names_of_lines(text, f"{place}: names = {values['names']}")
    if count := values.get("classes"):
        check_count(count, names, place, "classes")
    told = f"{place}: names: {values['names']!r} is {its.span.name}"
    return DataFile(
        spans=(span, its.span),
        place=place,
        names=names,
        splits=splits_of(splits, place),
        notes=(("path-mended", told),) if its.base is None else (),
    )
