"""Stores the positions of a source's files in about 35 bytes each.

Names, offsets and sizes are sorted numpy arrays, so a million pictures and their annotations take
70 MB, and one search finds all files of many records. A file is known by its folder, its kind and
its stem: ``images/a.JPG`` is the picture ``a`` of the folder ``images``.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shard_tool.sources.files.archive import FileSpan, is_clutter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

KIND_OF_SUFFIX = {
    ".xml": "annotation",
    ".txt": "list",
    ".json": "json",
    **dict.fromkeys((".yaml", ".yml"), "yaml"),
    ".data": "darknet",
    ".names": "names",
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"), "picture"),
    **dict.fromkeys((".tif", ".tiff", ".gif"), "picture"),
}
"""Suffix in lower case to the kind of a file; files with other suffixes are not read."""
_MOST_SUFFIXES = 1 << 16
_LONGEST_SUFFIX = 16
"""In characters; what follows the last dot of a longer one is part of a name."""


class Twice(NamedTuple):
    """Two files of one name and kind; the archive that holds them has two members of one name."""

    one: FileSpan
    other: FileSpan


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one kind in one folder."""

    folder: str
    stems: NDArray[np.bytes_]
    """Names without suffix, sorted, each once; UTF-8, or the bytes found where they are not."""
    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    suffixes: NDArray[np.uint16]
    """Row of each file's suffix in `suffix_names`."""
    suffix_names: tuple[str, ...]
    crcs: NDArray[np.uint32] | None = None
    """CRC-32 of each file; None if the scan did not read contents."""
    packed: NDArray[np.uint64] | None = None
    """Length of each file in the archive; None where no file is packed."""

    def __len__(self) -> int:
        return len(self.stems)

    def span(self, row: int) -> FileSpan:
        """Where the file in this row lies."""
        (span,) = self.spans(np.array([row]))
        assert span is not None
        return span

    def spans(self, rows: NDArray[np.int64]) -> list[FileSpan | None]:
        """Where the files in these rows lie; None for row -1."""
        if not len(self):
            return [None] * len(rows)
        folder = f"{self.folder}/" if self.folder else ""
        none = [None] * len(rows)
        columns = zip(
            rows.tolist(),
            self.stems[rows].tolist(),
            self.suffixes[rows].tolist(),
            self.offsets[rows].tolist(),
            self.sizes[rows].tolist(),
            none if self.crcs is None else self.crcs[rows].tolist(),
            none if self.packed is None else self.packed[rows].tolist(),
            strict=True,
        )
        names = self.suffix_names
        return [
            None
            if row < 0
            else FileSpan(
                f"{folder}{stem.decode('utf-8', 'surrogateescape')}{names[suffix]}",
                offset,
                size,
                crc,
                packed,
            )
            for row, stem, suffix, offset, size, crc, packed in columns
        ]

    def rows(self, stems: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Row of each of these names; -1 for a missing file."""
        at = np.searchsorted(self.stems, stems)
        found = self.stems[np.minimum(at, len(self.stems) - 1)] == stems
        return np.where(found, at, -1)

    def find(self, stem: str) -> FileSpan | None:
        """Where a file lies; None for a missing one."""
        encoded = np.array([stem.encode("utf-8", "surrogateescape")], np.bytes_)
        row = int(self.rows(encoded)[0])
        return self.span(row) if row >= 0 else None


@dataclass(frozen=True, slots=True)
class FileTable:
    """The files of a source by folder and kind, and what was odd about their names."""

    files: dict[tuple[str, str], Files]
    twice: list[Twice] = field(default_factory=list)
    """Members of an archive that have the name of another one."""
    other_suffixes: dict[str, int] = field(default_factory=dict)
    """Suffix to the number of files that were not read because of it."""
    num_hidden: int = 0
    """Number of files that would be read if they were not hidden."""
    first_hidden: str = ""
    """The first of them by name."""

    def of_kind(self, kind: str) -> dict[str, Files]:
        """Folder to its files of one kind."""
        return {folder: files for (folder, its), files in self.files.items() if its == kind}

    def count(self, kind: str) -> int:
        """Number of files of one kind."""
        return sum(len(files) for files in self.of_kind(kind).values())

    def sha256(self) -> str:
        """Digest of names, offsets and sizes."""
        digest = sha256()
        for (folder, kind), files in sorted(self.files.items()):
            head = f"{folder} {kind} {len(files)} {files.stems.itemsize} {files.suffix_names}\n"
            digest.update(head.encode("utf-8", "surrogateescape"))
            for column in (files.stems, files.offsets, files.sizes, files.suffixes):
                digest.update(np.ascontiguousarray(column).data.cast("B"))
        return digest.hexdigest()


class FileTableBuilder:
    """Collects files one by one in little more memory than the table takes."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], _Columns] = {}
        self._other_suffixes: dict[str, int] = {}
        self._num_hidden, self._first_hidden = 0, ""

    def add(self, span: FileSpan) -> None:
        """Add a file by its path below the source."""
        folder, _, name = span.name.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        kind = KIND_OF_SUFFIX.get(f".{suffix.lower()}") if dot and stem else None
        if kind is None:
            is_short = len(suffix) <= _LONGEST_SUFFIX
            shown = f".{suffix.lower()}" if dot and stem and is_short else ""
            if len(self._other_suffixes) < _MOST_SUFFIXES:
                self._other_suffixes[shown] = self._other_suffixes.get(shown, 0) + 1
            return
        if is_clutter(span.name):
            self._num_hidden += 1
            self._first_hidden = min(self._first_hidden or span.name, span.name)
            return
        columns = self._columns.get((folder, kind))
        if columns is None:
            columns = self._columns[folder, kind] = _Columns()
        columns.add(stem, f".{suffix}", span)

    def table(self) -> FileTable:
        """Make the table; empties this builder."""
        files, twice = dict[tuple[str, str], Files](), list[Twice]()
        while self._columns:
            (folder, kind), columns = self._columns.popitem()
            files[folder, kind] = columns.sorted(folder, twice)
        return FileTable(
            dict(sorted(files.items())),
            twice,
            dict(sorted(self._other_suffixes.items())),
            self._num_hidden,
            self._first_hidden,
        )


class _Columns:
    """The growing columns of one folder and kind."""

    def __init__(self) -> None:
        self._stems = bytearray()
        self._offsets, self._sizes, self._crcs = array("Q"), array("Q"), array("L")
        self._packed, self._suffixes = array("Q"), array("H")
        self._suffix_rows: dict[str, int] = {}

    def add(self, stem: str, suffix: str, span: FileSpan) -> None:
        self._stems += stem.encode("utf-8", "surrogateescape") + b"\0"  # no file name contains it
        self._offsets.append(span.offset)
        self._sizes.append(span.size)
        self._suffixes.append(self._suffix_rows.setdefault(suffix, len(self._suffix_rows)))
        if span.crc is not None:
            self._crcs.append(span.crc)
        if span.packed is not None:
            self._packed.append(span.packed)

    def sorted(self, folder: str, twice: list[Twice]) -> Files:
        stems = np.array(bytes(self._stems).split(b"\0")[:-1], np.bytes_)
        order = np.argsort(stems, kind="stable")
        stems = stems[order]
        known = sorted(self._suffix_rows)  # whatever the order in which a file system lists files
        ranks = np.array([known.index(suffix) for suffix in self._suffix_rows], np.uint16)
        suffixes = ranks[np.frombuffer(self._suffixes, np.uint16)]

        def columns(rows: NDArray[np.int64], names: NDArray[np.bytes_]) -> Files:
            return Files(
                folder,
                names,
                np.frombuffer(self._offsets, np.uint64)[rows],
                np.frombuffer(self._sizes, np.uint64)[rows],
                suffixes[rows],
                tuple(known),
                np.array(self._crcs, np.uint32)[rows] if self._crcs else None,
                np.frombuffer(self._packed, np.uint64)[rows] if self._packed else None,
            )

        again = np.flatnonzero(stems[1:] == stems[:-1])
        if len(again):
            every = columns(order, stems)
            twice += [Twice(every.span(row), every.span(row + 1)) for row in again.tolist()]
        is_first = np.append(True, stems[1:] != stems[:-1])
        return columns(order[is_first], stems[is_first])


def stems_of(files: Files) -> Iterator[str]:
    """The names of files without their suffixes, sorted."""
    return (stem.decode("utf-8", "surrogateescape") for stem in files.stems.tolist())
