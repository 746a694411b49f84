"""A VOC devkit as a source: an archive read in place, wherever it is, or a folder.

Owns where things lie; knows nothing of what is in them. A local archive is scanned once over its
headers, one elsewhere is streamed once; then every file is read by offset: nothing is extracted and
nothing staged. The paths inside are only looked up, never joined to a path of this machine, so a
hostile name leads nowhere; one that tries is refused all the same, and named.
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shard_tool.errors import ObjectMissing, ShardError, SourceError
from shard_tool.format.tar import Member, walk
from shard_tool.sources.forward_reader import ForwardReader
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
from shard_tool.storage.location import StoredObject, public_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

_COMPRESSED = {
    b"\x1f\x8b\x08": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

SUFFIX_OF_FOLDER = {
    "JPEGImages": ".jpg",
    "Annotations": ".xml",
    "SegmentationClass": ".png",
    "SegmentationObject": ".png",
    **{f"ImageSets/{folder}": ".txt" for folder in LIST_FOLDERS},
}
_INNER_PATH = re.compile(rf"((?:.*?/)?)({'|'.join(SUFFIX_OF_FOLDER)})/([^/]+)", re.DOTALL)
_LINKS = {"1": "a hard link", "2": "a symbolic link"}
_DEVICES = {"3": "a device", "4": "a device", "6": "a pipe"}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_MAX_STEM_BYTES = 255
"""As file systems have it; a longer name in an archive is an attack or damage."""
_MAX_LIST_BYTES = 1 << 30
_CRC_BYTES = 1 << 20
_TIMES = 3
"""Times a file elsewhere is read before its bytes are called changed."""


class FileSpan(NamedTuple):
    """Where one file of a devkit lies."""

    name: str
    """Its path below the year's folder, e.g. 'JPEGImages/000005.jpg'."""
    offset: int
    """First byte in the archive; 0 in a folder."""
    size: int
    """Length in bytes."""
    crc: int | None = None
    """CRC-32 of the content, where it was seen when the archive was scanned."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a devkit's bytes are: a small value that travels to workers."""

    where: str
    """The archive's path or URL, or the year's folder."""
    inner: str
    """The year's folder inside the archive, without a trailing slash."""
    _: KW_ONLY
    is_archive: bool
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    """fsspec's storage options for an archive elsewhere; may hold secrets."""
    number: int = 0
    """Its place among the sources of one dataset."""
    state: str = ""
    """What tells a file that was changed or replaced: of a local archive size, time and number."""
    shown: str = field(default="", compare=False)
    """What messages call it: as it was given, without secrets."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", self.shown or public_url(self.where))

    def __repr__(self) -> str:
        return f"Source({self.shown!r})"  # a URL as given may be signed

    @property
    def year(self) -> str:
        """'2007' … '2012' from the folder's name; 'unknown' where it says none."""
        match = re.fullmatch(r"VOC(\d{4})", self.inner.rpartition("/")[2])
        return match[1] if match else "unknown"

    @property
    def archive(self) -> StoredObject:
        """The archive, where it is one."""
        return StoredObject(self.where, self.options)

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine."""
        return not self.is_archive or self.archive.local is not None

    def place(self, span: FileSpan | str) -> str:
        """What messages call a file of this devkit."""
        name = span if isinstance(span, str) else span.name
        prefix = f"{self.shown}:{self.inner}" if self.is_archive else self.shown
        return f"{prefix}/{name}"

    @contextmanager
    def opened(self) -> Iterator[Callable[[Sequence[FileSpan]], list[bytes]]]:
        """A function that reads files, valid inside the block; elsewhere it asks for all at once.

        Raises:
            SourceError: (also from the function) The source cannot be read, or is shorter than when
                it was scanned.
            StoreError: (likewise) Storage failed, and went on failing.
        """
        if not self.is_archive:
            yield lambda spans: [self._checked(s, _read_file(self, s)) for s in spans]
        elif (path := self.archive.local) is None:
            yield self._fetched
        else:
            with _errors_of(self.where), path.open("rb", buffering=0) as file:
                at = file.fileno()
                self._check_state(os.fstat(at))
                yield lambda spans: [
                    self._checked(s, os.pread(at, s.size, s.offset)) for s in spans
                ]

    def read(self, span: FileSpan) -> bytes:
        """One file's bytes.

        Raises:
            As `opened` does.
        """
        with self.opened() as read:
            return read([span])[0]

    def check_unchanged(self) -> None:
        """Make sure that a local archive is still the one that was scanned.

        Raises:
            SourceError: It is not.
        """
        if self.state:
            with self.opened():
                pass

    def _check_state(self, stat: os.stat_result) -> None:
        if self.state and _state_of(stat) != self.state:
            problem = "was changed or replaced since it was scanned"
            raise SourceError(self.shown, problem, "convert from a source at rest")

    def _fetched(self, spans: Sequence[FileSpan]) -> list[bytes]:
        """Files of an archive elsewhere, each compared with the CRC-32 it had when it passed by."""
        found: dict[int, bytes] = {}
        for _ in range(_TIMES):
            missing = [at for at in range(len(spans)) if at not in found]
            wanted = [(spans[at].offset, spans[at].offset + spans[at].size) for at in missing]
            read = zip(missing, self.archive.read_ranges(wanted), strict=True)
            found |= {at: b for at, b in read if spans[at].crc in (None, zlib.crc32(b))}
            if len(found) == len(spans):
                return [found[at] for at in range(len(spans))]
        wrong = next(span for at, span in enumerate(spans) if at not in found)
        problem = f"other bytes than when the archive was scanned (read {_TIMES} times)"
        raise SourceError(self.place(wrong), problem, "convert from a source at rest")

    def _checked(self, span: FileSpan, content: bytes) -> bytes:
        if len(content) != span.size:
            problem = f"{len(content)} bytes, {span.size} when it was scanned"
            raise SourceError(self.place(span), problem, "convert from a source at rest")
        return content


def _read_file(source: Source, span: FileSpan) -> bytes:
    try:
        return Path(source.where, span.name).read_bytes()
    except OSError as exc:
        raise SourceError(source.place(span), f"cannot be read: {exc.strerror}") from exc


def _state_of(stat: os.stat_result) -> str:
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"


@dataclass(frozen=True, slots=True)
class Devkit:
    """One year's folder (``VOCdevkit/VOC2007``) of an archive or on disk."""

    source: Source
    files: FileTable = field(repr=False)
    """Folder ('JPEGImages', 'ImageSets/Main', …) to where its files lie."""
    num_bytes: int | None = None
    """Of the archive."""
    sha256: str | None = None
    """Of the archive, where scanning it meant reading all of it."""
    stamp: str = ""
    """Of a folder: what tells that one of its files was written to."""

    @property
    def year(self) -> str:
        """'2007' … '2012', or 'unknown'."""
        return self.source.year

    def find(self, folder: str, stem: str) -> FileSpan | None:
        """Where ``folder/stem`` lies, or None."""
        at = self.files.find(folder, stem.encode("utf-8", "surrogateescape"))
        return at and FileSpan(f"{folder}/{stem}{SUFFIX_OF_FOLDER[folder]}", *at)

    def place(self, span: FileSpan | str) -> str:
        """What messages call a file of this devkit."""
        return self.source.place(span)

    def read(self, span: FileSpan) -> bytes:
        """A list's bytes.

        Raises:
            SourceError: As `Source.opened`; or the list is absurdly long.
        """
        if span.size > _MAX_LIST_BYTES:
            problem = f"{span.size} bytes are too many for a list (most: {_MAX_LIST_BYTES})"
            raise SourceError(self.place(span), problem)
        return self.source.read(span)

    def split_ids(self, folder: str, split: str) -> NDArray[np.bytes_]:
        """The ids of ``ImageSets/<folder>/<split>.txt`` as UTF-8, sorted, each once.

        Raises:
            SourceError: There is no such list, it is empty (names the lists there are), or it is a
            class's list, whose second column says which pictures show the class.
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
        """Id to the second column of ``ImageSets/<folder>/<name>.txt``; None: no such list.

        Raises:
            SourceError: The column holds something else than whole numbers.
        """
        span = self.find(f"ImageSets/{folder}", name)
        return parse_numbers(self.read(span), place=self.place(span)) if span else None

    def labels(self, name: str) -> tuple[NDArray[np.bytes_], NDArray[np.int64]] | None:
        """Ids and numbers of ``ImageSets/Main/<name>.txt``; None: no list of one number an id."""
        span = self.find("ImageSets/Main", name)
        return sorted_labels(self.read(span), place=self.place(span)) if span else None

    def filled_splits(self, folder: str) -> list[str]:
        """Splits of `folder` whose list names at least one picture."""
        return [split for split in SPLITS if self.names_pictures(folder, split)]

    def names_pictures(self, folder: str, split: str) -> bool:
        """Whether there is such a list, and a picture in it."""
        span = self.find(f"ImageSets/{folder}", split)
        return span is not None and names_any(self.read(span), place=self.place(span))

    def identity_sha256(self) -> str:
        """A digest to know the source again by, on this machine; its content is not read for it.

        Of names, offsets and sizes, and of what tells that content was changed: the SHA-256 of an
        archive elsewhere, times of last change of files here.
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
        source: The tar as a path or URL, or the year's folder, its ``VOCdevkit`` or the parent of
            that on this machine.
        options: fsspec's storage options, for a URL.
        number: The source's place among those of one dataset.
        on_progress: Called with (bytes, all bytes) while an archive elsewhere is streamed.

    Raises:
        ObjectMissing: There is nothing at `source`.
        SourceError: Compressed, cut short, several years in one source, a member that is a link or
            leads out of the archive, or not a devkit.
        StoreError: Storage failed, and went on failing.
    """
    archive = StoredObject(source, options or {})
    path = archive.local
    if path is not None and not path.exists():
        raise ObjectMissing(source, "there is no such archive or folder")
    if path is not None and path.is_dir():
        with _errors_of(source):
            return _devkit_in_folder(source, path, number)
    scan = _scan_stream(archive, on_progress) if path is None else _scan_local(source, path)
    inner, files = _the_only_year(archive.place, scan.builder.by_inner())
    where = source if path is None else str(path.absolute())
    found = Source(
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


class _Scan(NamedTuple):
    """What a walk over an archive found."""

    builder: FileTableBuilder
    num_bytes: int
    sha256: str | None = None
    state: str = ""


def _devkit_in_folder(source: str, path: Path, number: int) -> Devkit:
    builder, stamp = _scan_folder(path)
    inner, files = _the_only_year(source, builder.by_inner())
    _check_folders(str(path / inner), files)
    root = (path / inner).absolute()  # not resolved: a link's own name says the year
    inner = "/".join(root.parts[-2:])
    return Devkit(Source(str(root), inner, is_archive=False, number=number), files, stamp=stamp)


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


def _scan_local(source: str, path: Path) -> _Scan:
    """Read the headers only; contents are jumped over."""
    with _errors_of(source), path.open("rb", buffering=0) as file:
        descriptor, stat = file.fileno(), os.fstat(file.fileno())
        builder = _members(source, lambda at, n: os.pread(descriptor, n, at), stat.st_size)
    return _Scan(builder, stat.st_size, state=_state_of(stat))


def _scan_stream(archive: StoredObject, on_progress: Callable[[int, int], None] | None) -> _Scan:
    """Read all of it once: tens of thousands of headers one by one would be as many round trips.

    What passes by is hashed on the way.
    """
    size, digest = archive.num_bytes(), sha256()

    def seen(part: bytes) -> None:
        digest.update(part)
        if on_progress:
            on_progress(reader.num_bytes, size)

    parts = archive.read_parts(0, size, num_bytes=size)
    reader = ForwardReader(parts, seen)
    builder = _members(archive.place, reader, size, with_crcs=True)
    reader.drain()  # a tar ends before its file does
    return _Scan(builder, size, digest.hexdigest())


def _check_kind(place: str, magic: bytes) -> None:
    if kind := next((k for mark, k in _COMPRESSED.items() if magic.startswith(mark)), None):
        problem = f"is compressed ({kind}); archives are read in place, which needs a plain tar"
        raise SourceError(place, problem, "decompress or extract it first")


def _members(
    place: str, read_at: Callable[[int, int], bytes], size: int, *, with_crcs: bool = False
) -> FileTableBuilder:
    """Note all members; with CRC-32s of their contents where these pass by anyhow."""
    builder = FileTableBuilder()
    try:
        _check_kind(place, read_at(0, 8))
        for member in walk(read_at, 0, size, place=place):
            _check_member(place, member)
            crc = _crc_of(member, read_at) if with_crcs else None
            _note(builder, member.name, member.offset, member.size, crc, place=place)
    except ShardError as exc:
        hint = "download or copy the archive again"
        if "Range" in exc.hint:  # said by whoever reads by range, after several tries
            hint = "its server sends the whole for every part: download it, and give the path"
        raise SourceError(exc.place, exc.problem, hint) from exc
    return builder


def _crc_of(member: Member, read_at: Callable[[int, int], bytes]) -> int:
    crc, stop = 0, member.offset + member.size
    for at in range(member.offset, stop, _CRC_BYTES):
        crc = zlib.crc32(read_at(at, min(_CRC_BYTES, stop - at)), crc)
    return crc


def _check_member(place: str, member: Member) -> None:
    """Refuse what no official archive holds; nothing is extracted, but the sender meant harm."""
    steps = member.name.split("/")
    problem = ""
    if member.kind in _LINKS or member.kind in _DEVICES:
        problem = f"is {_LINKS.get(member.kind) or _DEVICES[member.kind]}, not a file"
    elif ".." in steps or member.name.startswith("/"):
        problem = "leads out of the archive"
    elif (known := _INNER_PATH.fullmatch(member.name)) and _UNPRINTABLE.search(known[3]):
        problem = "has a name that is no text (control characters, or not UTF-8)"
    if problem:
        hint = "get the archive from another place, or extract what you trust and give the folder"
        raise SourceError(place, f"member {member.name!r} {problem}", hint)


def _scan_folder(path: Path) -> tuple[FileTableBuilder, str]:
    """Its files, and a digest of their times of last change."""
    builder, stamp = FileTableBuilder(), 0
    candidates = [path, *path.glob("VOC20[01][0-9]"), *path.glob("VOCdevkit/VOC20[01][0-9]")]
    for root in [*candidates, *path.glob("TrainVal/VOCdevkit/VOC20[01][0-9]")]:
        inner = root.relative_to(path).as_posix()
        for folder in SUFFIX_OF_FOLDER:
            if not (root / folder).is_dir():
                continue
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.is_file():  # not so a link that leads nowhere
                        stat, name = entry.stat(), f"{inner}/{folder}/{entry.name}"
                        _note(builder, name, 0, stat.st_size, None, place=str(path))
                        written = f"{name} {stat.st_mtime_ns}".encode("utf-8", "surrogateescape")
                        stamp += int.from_bytes(sha256(written).digest(), "big")  # in any order
    return builder, f"{stamp % 2**256:x}"


def _note(
    builder: FileTableBuilder, name: str, offset: int, size: int, crc: int | None, *, place: str
) -> None:
    """Remember a file of one of the folders we know; anything else is none of our business."""
    match = _INNER_PATH.fullmatch(name.removeprefix("./"))
    if not (match and match[3].endswith(SUFFIX_OF_FOLDER[match[2]])):
        return
    stem = match[3].removesuffix(SUFFIX_OF_FOLDER[match[2]]).encode("utf-8", "surrogateescape")
    if len(stem) > _MAX_STEM_BYTES:
        problem = f"member {name[:60]!r}… has a name of {len(stem)} bytes (most: {_MAX_STEM_BYTES})"
        raise SourceError(place, problem)
    builder.add(match[1].rstrip("/"), match[2], stem, offset, size, crc)


@contextmanager
def _errors_of(source: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except OSError as exc:
        raise SourceError(source, f"cannot be read: {exc.strerror or exc}") from exc
