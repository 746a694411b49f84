"""A VOC devkit as a source: an archive read in place, or a folder.

Owns where things lie; knows nothing of what is in them. An archive is scanned once over its
headers, then every file is read by offset: nothing is extracted. The paths inside are only looked
up, never joined to a path of this machine, so a hostile name leads nowhere.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from shard_tool.errors import ObjectMissing, ShardError, SourceError
from shard_tool.tarshard import walk
from shard_tool.voc.imagesets import LIST_FOLDERS, SPLITS, has_labels, parse_ids

_COMPRESSED = {
    b"\x1f\x8b\x08": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

_SUFFIX_OF_FOLDER = {
    "JPEGImages": ".jpg",
    "Annotations": ".xml",
    "SegmentationClass": ".png",
    "SegmentationObject": ".png",
    **{f"ImageSets/{folder}": ".txt" for folder in LIST_FOLDERS},
}
_INNER_PATH = re.compile(rf"((?:.*?/)?)({'|'.join(_SUFFIX_OF_FOLDER)})/([^/]+)")


class FileSpan(NamedTuple):
    """Where one file of a devkit lies."""

    name: str
    """Its path below the year's folder, e.g. 'JPEGImages/000005.jpg'."""
    offset: int
    """First byte in the archive; 0 in a folder."""
    size: int
    """Length in bytes."""


@dataclass(frozen=True, slots=True)
class Devkit:
    """One year's folder (``VOCdevkit/VOC2007``) of an archive or on disk."""

    path: Path
    """The archive, or the year's folder itself."""
    is_archive: bool
    inner: str
    """The year's folder inside the archive, without a trailing slash."""
    files: dict[str, dict[str, tuple[int, int]]] = field(repr=False)
    """Folder ('JPEGImages', 'ImageSets/Main', …) to stem to (offset, size)."""

    @property
    def year(self) -> str:
        """'2007' … '2012' from the folder's name; 'unknown' where it says none."""
        match = re.fullmatch(r"VOC(\d{4})", self.inner.rpartition("/")[2])
        return match[1] if match else "unknown"

    def find(self, folder: str, stem: str) -> FileSpan | None:
        """Where ``folder/stem`` lies, or None."""
        span = self.files.get(folder, {}).get(stem)
        return span and FileSpan(f"{folder}/{stem}{_SUFFIX_OF_FOLDER[folder]}", *span)

    def place(self, span: FileSpan | str) -> str:
        """What messages call a file of this devkit."""
        name = span if isinstance(span, str) else span.name
        prefix = f"{self.path}:{self.inner}" if self.is_archive else str(self.path)
        return f"{prefix}/{name}"

    def read(self, span: FileSpan) -> bytes:
        """The file's bytes.

        Raises:
            SourceError: The source cannot be read, or is shorter than when it was scanned.
        """
        path = self.path if self.is_archive else self.path / span.name
        try:
            with path.open("rb", buffering=0) as file:
                content = os.pread(file.fileno(), span.size, span.offset)
        except OSError as exc:
            raise SourceError(self.place(span), f"cannot be read: {exc.strerror}") from exc
        if len(content) != span.size:
            problem = f"{len(content)} bytes, {span.size} when it was scanned"
            raise SourceError(self.place(span), problem, "convert from a source at rest")
        return content

    def split_ids(self, folder: str, split: str) -> list[str]:
        """The ids of ``ImageSets/<folder>/<split>.txt``.

        Raises:
            SourceError: There is no such list, it is empty (names the lists there are), or it is a
            class's list, whose second column says which pictures show the class.
        """
        span = self.find(f"ImageSets/{folder}", split)
        content = self.read(span) if span else b""
        if span and has_labels(content):
            problem = "is a list of a class, with labels: its pictures are those of its split"
            raise SourceError(self.place(span), problem, "name a list of ids, such as train")
        ids = parse_ids(content, place=self.place(span)) if span else []
        if not ids:
            there = ", ".join(self.filled_splits(folder)) or "none"
            place = self.place(f"ImageSets/{folder}/{split}.txt")
            problem = "the split list is empty" if span else "there is no such split list"
            raise SourceError(place, problem, f"lists with pictures in them: {there}")
        return ids

    def filled_splits(self, folder: str) -> list[str]:
        """Splits of `folder` whose list names at least one picture."""
        spans = {split: self.find(f"ImageSets/{folder}", split) for split in SPLITS}
        return [split for split, span in spans.items() if span and self.read(span).strip()]


def open_devkit(source: str) -> Devkit:
    """Scan a VOC archive (a plain tar) or a folder.

    Args:
        source: The tar, the year's folder, its ``VOCdevkit`` or the parent of that.

    Raises:
        ObjectMissing: There is nothing at `source`.
        SourceError: Compressed, cut short, several years in one source, or not a devkit.
    """
    path = Path(source)
    if not path.exists():
        raise ObjectMissing(source, "there is no such archive or folder")
    try:
        found = _scan_folder(path) if path.is_dir() else _scan_archive(path)
    except OSError as exc:
        raise SourceError(source, f"cannot be read: {exc.strerror}") from exc
    years = {inner: files for inner, files in found.items() if "JPEGImages" in files}
    if not years:
        seen = ", ".join(sorted({name for files in found.values() for name in files})) or "nothing"
        problem = f"not a VOC devkit: no JPEGImages folder in it (found {seen})"
        raise SourceError(source, problem, "give a VOC tar or the folder that holds VOC20xx")
    if len(years) > 1:
        names = ", ".join(inner or "." for inner in sorted(years))
        raise SourceError(source, f"holds several devkits ({names})", "give one of them")
    ((inner, files),) = years.items()
    for needed in ("Annotations", "ImageSets"):
        if not any(name.startswith(needed) for name in files):
            seen = ", ".join(sorted(files))
            place = f"{source}:{inner}" if path.is_file() else str(path / inner)
            raise SourceError(place, f"has no {needed} folder (found {seen})")
    if path.is_file():
        return Devkit(path, is_archive=True, inner=inner, files=files)
    root = (path / inner).absolute()  # not resolved: a link's own name says the year
    return Devkit(root, is_archive=False, inner="/".join(root.parts[-2:]), files=files)


def _scan_archive(path: Path) -> dict[str, dict[str, dict[str, tuple[int, int]]]]:
    found: dict[str, dict[str, dict[str, tuple[int, int]]]] = {}
    with path.open("rb", buffering=0) as file:
        descriptor, size = file.fileno(), path.stat().st_size
        magic = os.pread(descriptor, 8, 0)
        if kind := next((k for mark, k in _COMPRESSED.items() if magic.startswith(mark)), None):
            problem = f"is compressed ({kind}); archives are read in place, which needs a plain tar"
            raise SourceError(str(path), problem, "decompress or extract it first")
        members = walk(lambda at, n: os.pread(descriptor, n, at), 0, size, place=str(path))
        try:
            for member in members:
                _note(found, member.name, member.offset, member.size, is_file=member.is_file)
        except ShardError as exc:
            raise SourceError(exc.place, exc.problem, "download or copy the archive again") from exc
    return found


def _scan_folder(path: Path) -> dict[str, dict[str, dict[str, tuple[int, int]]]]:
    found: dict[str, dict[str, dict[str, tuple[int, int]]]] = {}
    candidates = [path, *path.glob("VOC20[01][0-9]"), *path.glob("VOCdevkit/VOC20[01][0-9]")]
    for root in [*candidates, *path.glob("TrainVal/VOCdevkit/VOC20[01][0-9]")]:
        inner = root.relative_to(path).as_posix()
        for folder in _SUFFIX_OF_FOLDER:
            if not (root / folder).is_dir():
                continue
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.is_file():  # not so a link that leads nowhere
                        size, name = entry.stat().st_size, f"{inner}/{folder}/{entry.name}"
                        _note(found, name, 0, size, is_file=True)
    return found


def _note(
    found: dict[str, dict[str, dict[str, tuple[int, int]]]],
    name: str,
    offset: int,
    size: int,
    *,
    is_file: bool,
) -> None:
    """Remember a file of one of the folders we know; anything else is none of our business."""
    match = _INNER_PATH.fullmatch(name.removeprefix("./"))
    if not (is_file and match and match[3].endswith(_SUFFIX_OF_FOLDER[match[2]])):
        return
    stem = match[3].removesuffix(_SUFFIX_OF_FOLDER[match[2]])
    found.setdefault(match[1].rstrip("/"), {}).setdefault(match[2], {})[stem] = (offset, size)
