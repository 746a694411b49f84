"""Reads which labels and objects the lists of devkits give to the pictures of a split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.sources.voc.imagesets import (
    CLASS_LABELS,
    TASK_FOLDERS,
    parse_numbers,
    sorted_labels,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.files.archive import FileSpan
    from shard_tool.sources.files.file_table import FileTable
    from shard_tool.sources.voc.layout import Layout


class Lists(Protocol):
    """What a source knows of its lists; see `VocSource`, which is one."""

    @property
    def table(self) -> FileTable:
        """All files."""

    @property
    def layout(self) -> Layout:
        """Where the folders of lists are."""

    def list_of(self, folder: str, name: str) -> FileSpan | None:
        """Where a list lies."""

    def read(self, span: FileSpan) -> bytes:
        """Read a list."""

    def place(self, span: FileSpan | str) -> str:
        """Name of a list in messages."""


def numbered_lists(source: Lists, task: str, splits: Sequence[str]) -> list[FileSpan]:
    """Find the lists with labels or object numbers that a conversion for this task reads."""
    if task not in ("classification", "action"):
        return []
    path = source.layout.lists.get(TASK_FOLDERS[task])
    files = None if path is None else source.table.files.get((path, "list"))
    if files is None:
        return []
    ends = tuple(f"_{split}".encode() for split in splits)
    rows = [row for row, stem in enumerate(files.stems.tolist()) if stem.endswith(ends)]
    return [files.span(row) for row in rows]


def class_labels(
    source: Lists, split: str, ids: NDArray[np.bytes_], classes: Sequence[str]
) -> NDArray[np.int8] | None:
    """Read int8 [ids, classes] from the lists of the classes; None if there are none at all.

    Raises:
        SourceError: A class has no list and others have, or its list does not give each record one
            number.
    """
    if not len(ids) or not numbered_lists(source, "classification", [split]):
        return None
    labels = np.zeros((len(ids), len(classes)), np.int8)
    for column, name in enumerate(classes):
        span = source.list_of("Main", f"{name}_{split}")
        found = sorted_labels(source.read(span), place=source.place(span)) if span else None
        its, numbers = found or (ids[:0], np.zeros(0, int))
        at = np.minimum(np.searchsorted(its, ids), max(len(its) - 1, 0))
        is_said = (its[at] == ids) & np.isin(numbers[at], CLASS_LABELS) if len(its) else False
        if not np.all(is_said):
            raise _no_label(source, f"{name}_{split}", ids)
        labels[:, column] = numbers[at]
    return labels


def _no_label(source: Lists, name: str, ids: NDArray[np.bytes_]) -> SourceError:
    """The error for the list of a class: missing, or wrong about one of these ids."""
    span = source.list_of("Main", name)
    if span is None:
        place = source.place(f"{source.layout.lists['Main']}/{name}.txt")
        hint = "classification needs one for each class, or none; is the task another?"
        return SourceError(place, "there is no such list", hint)
    place = source.place(span)
    found = parse_numbers(source.read(span), place=place)
    for key in (key.decode("utf-8", "surrogateescape") for key in ids.tolist()):
        numbers = found.get(key, ())
        if len(numbers) != 1 or numbers[0] not in CLASS_LABELS:
            said = " and ".join(map(str, numbers)) or "nothing"
            problem = f"says {said} of picture {key!r}, expected one of -1, 0, 1"
            return SourceError(place, problem)
    return SourceError(place, "names a picture twice")


def listed_objects(source: Lists, task: str, split: str) -> dict[str, tuple[int, ...]]:
    """Map each id to the numbers of the objects that the lists of a split name."""
    found = dict[str, set[int]]()
    spans = numbered_lists(source, task, [split])
    if span := source.list_of(TASK_FOLDERS[task], split):
        spans = [span, *spans]
    for its in spans:
        for id_, numbers in parse_numbers(source.read(its), place=source.place(its)).items():
            found.setdefault(id_, set()).update(numbers)
    return {id_: tuple(sorted(numbers)) for id_, numbers in found.items()}
