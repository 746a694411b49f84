"""Finds the files of a VOC devkit in an archive or a folder.

This module knows what makes a tree a devkit; `archive` reads the tar or the folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from shard_tool.errors import ObjectMissing, SourceError
from shard_tool.sources.archive import (
    FileSpan,
    SourceFiles,
    os_errors_named,
    scan_archive,
    scan_folders,
    unsafe_member,
)
from shard_tool.sources.voc.file_table import FileTable, FileTableBuilder
from shard_tool.sources.voc.imagesets import (
    LIST_FOLDERS,
    SPLITS,
    has_labels,
    names_any,
    parse_numbers,
    sorted_ids,
    sorted_labels,
)
from shard_tool.storage.location import StoredObject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SUFFIX_OF_FOLDER = {
    "JPEGImages": ".jpg",
    "Annotations": ".xml",
    "SegmentationClass": ".png",
    "SegmentationObject": ".png",
    **{f"ImageSets/{folder}": ".txt" for folder in LIST_FOLDERS},
}
_INNER_PATH = re.compile(rf"((?:.*?/)?)({'|'.join(SUFFIX_OF_FOLDER)})/([^/]+)", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_MAX_STEM_BYTES = 255
"""The limit of file systems; a longer name in an archive is an attack or damage."""
_MAX_LIST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Devkit:
    """One year's folder (``VOCdevkit/VOC2007``) of an archive or on disk."""

    source: SourceFiles
    files: FileTable = field(repr=False)
    """Positions of the files by folder ('JPEGImages', 'ImageSets/Main', …)."""
    num_bytes: int | None = None
    """Length of the archive; None for a folder."""
    sha256: str | None = None
    """Digest of the archive, if the scan read all of it."""
    stamp: str = ""
    """Digest of the times of change of a folder's files."""

    @property
    def year(self) -> str:
        """'2007' … '2012', or 'unknown'."""
        return year_of(self.source)

    def find(self, folder: str, stem: str) -> FileSpan | None:
        """Position of ``folder/stem``; None if there is no such file."""
        at = self.files.find(folder, stem.encode("utf-8", "surrogateescape"))
        return at and FileSpan(f"{folder}/{stem}{SUFFIX_OF_FOLDER[folder]}", *at)

    def place(self, span: FileSpan | str) -> str:
        """Name of a file in messages."""
        return self.source.place(span)

    def read(self, span: FileSpan) -> bytes:
        """Read a list.

        Raises:
            SourceError: As `SourceFiles.opened`; or the list is absurdly long.
        """
        if span.size > _MAX_LIST_BYTES:
            problem = f"{span.size} bytes are too many for a list (most: {_MAX_LIST_BYTES})"
            raise SourceError(self.place(span), problem)
        return self.source.read(span)

    def split_ids(self, folder: str, split: str) -> NDArray[np.bytes_]:
        """The ids of ``ImageSets/<folder>/<split>.txt`` as UTF-8, sorted, each once.

        Raises:
            SourceError: There is no such list or it is empty (names the lists with pictures), or it
                is the list of a class, whose second column says which pictures show the class.
        """
        span = self.find(f"ImageSets/{folder}", split)
        content = self.read(span) if span else b""
        if (
            span
            and folder in ("Main", "Segmentation")
            and has_labels(content, place=self.place(span))
        ):
            problem = "is a list of a class, with labels: its pictures are those of its split"
            raise SourceError(self.place(span), problem, "name a list of ids, such as train")
        ids = sorted_ids(content, place=self.place(span)) if span else None
        if ids is None or not len(ids):
            there = ", ".join(self.filled_splits(folder)) or "none"
            place = self.place(f"ImageSets/{folder}/{split}.txt")
            problem = "the split list is empty" if span else "there is no such split list"
            raise SourceError(place, problem, f"lists with pictures in them: {there}")
        return ids

    def numbers(self, folder: str, name: str) -> dict[str, tuple[int, ...]] | None:
        """Map ids to the second column of ``ImageSets/<folder>/<name>.txt``; None without a list.

        Raises:
            SourceError: The column holds something other than whole numbers.
        """
        span = self.find(f"ImageSets/{folder}", name)
        return parse_numbers(self.read(span), place=self.place(span)) if span else None

    def labels(self, name: str) -> tuple[NDArray[np.bytes_], NDArray[np.int64]] | None:
        """Ids and numbers of ``ImageSets/Main/<name>.txt``; None unless each id has one number."""
        span = self.find("ImageSets/Main", name)
        return sorted_labels(self.read(span), place=self.place(span)) if span else None

    def filled_splits(self, folder: str) -> list[str]:
        """Splits of `folder` whose list names at least one picture."""
        return [split for split in SPLITS if self.names_pictures(folder, split)]

    def names_pictures(self, folder: str, split: str) -> bool:
        """Whether there is such a list and it names a picture."""
        span = self.find(f"ImageSets/{folder}", split)
        return span is not None and names_any(self.read(span), place=self.place(span))

    def identity_sha256(self) -> str:
        """Digest that tells on this machine whether the source is the same; reads no content.

        It covers names, offsets and sizes, and what shows a change of content: the SHA-256 of a
        remote archive, the times of change of local files.
        """
        changed = self.sha256 or self.source.state or self.stamp
        return sha256(f"{self.files.sha256()} {changed}".encode()).hexdigest()


def open_devkit(
    source: str,
    *,
    options: Mapping[str, Any] | None = None,
    number: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Devkit:
    """Scan a VOC archive (a plain tar) or a folder.

    Args:
        source: Path or URL of the tar, or path of the year's folder, of its ``VOCdevkit`` or of
            the parent of that.
        options: fsspec's storage options, for a URL.
        number: The source's place among the sources of one dataset.
        on_progress: Called with (bytes read, all bytes) while a remote archive is streamed.

    Raises:
        ObjectMissing: There is nothing at `source`.
        SourceError: The source is compressed, cut short, holds several years or none, or a member
            is a link or leads out of the archive.
        StoreError: Storage failed, and went on failing.
    """
    archive = StoredObject(source, options or {})
    path = archive.local
    if path is not None and not path.exists():
        raise ObjectMissing(source, "there is no such archive or folder")
    if path is not None and path.is_dir():
        with os_errors_named(source):
            return _devkit_in_folder(source, path, number)
    builder = FileTableBuilder()
    note = partial(_note, builder, archive.place, is_member=True)
    scan = scan_archive(archive, note, on_progress)
    inner, files = _the_only_year(archive.place, builder.by_inner())
    where = source if path is None else str(path.absolute())
    found = SourceFiles(
        where,
        inner,
        is_archive=True,
        options=options or {},
        number=number,
        state=scan.state,
        shown=archive.place,
    )
    _check_folders(f"{archive.place}:{inner}", files)
    return Devkit(found, files, scan.num_bytes, scan.sha256)


def year_of(source: SourceFiles) -> str:
    """The year in the name of a devkit's folder: '2007' … '2012', or 'unknown'."""
    match = re.fullmatch(r"VOC(\d{4})", source.inner.rpartition("/")[2])
    return match[1] if match else "unknown"


def _devkit_in_folder(source: str, path: Path, number: int) -> Devkit:
    builder = FileTableBuilder()
    stamp = scan_folders(path, _folders_in(path), partial(_note, builder, str(path)))
    inner, files = _the_only_year(source, builder.by_inner())
    _check_folders(str(path / inner), files)
    root = (path / inner).absolute()  # not resolved: the name of a link tells the year
    inner = "/".join(root.parts[-2:])
    found = SourceFiles(str(root), inner, is_archive=False, number=number)
    return Devkit(found, files, stamp=stamp)


def _folders_in(path: Path) -> list[str]:
    """List the folders below `path` in which files of a devkit may lie."""
    roots = [path, *path.glob("VOC20[01][0-9]"), *path.glob("VOCdevkit/VOC20[01][0-9]")]
    roots += path.glob("TrainVal/VOCdevkit/VOC20[01][0-9]")
    return [
        f"{root.relative_to(path).as_posix()}/{name}" for root in roots for name in SUFFIX_OF_FOLDER
    ]


def _the_only_year(place: str, found: dict[str, FileTable]) -> tuple[str, FileTable]:
    years = {inner: files for inner, files in found.items() if "JPEGImages" in files.folders}
    if not years:
        names = {name for files in found.values() for name in files.folders}
        seen = ", ".join(sorted(names)) or "nothing"
        problem = f"not a VOC devkit: no JPEGImages folder in it (found {seen})"
        raise SourceError(place, problem, "give a VOC tar or the folder that holds VOC20xx")
    if len(years) > 1:
        names_of = ", ".join(inner or "." for inner in sorted(years))
        raise SourceError(place, f"holds several devkits ({names_of})", "give one of them")
    ((inner, files),) = years.items()
    return inner, files


def _check_folders(place: str, files: FileTable) -> None:
    for needed in ("Annotations", "ImageSets"):
        if not any(name.startswith(needed) for name in files.folders):
            seen = ", ".join(sorted(files.folders))
            raise SourceError(place, f"has no {needed} folder (found {seen})")


def _note(
    builder: FileTableBuilder, place: str, span: FileSpan, *, is_member: bool = False
) -> None:
    """Note a file if it lies in a folder of the devkit and has that folder's suffix.

    Raises:
        SourceError: A member of an archive has an unprintable name, or a name is too long.
    """
    name, offset, size, crc = span
    match = _INNER_PATH.fullmatch(name.removeprefix("./"))
    if not match:
        return
    inner, folder, file = match.groups()
    if is_member and _UNPRINTABLE.search(file):
        problem = "has an unprintable name (control characters, or not UTF-8)"
        raise unsafe_member(place, name, problem)
    if not file.endswith(suffix := SUFFIX_OF_FOLDER[folder]):
        return
    stem = file.removesuffix(suffix).encode("utf-8", "surrogateescape")
    if len(stem) > _MAX_STEM_BYTES:
        problem = f"member {name[:60]!r}… has a name of {len(stem)} bytes (most: {_MAX_STEM_BYTES})"
        raise SourceError(place, problem)
    builder.add(inner.rstrip("/"), folder, stem, offset, size, crc)
