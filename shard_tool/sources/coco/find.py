"""Finds COCO JSON among the files of a source by its content, without reading what is not of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.sources.coco.content import CocoJson, read_json
from shard_tool.sources.coco.splits import has_instances_beside
from shard_tool.sources.coco.text import content_of, peeks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shard_tool.sources.archive import FileSpan
    from shard_tool.sources.file_table import Files, FileTable
    from shard_tool.sources.listing import Listing

_LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_MOST_LOOKED_AT = 64
"""Files of one folder: one of more holds a JSON a picture, as labelme writes them."""


@dataclass(frozen=True)
class FoundJson:
    """The JSON files of a source."""

    read: tuple[CocoJson, ...]
    """Those of COCO's form, sorted by name."""
    broken: SourceError | None = None
    """Why one that looks like it cannot be read."""
    beside: tuple[FileSpan, ...] = ()
    """Captions, key points and the like, whose pictures' instances another file holds."""
    num_others: int = 0
    others: tuple[FileSpan, ...] = field(default=(), repr=False)
    """The first other one."""


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
    num_others = listing.table.count("json") - len(read) - len(beside)
    known = {*beside, *(its.span for its in read)}
    others = tuple(span for span in spans if span not in known)[:1]
    return FoundJson(tuple(read), broken, beside, num_others, others)


def candidates(table: FileTable) -> list[FileSpan]:
    """The JSON files that may be COCO's, sorted by name.

    COCO's JSON holds many pictures. So of a folder with many files the largest are taken that are
    not named as a picture beside them.
    """
    found: list[FileSpan] = []
    for folder, files in table.of_kind("json").items():
        rows = np.arange(len(files))
        if len(rows) > _MOST_LOOKED_AT:
            rows = _apart(files, table.files.get((folder, "picture")))
            rows = rows[np.argsort(files.sizes[rows], kind="stable")[-_MOST_LOOKED_AT:]]
        found += [files.span(row) for row in rows.tolist()]
    return sorted(found)


def _apart(files: Files, pictures: Files | None) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    rows = np.arange(len(files))
    return rows if pictures is None else rows[pictures.rows(files.stems) < 0]


def told(spans: Sequence[FileSpan], most: int = 4) -> str:
    """The names of some files, for the user."""
    more = f" and {len(spans) - most} more" if len(spans) > most else ""
    return ", ".join(span.name for span in spans[:most]) + more
