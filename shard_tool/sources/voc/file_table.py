"""Stores the positions of a devkit's files in about 35 bytes each.

Names, offsets and sizes are sorted numpy arrays, so a million pictures and their annotations take
70 MB, and one search finds all records of a shard.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one folder."""

    stems: NDArray[np.bytes_]
    """Names without suffix, sorted; UTF-8, or the bytes found where they are not."""
    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    crcs: NDArray[np.uint32] | None = None
    """CRC-32 of each file; None if the scan did not read contents."""

    def place(self, row: int) -> tuple[int, int, int | None]:
        """(offset, size, CRC-32 or None) of the file in this row."""
        crc = None if self.crcs is None else int(self.crcs[row])
        return int(self.offsets[row]), int(self.sizes[row]), crc

    def rows(self, stems: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Row of each of these names; -1 for a missing file."""
        at = np.searchsorted(self.stems, stems)
        found = self.stems[np.minimum(at, len(self.stems) - 1)] == stems
        return np.where(found, at, -1)


@dataclass(frozen=True, slots=True)
class FileTable:
    """The files of a devkit, by folder."""

    folders: dict[str, Files]

    def find(self, folder: str, stem: bytes) -> tuple[int, int, int | None] | None:
        """(offset, size, CRC-32 or None) of a file; None for a missing one."""
        files = self.folders.get(folder)
        row = int(files.rows(np.array([stem], np.bytes_))[0]) if files else -1
        return files.place(row) if files and row >= 0 else None

    def rows(self, folder: str, stems: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Row of each of these names in `folder`; -1 for a missing file or folder."""
        files = self.folders.get(folder)
        return files.rows(stems) if files else np.full(len(stems), -1, np.int64)

    def sizes(self, folder: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Length in bytes of the file in each of these rows; -1 for row -1."""
        files = self.folders.get(folder)
        if files is None:
            return np.full(len(rows), -1, np.int64)
        return np.where(rows >= 0, files.sizes[rows].astype(np.int64), -1)

    def sha256(self) -> str:
        """Digest of names, offsets and sizes."""
        digest = sha256()
        for folder in sorted(self.folders):
            files = self.folders[folder]
            digest.update(f"{folder} {len(files.stems)} {files.stems.itemsize}\n".encode())
            for column in (files.stems, files.offsets, files.sizes):
                digest.update(np.ascontiguousarray(column).data.cast("B"))
        return digest.hexdigest()


class FileTableBuilder:
    """Collects files one by one in little more memory than the table takes."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], _Columns] = {}

    def add(
        self,
        inner: str,
        folder: str,
        stem: bytes,
        offset: int,
        size: int,
        crc: int | None = None,
    ) -> None:
        """Add a file; of two files with one name the later counts, as in any tar."""
        columns = self._columns.get((inner, folder))
        if columns is None:
            columns = (bytearray(), array("Q"), array("Q"), array("L"))
            self._columns[inner, folder] = columns
        stems, offsets, sizes, crcs = columns
        stems += stem + b"\0"  # no file name contains it
        offsets.append(offset)
        sizes.append(size)
        if crc is not None:
            crcs.append(crc)

    def by_inner(self) -> dict[str, FileTable]:
        """Map each year's folder to its files; empties this builder."""
        found: dict[str, FileTable] = {}
        while self._columns:
            (inner, folder), columns = self._columns.popitem()
            found.setdefault(inner, FileTable({})).folders[folder] = _sorted(*columns)
        return found


_Columns = tuple[bytearray, "array[int]", "array[int]", "array[int]"]
"""Names, offsets, sizes, CRC-32s (or none)."""


def _sorted(joined: bytearray, offsets: array[int], sizes: array[int], crcs: array[int]) -> Files:
    stems = np.array(bytes(joined).split(b"\0")[:-1], np.bytes_)
    order = np.argsort(stems, kind="stable")
    stems = stems[order]
    is_last = np.append(stems[1:] != stems[:-1], True)
    order, stems = order[is_last], stems[is_last]
    at, size = (np.frombuffer(column, np.uint64)[order] for column in (offsets, sizes))
    return Files(stems, at, size, np.array(crcs, np.uint32)[order] if crcs else None)
