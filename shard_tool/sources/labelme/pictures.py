"""Finds the picture that each of labelme's files is about.

A file names its picture by `imagePath`, relative to itself and with the slashes of its system. The
picture of the file's own name is taken where no such picture is there, or where a file of that
picture's own name claims it: scripts copy files and leave the path in them.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from shard_tool.errors import SourceError
from shard_tool.sources.files.file_span import FileSpan, slashed
from shard_tool.sources.files.picture_finder import PictureFinder
from shard_tool.sources.indexed_source import id_of

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def matches(self, files: Sequence[JsonFile]) -> tuple[list[Match], list[JsonFile]]:
        """The annotated pictures, and the files without a picture."""
        by_path = {its.span.name: self._by_path(its) for its in files}
        own = {its.span.name: self.of_own_name(its.span) for its in files}
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

    def of_own_name(self, span: FileSpan) -> FileSpan | None:
        """The picture of a file's own name, in its folder or one like it."""
        try:
            return self._finder.find(f"{id_of(span)}.jpg", [posixpath.dirname(span.name)])
        except SourceError:  # several
            return None

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
                return self._finder.find(path, folders)
            except SourceError:  # several: perhaps the file's own folder tells
                continue
        return None


def _code(its: JsonFile, picture: FileSpan, by_path: dict[str, FileSpan | None]) -> str | None:
    if by_path[its.span.name] != picture:
        return "picture-by-own-name"
    is_of_its_name = posixpath.basename(id_of(its.span)) == posixpath.basename(id_of(picture))
    return None if is_of_its_name else "picture-by-path"
