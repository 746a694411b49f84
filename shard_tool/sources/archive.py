"""Reads the files of a source in place: members of a tar, local or remote, or files of a folder.

Knows where bytes lie and nothing of what they mean. A scan of a local tar reads its headers; a scan
of a remote one streams it once. After that each file is read by its offset. Nothing is extracted or
copied. Names inside an archive are compared and never joined to a path of this machine, so a
hostile name reaches no file; a scan still refuses it with an error that shows it.
"""

from __future__ import annotations

import os
import zlib
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shard_tool.errors import ShardError, SourceError
from shard_tool.format.tar import Member, walk
from shard_tool.sources.forward_reader import ForwardReader
from shard_tool.storage.location import StoredObject, public_url
from shard_tool.storage.wrong_bytes import WrongBytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from shard_tool.format.tar import ReadAt

_COMPRESSED = {
    b"\x1f\x8b\x08": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_LINKS = {"1": "a hard link", "2": "a symbolic link"}
_DEVICES = {"3": "a device", "4": "a device", "6": "a pipe"}
_CRC_BYTES = 1 << 20


class FileSpan(NamedTuple):
    """Where one file of a source lies."""

    name: str
    """Its path below `SourceFiles.inner`, e.g. 'JPEGImages/000005.jpg'."""
    offset: int
    """First byte in the archive; 0 in a folder."""
    size: int
    """Length in bytes."""
    crc: int | None = None
    """CRC-32 of the content, if the scan read it."""
    packed: int | None = None
    """Its length in the archive, if it is packed there."""


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """Reads the files of one source. A small value: pickled, it goes to every worker."""

    where: str
    """Path or URL of the archive, or path of the folder."""
    inner: str
    """Path of the dataset's folder inside the archive, without a trailing slash."""
    _: KW_ONLY
    is_archive: bool
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    """fsspec's storage options for a remote archive; may hold secrets."""
    number: int = 0
    """Its place among the sources of one dataset."""
    state: str = ""
    """Size, time of change and inode of a local archive, to notice that it was changed."""
    shown: str = field(default="", compare=False)
    """Its name in messages: as the caller gave it, without secrets."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", self.shown or public_url(self.where))

    def __repr__(self) -> str:
        return f"SourceFiles({self.shown!r})"  # a URL as given may be signed

    @property
    def archive(self) -> StoredObject:
        """The archive; only where `is_archive`."""
        return StoredObject(self.where, self.options)

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine."""
        return not self.is_archive or self.archive.local is not None

    def place(self, span: FileSpan | str) -> str:
        """Name of a file in messages."""
        name = span if isinstance(span, str) else span.name
        return f"{self.shown}{':' if self.is_archive else '/'}{name}"

    @contextmanager
    def opened(self) -> Iterator[Callable[[Sequence[FileSpan]], list[bytes]]]:
        """Yield a function that reads files, valid inside the block.

        From a remote archive it requests all of them at the same time.

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
            with os_errors_named(self.where), path.open("rb", buffering=0) as file:
                at = file.fileno()
                self._check_state(os.fstat(at))
                yield lambda spans: [
                    self._checked(s, os.pread(at, s.size, s.offset)) for s in spans
                ]

    def read(self, span: FileSpan) -> bytes:
        """Read one file.

        Raises:
            As `opened` does.
        """
        with self.opened() as read:
            return read([span])[0]

    def check_unchanged(self) -> None:
        """Check that a local archive is still the one that was scanned.

        Raises:
            SourceError: It is not.
        """
        if self.state:
            with self.opened():
                pass

    def _check_state(self, stat: os.stat_result) -> None:
        if self.state and _state_of(stat) != self.state:
            problem = "was changed or replaced since it was scanned"
            raise SourceError(self.shown, problem, "convert from a source that does not change")

    def _fetched(self, spans: Sequence[FileSpan]) -> list[bytes]:
        """Read files of a remote archive and compare each with its CRC-32 from the scan."""
        found: dict[int, bytes] = {}
        wrong = WrongBytes(self.archive.timeout_s)
        while True:
            missing = [at for at in range(len(spans)) if at not in found]
            wanted = [(spans[at].offset, spans[at].offset + spans[at].size) for at in missing]
            for at, content in zip(missing, self.archive.read_ranges(wanted), strict=True):
                crc = zlib.crc32(content)
                if spans[at].crc in (None, crc):
                    found[at] = content
                else:
                    problem = "its bytes are not those of the scan"
                    hint = "convert from a source that does not change"
                    wrong.note(SourceError(self.place(spans[at]), problem, hint), (at, crc))
            if len(found) == len(spans):
                return [found[at] for at in range(len(spans))]
            wrong.wait()

    def _checked(self, span: FileSpan, content: bytes) -> bytes:
        if len(content) != span.size:
            problem = f"{len(content)} bytes, {span.size} when it was scanned"
            raise SourceError(
                self.place(span), problem, "convert from a source that does not change"
            )
        return content


def _read_file(source: SourceFiles, span: FileSpan) -> bytes:
    try:
        return Path(source.where, span.name).read_bytes()
    except OSError as exc:
        raise SourceError(source.place(span), f"cannot be read: {exc.strerror}") from exc


def _state_of(stat: os.stat_result) -> str:
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"


class ArchiveScan(NamedTuple):
    """What a scan learnt about an archive as a whole."""

    num_bytes: int
    sha256: str | None = None
    """Digest of the archive, if the scan read all of it."""
    state: str = ""
    """See `SourceFiles.state`."""


def scan_archive(
    archive: StoredObject,
    note: Callable[[FileSpan], None],
    on_progress: Callable[[int, int], None] | None = None,
) -> ArchiveScan:
    """Scan a plain tar: only the headers of a local one, all bytes of a remote one.

    Args:
        archive: The tar.
        note: Called with each file and folder, in order.
        on_progress: Called with (bytes read, all bytes) while a remote archive is streamed.

    Raises:
        SourceError: Compressed, cut short, or a member is a link or leads out of the archive.
        StoreError: Storage failed, and went on failing.
    """
    if archive.local is None:
        return _scan_stream(archive, note, on_progress)
    return _scan_local(archive.place, archive.local, note)


def _scan_local(place: str, path: Path, note: Callable[[FileSpan], None]) -> ArchiveScan:
    """Read the headers and skip the contents."""
    with os_errors_named(place), path.open("rb", buffering=0) as file:
        descriptor, stat = file.fileno(), os.fstat(file.fileno())
        _walk(place, lambda at, n: os.pread(descriptor, n, at), stat.st_size, note)
    return ArchiveScan(stat.st_size, state=_state_of(stat))


def _scan_stream(
    archive: StoredObject,
    note: Callable[[FileSpan], None],
    on_progress: Callable[[int, int], None] | None,
) -> ArchiveScan:
    """Stream and hash the archive: reading its headers one by one would cost a round trip each."""
    size, digest = archive.num_bytes(), sha256()

    def seen(part: bytes) -> None:
        digest.update(part)
        if on_progress:
            on_progress(reader.num_bytes, size)

    parts = archive.read_parts(0, size, num_bytes=size)
    reader = ForwardReader(parts, seen)
    _walk(archive.place, reader, size, note, with_crcs=True)
    reader.drain()  # a tar ends before its file does
    return ArchiveScan(size, digest.hexdigest())


def _walk(
    place: str,
    read_at: ReadAt,
    size: int,
    note: Callable[[FileSpan], None],
    *,
    with_crcs: bool = False,
) -> None:
    """Check and note all members, with CRC-32s of their contents if wanted."""
    try:
        _check_kind(place, read_at(0, 8))
        for member in walk(read_at, 0, size, place=place):
            _check_member(place, member)
            crc = _crc_of(member, read_at) if with_crcs else None
            note(FileSpan(member.name, member.offset, member.size, crc))
    except ShardError as exc:
        hint = "download or copy the archive again"
        if "Range" in exc.hint:  # from `storage.ranges`, after several attempts
            hint = "its server ignores Range: download the archive and give its path"
        raise SourceError(exc.place, exc.problem, hint) from exc


def _check_kind(place: str, magic: bytes) -> None:
    if kind := next((k for mark, k in _COMPRESSED.items() if magic.startswith(mark)), None):
        problem = f"is compressed ({kind}); archives are read in place, which needs a plain tar"
        raise SourceError(place, problem, "decompress or extract it first")


def _crc_of(member: Member, read_at: Callable[[int, int], bytes]) -> int:
    crc, stop = 0, member.offset + member.size
    for at in range(member.offset, stop, _CRC_BYTES):
        crc = zlib.crc32(read_at(at, min(_CRC_BYTES, stop - at)), crc)
    return crc


def _check_member(place: str, member: Member) -> None:
    if member.kind in _LINKS or member.kind in _DEVICES:
        problem = f"is {_LINKS.get(member.kind) or _DEVICES[member.kind]}, not a file"
        raise unsafe_member(place, member.name, problem)
    if ".." in member.name.split("/") or member.name.startswith("/"):
        raise unsafe_member(place, member.name, "leads out of the archive")


def unsafe_member(place: str, name: str, problem: str) -> SourceError:
    """The error for a member that no honest archive holds."""
    hint = "get the archive from another place, or extract what you trust and give the folder"
    return SourceError(place, f"member {name!r} {problem}", hint)


def scan_folders(root: Path, folders: Iterable[str], note: Callable[[FileSpan], None]) -> str:
    """Note the files directly inside some folders.

    Args:
        root: A local folder.
        folders: Paths below `root`; a missing folder counts as empty.
        note: Called with each file, named by its path below `root`, in no particular order.

    Returns:
        A digest of the files' names and times of last change.
    """
    stamp = 0
    for folder in folders:
        if not (root / folder).is_dir():
            continue
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.is_file():  # False for a broken link
                    stat, name = entry.stat(), f"{folder}/{entry.name}"
                    note(FileSpan(name, 0, stat.st_size))
                    written = f"{name} {stat.st_mtime_ns}".encode("utf-8", "surrogateescape")
                    stamp += int.from_bytes(sha256(written).digest(), "big")  # a sum: in any order
    return f"{stamp % 2**256:x}"


@contextmanager
def os_errors_named(source: str) -> Iterator[None]:
    """Turn errors of the operating system into a `SourceError` that names the source."""
    try:
        yield
    except SourceError:
        raise
    except OSError as exc:
        raise SourceError(source, f"cannot be read: {exc.strerror or exc}") from exc


def scan_tree(root: Path, note: Callable[[FileSpan], None]) -> str:
    """Note all files below a folder."""
    stamp = 0
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            stat = path.stat()
            rel = path.relative_to(root).as_posix()
            note(FileSpan(rel, 0, stat.st_size))
            stamp += int.from_bytes(sha256(f"{rel} {stat.st_mtime_ns}".encode()).digest(), "big")
    return f"{stamp % 2**256:x}"
