"""Finds the picture that each of labelme's files is about.

A file names its picture by `imagePath`, relative to itself and with the slashes of its system. The
picture of the file's own name is taken where no such picture is there, or where a file of that
picture's own name claims it: scripts copy files and leave the path in them.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from shard_tool.errors import SourceError
from shard_tool.sources.files.file_span import FileSpan, slashed
from shard_tool.sources.files.picture_finder import PictureFinder
from shard_tool.sources.indexed_source import id_of
from shard_tool.sources.split_folders import split_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from shard_tool.sources.files.file_table import FileTable


class JsonFile(NamedTuple):
    """One of labelme's files."""

    span: FileSpan
    image_path: str
    """As written; '' where it says none."""
    has_picture: bool
    """Whether the picture is in the file, too."""
    document: tuple[int, int]
    """Where its annotation lies in the spool."""


class Match(NamedTuple):
    """A picture and the files that are about it."""

    picture: FileSpan
    files: list[JsonFile]
    """Several only where nothing tells which of them is about it."""
    code: str | None
    """Of what is to be reported: which name was followed where they differ."""


class PictureMatcher:
    """Finds the pictures of files."""

    def __init__(self, table: FileTable, place: str) -> None:
        self._finder = PictureFinder(table, place)
        self._folders = [*table.of_kind("picture")]
        self._any_suffix = False
        """Whether pictures elsewhere may have another suffix: where none has the written one."""

    def matches(self, files: Sequence[JsonFile]) -> tuple[list[Match], list[JsonFile]]:
        """The annotated pictures, and the files without a picture."""
        for self._any_suffix in (False, True):
            by_path = {its.span.name: self._by_path(its) for its in files}
            own = {its.span.name: self.of_own_name(its.span, its.image_path) for its in files}
            if any(by_path.values()) or any(own.values()):
                break
        pictures = dict[str, FileSpan]()
        about, alone = defaultdict[str, list[JsonFile]](list), list[JsonFile]()
        for its in files:
            picture = by_path[its.span.name] or own[its.span.name]
            if picture is None:
                alone.append(its)
            else:
                pictures[picture.name] = picture
                about[picture.name].append(its)
        for name, several in list(about.items()):
            owners = [its for its in several if own[its.span.name] == pictures[name]]
            if not owners or len(owners) == len(several):
                continue
            about[name] = owners
            for its in several:
                if its not in owners:
                    other = own[its.span.name] or pictures[name]
                    pictures[other.name] = other
                    about[other.name].append(its)
        return [
            Match(pictures[name], its, _code(its[0], pictures[name], by_path))
            for name, its in about.items()
        ], alone

    def of_own_name(self, span: FileSpan, image_path: str = "") -> FileSpan | None:
        """The picture of a file's own name, in its folder or one like it."""
        suffix = posixpath.splitext(image_path)[1]
        folder, any_suffix = posixpath.dirname(span.name), self._any_suffix or not suffix
        try:
            return self._finder.find(
                f"{id_of(span)}{suffix or '.jpg'}",
                [folder],
                self._of_split(split_of(folder)),
                any_suffix=any_suffix,
            )
        except SourceError:  # several
            return None

    @lru_cache  # noqa: B019  (a matcher lives as long as a source is opened)
    def _of_split(self, split: str | None) -> Collection[str]:
        """The folders of pictures but those of another split; all for None."""
        return frozenset(
            its for its in self._folders if not split or split_of(its) in (split, None)
        )

    def _by_path(self, its: JsonFile) -> FileSpan | None:
        """The picture that `imagePath` names."""
        folder, written = posixpath.dirname(its.span.name), slashed(its.image_path)
        if not written:
            return None
        folders = [folder]
        whole = posixpath.normpath(posixpath.join(folder, written))
        if ".." in written.split("/") and not whole.startswith(("..", "/")):
            folders = [posixpath.dirname(whole), folder]
        for path in (written, f"{folder}/{posixpath.basename(written)}"):
            try:
                among = self._of_split(split_of(folder))
                return self._finder.find(path, folders, among, any_suffix=self._any_suffix)
            except SourceError:  # several: perhaps the file's own folder tells
                continue
        return None


def _code(its: JsonFile, picture: FileSpan, by_path: dict[str, FileSpan | None]) -> str | None:
    if by_path[its.span.name] != picture:
        return "picture-by-own-name"
    is_of_its_name = posixpath.basename(id_of(its.span)) == posixpath.basename(id_of(picture))
    return None if is_of_its_name else "picture-by-path"
