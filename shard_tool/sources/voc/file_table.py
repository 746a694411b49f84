"""Where the files of a devkit lie: some 35 bytes a file, however many there are.

Names are kept sorted, as bytes beside their offsets and sizes, so that a million pictures and their
annotations take 70 MB and all records of a shard are found at once.
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
    """Names without suffix, UTF-8 (or whatever bytes they were), sorted."""
    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    crcs: NDArray[np.uint32] | None = None
    """CRC-32 of each, where its bytes were seen when it was found."""

    def place(self, row: int) -> tuple[int, int, int | None]:
        """(offset, size, CRC-32 or None) of the file in a row."""
        crc = None if self.crcs is None else int(self.crcs[row])
        return int(self.offsets[row]), int(self.sizes[row]), crc

    def rows(self, stems: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Where each of these stands; -1 where there is no such file."""
        at = np.searchsorted(self.stems, stems)
        found = self.stems[np.minimum(at, len(self.stems) - 1)] == stems
        return np.where(found, at, -1)


@dataclass(frozen=True, slots=True)
class FileTable:
    """The files of all folders of a devkit."""

    folders: dict[str, Files]

    def find(self, folder: str, stem: bytes) -> tuple[int, int, int | None] | None:
        """(offset, size, CRC-32 or None) of one file, or None."""
        files = self.folders.get(folder)
        row = int(files.rows(np.array([stem], np.bytes_))[0]) if files else -1
        return files.place(row) if files and row >= 0 else None

    def rows(self, folder: str, stems: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Rows of `folder` these stems have; -1 where there is no such file or folder."""
        files = self.folders.get(folder)
        return files.rows(stems) if files else np.full(len(stems), -1, np.int64)

    def sizes(self, folder: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of the files in these rows; -1 for row -1."""
        files = self.folders.get(folder)
        if files is None:
            return np.full(len(rows), -1, np.int64)
        return np.where(rows >= 0, files.sizes[rows].astype(np.int64), -1)

    def sha256(self) -> str:
        """Digest over names, offsets and sizes."""
        digest = sha256()
        for folder in sorted(self.folders):
            files = self.folders[folder]
            digest.update(f"{folder} {len(files.stems)} {files.stems.itemsize}\n".encode())
            for column in (files.stems, files.offsets, files.sizes):
                digest.update(np.ascontiguousarray(column).data.cast("B"))
        return digest.hexdigest()


class FileTableBuilder:
    """Collects files one by one, in as little memory as the table takes."""

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
        """Note a file; of two with one name the later one counts, as in any tar."""
        columns = self._columns.get((inner, folder))
        if columns is None:
            columns = (bytearray(), array("Q"), array("Q"), array("L"))
            self._columns[inner, folder] = columns
        stems, offsets, sizes, crcs = columns
        stems += stem + b"\0"  # no file name holds it
        offsets.append(offset)
        sizes.append(size)
        if crc is not None:
            crcs.append(crc)

    def by_inner(self) -> dict[str, FileTable]:
        """Year's folder to its files; empties this builder."""
        found: dict[str, FileTable] = {}
        while self._columns:
            (inner, folder), columns = self._columns.popitem()
            found.setdefault(inner, FileTable({})).folders[folder] = _sorted(*columns)
        return found


_Columns = tuple[bytearray, "array[int]", "array[int]", "array[int]"]
"""Names, offsets, sizes, CRCs (or none)."""


def _sorted(joined: bytearray, offsets: array[int], sizes: array[int], crcs: array[int]) -> Files:
    stems = np.array(bytes(joined).split(b"\0")[:-1], np.bytes_)
    order = np.argsort(stems, kind="stable")
    stems = stems[order]
    is_last = np.append(stems[1:] != stems[:-1], True)
    order, stems = order[is_last], stems[is_last]
    at, size = (np.frombuffer(column, np.uint64)[order] for column in (offsets, sizes))
    return Files(stems, at, size, np.array(crcs, np.uint32)[order] if crcs else None)
