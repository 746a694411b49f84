"""Finds the pictures of COCO JSON among the files of a source: many at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np

from shard_tool.sources.coco.splits import is_absolute, names_in, says_other_split, usual_folders
from shard_tool.sources.files.picture_finder import PictureFinder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.files.archive import FileSpan
    from shard_tool.sources.files.file_table import Files, FileTable


@dataclass(frozen=True)
class Pictures:
    """All pictures of a source, by number: folders by name, and the pictures of each by name."""

    table: FileTable
    place: str
    """The source, for messages."""

    @cached_property
    def folders(self) -> dict[str, Files]:
        """Folder to its pictures."""
        return self.table.of_kind("picture")

    @cached_property
    def _first(self) -> dict[str, int]:
        ends = np.cumsum([0, *map(len, self.folders.values())]).tolist()
        return dict(zip(self.folders, ends, strict=False))

    @cached_property
    def _finder(self) -> PictureFinder:
        return PictureFinder(self.table, self.place)

    @property
    def count(self) -> int:
        """Number of all pictures."""
        return sum(map(len, self.folders.values()))

    def spans(self, numbers: NDArray[np.int64]) -> Iterator[FileSpan | None]:
        """Where pictures lie; None for number -1. Quick for pictures of one folder in a row."""
        for folder, rows in self._by_folder(numbers):
            if folder is None:
                yield from [None] * len(rows)
            else:
                yield from self.folders[folder].spans(rows)

    def ids(self, numbers: NDArray[np.int64]) -> Iterator[bytes]:
        """Path of each picture without its suffix, as bytes; b'' for number -1."""
        for folder, rows in self._by_folder(numbers):
            if folder is None:
                yield from [b""] * len(rows)
                continue
            head = f"{folder}/".encode("utf-8", "surrogateescape") if folder else b""
            for stem in self.folders[folder].stems[rows].tolist():
                yield head + stem

    def _by_folder(
        self, numbers: NDArray[np.int64]
    ) -> Iterator[tuple[str | None, NDArray[np.int64]]]:
        names, first = [*self.folders], np.array([*self._first.values()], np.int64)
        of = np.searchsorted(first, numbers, side="right") - 1
        at = 0
        for which, members in groupby(of.tolist()):
            rows = numbers[at : (at := at + sum(1 for _ in members))]
            yield (None, rows) if which < 0 else (names[which], rows - first[which])

    def find_usual(self, paths: Sequence[str], folders: Sequence[str]) -> NDArray[np.int64]:
        """Numbers of the pictures at written paths below some folders; -1 for others.

        The suffix may be another one than written: a folder has one picture of each stem.

        Args:
            paths: As written.
            folders: Where to look, in this order.
        """
        found = np.full(len(paths), -1, np.int64)
        for decode in (str, unquote):
            by_inner: dict[str, list[int]] = {}
            stems = [b""] * len(paths)
            for at in np.flatnonzero(found < 0).tolist():
                path = decode(paths[at])
                if (decode is str or path != paths[at]) and (names := names_in(path)):
                    stems[at] = _stem(names[-1])
                    by_inner.setdefault("/".join(names[:-1]), []).append(at)
            for inner, members in by_inner.items():
                rows = np.array(members)
                for folder in folders:
                    its = f"{folder}/{inner}".strip("/")
                    if its in self.folders and len(rows):
                        wanted = np.array([stems[at] for at in rows.tolist()], np.bytes_)
                        found_rows = self.folders[its].rows(wanted)
                        is_there = found_rows >= 0
                        found[rows[is_there]] = found_rows[is_there] + self._first[its]
                        rows = rows[~is_there]
        return found

    def find_others(
        self,
        paths: Sequence[str],
        found: NDArray[np.int64],
        folders: Sequence[str],
        split: str,
        taken: Collection[str],
    ) -> None:
        """Find those that do not lie where they usually do.

        Where none does, the written paths are of another machine or another layout, and any picture
        whose path ends alike is meant. Else only a plain name, or a path of another machine, can be
        elsewhere, and not among the pictures of another split: those may have equal names.

        Args:
            paths: As written.
            found: From `find_usual`; gets the numbers.
            folders: The same.
            split: The split that they are of.
            taken: Folders in which other JSON files have their pictures.

        Raises:
            SourceError: Several pictures have the name, and equally much of the path.
        """
        is_apart = bool((found < 0).all())
        free = {f for f in self.folders if f not in taken and not says_other_split(f, split)}
        for at in np.flatnonzero(found < 0).tolist():
            path = paths[at]
            is_free = is_apart or is_absolute(path)
            span = self._finder.find_in(path, folders) if is_free else None
            if span is None and (is_free or len(names_in(path)) == 1):
                span = self._finder.find_anywhere(path, free)
                if span is None and is_apart:
                    span = self._finder.find_anywhere(path)
            if span is not None:
                found[at] = self._number(span)

    def _number(self, span: FileSpan) -> int:
        folder, _, name = span.name.rpartition("/")
        rows = self.folders[folder].rows(np.array([_stem(name)], np.bytes_))
        return self._first[folder] + int(rows[0])

    def folders_of(self, numbers: NDArray[np.int64]) -> set[str]:
        """The folders of some pictures."""
        its = self._by_folder(np.unique(numbers))
        return {folder for folder, _ in its if folder is not None}


def _stem(name: str) -> bytes:
    stem, dot, _ = name.rpartition(".")
    return (stem if dot and stem else name).encode("utf-8", "surrogateescape")


def find_pictures(
    pictures: Pictures, files: Sequence[tuple[str, str, Sequence[str]]]
) -> list[NDArray[np.int64]]:
    """The numbers of the pictures of several JSON files; -1 for missing ones.

    Args:
        pictures: The pictures of the source.
        files: Of each JSON file its path, its split, and its pictures' paths as written.

    Raises:
        SourceError: A written path may mean several pictures.
    """
    folders = [usual_folders(path, split, pictures.folders) for path, split, _ in files]
    found = [
        pictures.find_usual(paths, its) for (_, _, paths), its in zip(files, folders, strict=True)
    ]
    taken = [pictures.folders_of(numbers) for numbers in found]
    for at, (_, split, paths) in enumerate(files):
        others = {folder for other, its in enumerate(taken) if other != at for folder in its}
        pictures.find_others(paths, found[at], folders[at], split, others)
    return found
