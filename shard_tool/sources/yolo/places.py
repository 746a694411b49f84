"""Finds what lies where a path points that another machine wrote.

A path may be taken from its file, from the dataset's `path`, or from the root of the source. Where
nothing lies there, the path is dead, and what ends as it does is meant: the longest common tail
wins. ``/home/me/sharks/train/images`` and ``../train/images`` are ``train/images`` here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from posixpath import join, normpath
from typing import TYPE_CHECKING, NamedTuple

from shard_tool.errors import SourceError
from shard_tool.sources.files.file_span import slashed
from shard_tool.sources.split_folders import SPLIT_FOLDERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shard_tool.sources.files.file_span import FileSpan
    from shard_tool.sources.files.file_table import FileTable

_MOST_SHOWN = 3


class Folder(NamedTuple):
    """A folder that a path means."""

    path: str
    base: int | None
    """From which of the bases it is seen; None: the path is dead, and it was found by its end."""


class TextFile(NamedTuple):
    """A text file that a path means."""

    span: FileSpan
    base: int | None
    """As of a `Folder`."""


@dataclass(frozen=True)
class Places:
    """The folders of pictures and the text files of a source."""

    table: FileTable
    where: str
    """Path of the source, where it is a folder; '' for an archive."""
    place: str
    """The source, for messages."""

    def folder(self, written: str, bases: Sequence[str], split: str = "") -> Folder | None:
        """The folder with pictures in it or below that a path means; None: there is none.

        Args:
            written: The path.
            bases: Folders below the source that it may be seen from, in this order.
            split: The split that it is for; no folder of another split is meant then.

        Raises:
            SourceError: The path is dead, and several folders end as it does.
        """
        for base, path in self._literal(written, bases):
            if path in self._folders:
                return Folder(path, base)
        known = self._by_last
        tail = _tail(written, bases)
        alike = known.get(tail[-1].casefold(), ()) if tail else ()
        best = self._best(written, alike, tail, bases, split)
        return None if best is None else Folder(best, None)

    def text_file(
        self, written: str, bases: Sequence[str], kinds: Iterable[str] = ("list",), split: str = ""
    ) -> TextFile | None:
        """The text file that a path means; None: there is none.

        Args:
            written: As for `folder`.
            bases: As for `folder`.
            kinds: Kinds of files that it may be (`file_table.KIND_OF_SUFFIX`).
            split: As for `folder`.

        Raises:
            SourceError: As `folder` does.
        """
        kinds = tuple(kinds)
        for base, path in self._literal(written, bases):
            if span := self._file(path, kinds):
                return TextFile(span, base)
        tail = _tail(written, bases)
        if not tail:
            return None
        folders = {folder for kind in kinds for folder in self.table.of_kind(kind)}
        known = [path for folder in folders if self._file(path := join(folder, tail[-1]), kinds)]
        best = self._best(written, known, tail, bases, split)
        span = None if best is None else self._file(best, kinds)
        return None if span is None else TextFile(span, None)

    @cached_property
    def _folders(self) -> set[str]:
        """Folders with pictures in them or below."""
        found = {""}
        for folder in self.table.of_kind("picture"):
            while folder not in found:
                found.add(folder)
                folder = folder.rpartition("/")[0]
        return found

    @cached_property
    def _by_last(self) -> dict[str, list[str]]:
        """Last name of a path, in lower case, to the folders that have it."""
        found = dict[str, list[str]]()
        for folder in sorted(self._folders - {""}):
            found.setdefault(folder.rpartition("/")[2].casefold(), []).append(folder)
        return found

    def _file(self, path: str, kinds: Iterable[str]) -> FileSpan | None:
        folder, _, name = path.rpartition("/")
        stem = name.rpartition(".")[0]
        for kind in kinds:
            files = self.table.files.get((folder, kind))
            if files and (span := files.find(stem)) and span.name == path:
                return span
        return None

    def _literal(self, written: str, bases: Sequence[str]) -> Iterator[tuple[int, str]]:
        """The paths below the source that a path is, seen from each base."""
        path, own = slashed(written), f"{self.where}/"
        if _is_absolute(path) and not (self.where and f"{path}/".startswith(own)):
            return
        for number, base in enumerate(bases):
            seen = normpath(join(base, path))
            if self.where and f"{seen}/".startswith(own):
                seen = seen[len(own) :] or "."
            if seen.split("/")[0] != "..":
                yield number, "" if seen == "." else seen

    def _best(
        self,
        written: str,
        known: Iterable[str],
        tail: Sequence[str],
        bases: Sequence[str],
        split: str,
    ) -> str | None:
        """The path that shares the longest tail with a dead one."""
        scored = ((_score(path.split("/"), tail, bases, split), path) for path in known)
        scores = [(score, path) for score, path in scored if score]
        if not scores:
            return None
        best = sorted(path for score, path in scores if score == max(scores)[0])
        if len(best) > 1:
            more = f" and {len(best) - _MOST_SHOWN} more" if len(best) > _MOST_SHOWN else ""
            told = ", ".join(repr(path) for path in best[:_MOST_SHOWN]) + more
            problem = f"{written!r} may be any of {told}"
            raise SourceError(self.place, problem, "correct the path")
        return best[0]


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or path[1:2] == ":"


def _tail(written: str, bases: Sequence[str]) -> list[str]:
    """The names of a path and of the folder it is mostly seen from, without those that lead up."""
    path = slashed(written)
    if not _is_absolute(path) and bases:
        path = join(bases[0], path)
    names = normpath(path).split("/")
    return [name for name in names if name not in ("", ".", "..") and name[1:2] != ":"]


def _score(
    path: Sequence[str], tail: Sequence[str], bases: Sequence[str], split: str
) -> tuple[int, bool] | None:
    """How well the ends of two paths agree: names in common, and whether the rest is a base.

    None if they do not, or if what they do not share tells that another split is meant.
    """
    shared = 0
    for one, other in zip(reversed(path), reversed(tail), strict=False):
        if one.casefold() != other.casefold():
            break
        shared += 1
    if not shared:
        return None
    rest, dead = path[: len(path) - shared], tail[: len(tail) - shared]
    if dead and split_of(dead[-1]):
        return None
    others = {its for name in rest if (its := split_of(name))}
    return None if others - {split} else (shared, "/".join(rest) in bases)


def split_of(name: str) -> str | None:
    """The split that the name of a folder says: `train2017` is train's."""
    return SPLIT_FOLDERS.get(name.casefold().rstrip("0123456789"))
