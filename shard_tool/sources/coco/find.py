"""Finds COCO JSON among the files of a source by its content, without reading what is not of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.sources.coco.content import CocoJson, read_json
from shard_tool.sources.coco.splits import has_instances_beside
from shard_tool.sources.coco.text import content_of, peeks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shard_tool.sources.files.archive import FileSpan
    from shard_tool.sources.files.file_table import Files, FileTable
    from shard_tool.sources.files.listing import Listing

_LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_FEW = 64
"""Of so many files each is looked at, whatever it is called."""
_MOST_LOOKED_AT = 1024


@dataclass(frozen=True)
class FoundJson:
    """The JSON files of a source."""

    read: tuple[CocoJson, ...]
    """Those of COCO's form, sorted by name."""
    broken: SourceError | None = None
    """Why one that looks like it cannot be read."""
    beside: tuple[FileSpan, ...] = ()
    """Captions, key points and the like, whose pictures' instances another file holds."""
    other: FileSpan | None = None
    """The first other one; None: there is none."""
    num_others: int = 0


def find_json(listing: Listing) -> FoundJson:
    """Find and index the COCO JSON of a source.

    Raises:
        SourceError: A file cannot be read at all.
        StoreError: Storage failed, and went on failing.
    """
    files, spans = listing.files, candidates(listing.table)
    looked = zip(spans, peeks(files, spans), strict=True)
    likely = [span for span, ends in looked if _LISTS.search(ends)]
    names = {span.name for span in likely}
    beside = tuple(span for span in likely if has_instances_beside(span.name, names))
    read: list[CocoJson] = []
    broken: SourceError | None = None
    for span in likely:
        if span in beside:
            continue
        try:
            its = read_json(content_of(files, span), span, files.place(span))
        except SourceError as exc:
            broken = broken or exc
            continue
        read += [its] if its is not None else []
    known = {*beside, *(its.span for its in read)}
    other = next((span for span in _every(listing.table) if span not in known), None)
    num_others = listing.table.count("json") - len(known)
    return FoundJson(tuple(read), broken, beside, other, num_others)


def candidates(table: FileTable) -> list[FileSpan]:
    """The JSON files that may be COCO's, sorted by name.

    COCO's JSON holds many pictures. So among many files the largest are taken, but for those that
    are named as a picture beside them, as labelme names them.
    """
    every = table.of_kind("json")
    is_many = table.count("json") > _FEW
    found = [
        (files, row, int(files.sizes[row]))
        for folder, files in every.items()
        for row in _rows(files, table.files.get((folder, "picture")) if is_many else None)
    ]
    found.sort(key=lambda its: its[2], reverse=True)
    return sorted(files.span(row) for files, row, _ in found[:_MOST_LOOKED_AT])


def _rows(files: Files, pictures: Files | None) -> Sequence[int]:
    """The rows of files that are not named as one of these pictures."""
    if pictures is None:
        return range(len(files))
    return np.flatnonzero(pictures.rows(files.stems) < 0).tolist()


def _every(table: FileTable) -> Iterator[FileSpan]:
    for files in table.of_kind("json").values():
        yield from map(files.span, range(len(files)))


def told(spans: Sequence[FileSpan], most: int = 4) -> str:
    """The names of some files, for the user."""
    more = f" and {len(spans) - most} more" if len(spans) > most else ""
    return ", ".join(span.name for span in spans[:most]) + more
