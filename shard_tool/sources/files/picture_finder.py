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
from shard_tool.sources.files.file_table import KIND_OF_SUFFIX, stems_of

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

    def find(
        self,
        written: str,
        folders: Sequence[str] = (),
        among: Collection[str] | None = None,
        *,
        any_suffix: bool = False,
    ) -> FileSpan | None:
        r"""The picture that a written path means; None if there is none.

        The suffix may be another one than written in `folders`: each has one picture of each stem.

        Args:
            written: As the annotation has it, such as ``C:\me\a.jpg`` or ``images/a%20b.jpg``.
            folders: Where to look first, in this order; then everywhere.
            among: As for `find_anywhere`.
            any_suffix: As for `find_anywhere`.

        Raises:
            SourceError: Several pictures elsewhere have the name, and equally much of the path.
        """
        found = self.find_in(written, folders)
        return found or self.find_anywhere(written, among, any_suffix=any_suffix)

    def find_in(self, written: str, folders: Sequence[str]) -> FileSpan | None:
        """The same in these folders alone, and in those below that the written path names."""
        for names in _spellings(written):
            for at in range(len(names)):
                inner = "/".join(names[at:-1])
                for folder in folders:
                    if span := self._in(f"{folder}/{inner}".strip("/"), names[-1]):
                        return span
        return None

    def find_anywhere(
        self, written: str, among: Collection[str] | None = None, *, any_suffix: bool = False
    ) -> FileSpan | None:
        """The same wherever it lies: where the most folders of the path are those written.

        A picture of another suffix than written is taken only if the caller says so: a mask or a
        map of depths has its picture's name, in a folder of its own.

        Args:
            written: As for `find`.
            among: The folders in which it may lie; None: any.
            any_suffix: Whether the suffix may be another one, where no picture has the written one.

        Raises:
            SourceError: Several pictures have the name, and equally much of the path.
        """
        for names in _spellings(written):
            if span := self._anywhere(names, written, among, any_suffix=any_suffix):
                return span
        return None

    def find_written(self, written: str, folders: Sequence[str]) -> FileSpan | None:
        """The picture at the whole written path below one of these folders, of any suffix."""
        for names in _spellings(written):
            for folder in folders:
                inner = "/".join([folder, *names[:-1]])
                if span := self._in(inner.strip("/"), names[-1]):
                    return span
        return None

    def _in(self, folder: str, name: str) -> FileSpan | None:
        files = self.table.files.get((folder, "picture"))
        return None if files is None else files.find(_stem(name))

    def _anywhere(
        self,
        names: Sequence[str],
        written: str,
        among: Collection[str] | None,
        *,
        any_suffix: bool,
    ) -> FileSpan | None:
        known = self._folders_of.get(_stem(names[-1]), ())
        if among is not None:
            known = [folder for folder in known if folder in among]
        suffix = _suffix(names[-1])
        of_suffix = [its for its in known if not suffix or self._has(its, names[-1], suffix)]
        known = of_suffix or (known if any_suffix else ())
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

    def _has(self, folder: str, name: str, suffix: str) -> bool:
        """Whether the picture of this stem in a folder has this suffix."""
        span = self._in(folder, name)
        return span is not None and _suffix(span.name) == suffix

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


def _suffix(name: str) -> str:
    """The suffix of a picture's name, in lower case; '' for any other."""
    suffix = name.rpartition("/")[2].rpartition(".")[2].lower()
    return suffix if KIND_OF_SUFFIX.get(f".{suffix}") == "picture" else ""


def _num_shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many names two paths share, from their ends on."""
    count = 0
    for its, others in zip(one, other, strict=False):
        if its != others:
            break
        count += 1
    return count
