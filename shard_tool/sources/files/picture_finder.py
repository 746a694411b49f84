"""Finds the picture that an annotation names, by whatever path its tool wrote.

Tools write paths of their own machine, back-slashes, or names encoded as in URLs. The picture is
the file whose path ends as the written one does: the more folders both share, the better.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import unquote

from shard_tool.errors import SourceError
from shard_tool.sources.files.file_span import slashed
from shard_tool.sources.files.file_table import stems_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from shard_tool.sources.files.file_span import FileSpan
    from shard_tool.sources.files.file_table import FileTable

_MOST_SHOWN = 3


@dataclass(frozen=True)
class PictureFinder:
    """Finds pictures among the files of a source."""

    table: FileTable
    place: str
    """The source, for messages."""

    def find(self, written: str, folders: Sequence[str] = ()) -> FileSpan | None:
        r"""The picture that a written path means; None if there is none.

        The suffix may be another one than written: a folder has one picture of each stem.

        Args:
            written: As the annotation has it, such as ``C:\me\a.jpg`` or ``images/a%20b.jpg``.
            folders: Where to look first, in this order; then everywhere.

        Raises:
            SourceError: Several pictures elsewhere have the name, and equally much of the path.
        """
        return self.find_in(written, folders) or self.find_anywhere(written)

    def find_in(self, written: str, folders: Sequence[str]) -> FileSpan | None:
        """The same in these folders alone, and in those below that the written path names."""
        for names in _spellings(written):
            for at in range(len(names)):
                inner = "/".join(names[at:-1])
                for folder in folders:
                    if span := self._in(f"{folder}/{inner}".strip("/"), names[-1]):
                        return span
        return None

    def find_anywhere(self, written: str, among: Collection[str] | None = None) -> FileSpan | None:
        """The same wherever it lies: where the most folders of the path are those written.

        Args:
            written: As for `find`.
            among: The folders in which it may lie; None: any.

        Raises:
            SourceError: Several pictures have the name, and equally much of the path.
        """
        for names in _spellings(written):
            if span := self._anywhere(names, written, among):
                return span
        return None

    def _in(self, folder: str, name: str) -> FileSpan | None:
        files = self.table.files.get((folder, "picture"))
        return None if files is None else files.find(_stem(name))

    def _anywhere(
        self, names: Sequence[str], written: str, among: Collection[str] | None
    ) -> FileSpan | None:
        known = self._folders_of.get(_stem(names[-1]), ())
        if among is not None:
            known = [folder for folder in known if folder in among]
        if not known:
            return None
        above = names[-2::-1]
        shared = [_num_shared(folder.split("/")[::-1], above) for folder in known]
        best = [folder for folder, its in zip(known, shared, strict=True) if its == max(shared)]
        if len(best) > 1:
            told = ", ".join(repr(folder or ".") for folder in best[:_MOST_SHOWN])
            problem = f"{written!r} may be a picture in any of {told}"
            raise SourceError(self.place, problem, "give the folder of one split at a time")
        return self._in(best[0], names[-1])

    @cached_property
    def _folders_of(self) -> dict[str, list[str]]:
        """Stem of a picture to the folders that have one of this stem."""
        found = dict[str, list[str]]()
        for folder, files in self.table.of_kind("picture").items():
            for stem in stems_of(files):
                found.setdefault(stem, []).append(folder)
        return found


def _spellings(written: str) -> Iterator[list[str]]:
    r"""The names in a path, as they are and decoded as in URLs.

    >>> list(_spellings(r"C:\pictures\a%20b.jpg"))
    [['pictures', 'a%20b.jpg'], ['pictures', 'a b.jpg']]
    """
    path = slashed(written)
    if path[1:2] == ":":
        path = path[2:]
    for spelled in dict.fromkeys((path, unquote(path))):
        names = [name for name in spelled.split("/") if name not in ("", ".")]
        if names:
            yield names[-1:] if ".." in names else names


def _stem(name: str) -> str:
    stem, dot, _ = name.rpartition(".")
    return stem if dot and stem else name


def _num_shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many names two paths share, from their ends on."""
    count = 0
    for its, others in zip(one, other, strict=False):
        if its != others:
            break
        count += 1
    return count
