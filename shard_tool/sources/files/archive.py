"""Reads the files of a source in place: members of a tar or zip, local or remote, or of a folder.

Knows where bytes lie and nothing of what they mean. `archive_scan` and `folders` find the files;
after that each is read alone, in any order, by any process. Nothing is extracted.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shard_tool.errors import SourceError
from shard_tool.sources.files.archive_scan import (
    ArchiveScan,
    scan_archive,
    scan_remote_zip,
    state_of,
)
from shard_tool.sources.files.file_span import (
    AGAIN,
    UNCHANGING,
    FileSpan,
    is_clutter,
    os_errors_named,
    printable,
    unsafe_member,
)
from shard_tool.sources.files.folders import scan_tree
from shard_tool.sources.files.zip_members import content_of
from shard_tool.storage.location import StoredObject, public_url
from shard_tool.storage.wrong_bytes import WrongBytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from shard_tool.sources.files.unpacked import UnpackedTar

__all__ = [
    "ArchiveScan",
    "FileSpan",
    "SourceFiles",
    "is_clutter",
    "os_errors_named",
    "scan_archive",
    "scan_tree",
    "unsafe_member",
]

_HASHED_BYTES = 1 << 23


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
    """To notice that it was changed: size, time of change and inode of a local archive, a digest of
    the directory of a remote zip."""
    unpacked: UnpackedTar | None = field(default=None, repr=False, compare=False)
    """The temporary plain tar made of a compressed one; it is there as long as this is."""
    shown: str = field(default="", compare=False)
    """Its name in messages: as the caller gave it, without secrets."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", printable(self.shown or public_url(self.where)))

    def __repr__(self) -> str:
        return f"SourceFiles({self.shown!r})"  # a URL as given may be signed

    @property
    def archive(self) -> StoredObject:
        """The archive; only where `is_archive`."""
        return StoredObject(self.where, self.options)

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine."""
        return not self.is_archive or self.is_here_only or self.archive.local is not None

    @property
    def is_here_only(self) -> bool:
        """Whether its files are in a temporary file of this machine, which no other can read."""
        return self.unpacked is not None

    def place(self, span: FileSpan | str) -> str:
        """Name of a file in messages."""
        name = span if isinstance(span, str) else span.name
        return f"{self.shown}{':' if self.is_archive else '/'}{printable(name)}"

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
            yield lambda spans: [self._content(s, _read_file(self, s)) for s in spans]
        elif self.unpacked is not None:
            where = f"{self.shown} (decompressed into {self.unpacked.path})"
            with os_errors_named(where), Path(self.unpacked.path).open("rb", buffering=0) as file:
                yield self._reader(file.fileno())
        elif (path := self.archive.local) is None:
            yield self._fetched
        else:
            with os_errors_named(self.where), path.open("rb", buffering=0) as file:
                self._check_state(state_of(os.fstat(file.fileno())))
                yield self._reader(file.fileno())

    def read(self, span: FileSpan) -> bytes:
        """Read one file.

        Raises:
            As `opened` does.
        """
        with self.opened() as read:
            return read([span])[0]

    def check_unchanged(self) -> None:
        """Check that an archive is still the one that was scanned, as far as `state` tells.

        Raises:
            SourceError: It is not.
            StoreError: Storage failed, and went on failing.
        """
        if not self.state:
            return
        if (path := self.archive.local) is None:
            self._check_state(scan_remote_zip(self.archive, lambda _: None).state)
        else:
            with os_errors_named(self.where):
                self._check_state(state_of(path.stat()))

    def sha256(self, is_stopped: Callable[[], bool] = lambda: False) -> str:
        """Hash the archive as it was given; reads all of it.

        Args:
            is_stopped: Asked before each part; once it is true, the digest is of less.

        Returns:
            SHA-256 as hex digits.

        Raises:
            SourceError: A local archive cannot be read.
            StoreError: Storage failed, and went on failing.
        """
        digest = hashlib.sha256()
        for part in self._parts():
            if is_stopped():
                break
            digest.update(part)
        return digest.hexdigest()

    def _parts(self) -> Iterator[bytes]:
        if (path := self.archive.local) is None:
            size = self.archive.num_bytes()
            yield from self.archive.read_parts(0, size, num_bytes=size)
            return
        with os_errors_named(self.where), path.open("rb", buffering=0) as file:
            yield from iter(lambda: file.read(_HASHED_BYTES), b"")

    def _check_state(self, found: str) -> None:
        if self.state and found != self.state:
            problem = "was changed or replaced since it was scanned"
            raise SourceError(self.shown, problem, UNCHANGING)

    def _reader(self, descriptor: int) -> Callable[[Sequence[FileSpan]], list[bytes]]:
        """Read files of an open archive."""

        def read(span: FileSpan) -> bytes:
            return self._content(span, os.pread(descriptor, _length(span), span.offset))

        return lambda spans: [read(span) for span in spans]

    def _fetched(self, spans: Sequence[FileSpan]) -> list[bytes]:
        """Read files of a remote archive and compare each with its CRC-32 from the scan."""
        found: dict[int, bytes] = {}
        wrong = WrongBytes(self.archive.timeout_s)
        while True:
            missing = [at for at in range(len(spans)) if at not in found]
            wanted = [(spans[at].offset, spans[at].offset + _length(spans[at])) for at in missing]
            for at, fetched in zip(missing, self.archive.read_ranges(wanted), strict=True):
                try:
                    found[at] = self._as_scanned(spans[at], fetched)
                except SourceError as exc:
                    wrong.note(exc, (at, zlib.crc32(fetched)))
            if len(found) == len(spans):
                return [found[at] for at in range(len(spans))]
            wrong.wait()

    def _as_scanned(self, span: FileSpan, fetched: bytes) -> bytes:
        """The content of a file, compared with its CRC-32 from the scan."""
        if span.packed is None and span.crc not in (None, zlib.crc32(fetched)):
            problem = "its bytes are not those of the scan"
            raise SourceError(self.place(span), problem, UNCHANGING)
        return self._content(span, fetched)

    def _content(self, span: FileSpan, found: bytes) -> bytes:
        """The content of a file, from the bytes found where it lies."""
        if span.packed is not None:
            try:
                return content_of(found, span)
            except ValueError as exc:
                raise SourceError(self.place(span), str(exc), AGAIN) from exc
        if len(found) != span.size:
            problem = f"{len(found)} bytes, {span.size} when it was scanned"
            raise SourceError(self.place(span), problem, UNCHANGING)
        return found


def _length(span: FileSpan) -> int:
    return span.size if span.packed is None else span.packed


def _read_file(source: SourceFiles, span: FileSpan) -> bytes:
    try:
        return Path(source.where, span.name).read_bytes()
    except OSError as exc:
        raise SourceError(source.place(span), f"cannot be read: {exc.strerror}") from exc
