"""Finds the files of an archive: a tar, a zip, or a compressed tar, local or remote.

A scan of a local tar reads its headers, one of a zip the directory at its end; a remote tar is
streamed once. Only a compressed tar is decompressed, into a temporary file (`unpacked`).
"""

from __future__ import annotations

import os
import re
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from shard_tool.errors import SourceError
from shard_tool.sources.files.file_span import UNCHANGING, damage_named, os_errors_named
from shard_tool.sources.files.forward_reader import ForwardReader
from shard_tool.sources.files.tar_members import note_members
from shard_tool.sources.files.unpacked import unpack
from shard_tool.sources.files.zip_members import note_zip_members, remote_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shard_tool.sources.files.file_span import FileSpan
    from shard_tool.sources.files.tar_members import Keep
    from shard_tool.sources.files.unpacked import UnpackedTar
    from shard_tool.storage.location import StoredObject

_KINDS = {
    "gzip": rb"\x1f\x8b\x08",
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\x00",
    "zstd": rb"\x28\xb5\x2f\xfd",
    "zip": rb"PK(\x03\x04|\x05\x06|\x07\x08)",
    "7z": rb"7z\xbc\xaf\x27\x1c",
    "RAR": rb"Rar!\x1a\x07",
}
_MARK_BYTES = 10
_BLOCK_BYTES = 1 << 20


class ArchiveScan(NamedTuple):
    """What a scan learnt about an archive as a whole."""

    num_bytes: int
    """Length of the archive as it was given."""
    sha256: str | None = None
    """Its digest, if the scan read all of it."""
    state: str = ""
    """See `SourceFiles.state`."""
    unpacked: UnpackedTar | None = None
    """See `SourceFiles.unpacked`."""
    num_backslashed: int = 0
    """Members whose names had backslashes, as Windows programs write them."""


def scan_archive(
    archive: StoredObject,
    note: Callable[[FileSpan], None],
    on_progress: Callable[[int, int], None] | None = None,
    *,
    keep: Callable[[FileSpan], bool] | None = None,
    kept: Callable[[FileSpan, bytes], None] | None = None,
) -> ArchiveScan:
    """Scan a tar or a zip; what it is, its first bytes tell.

    Of a local tar this reads the headers, of any zip the directory at its end. A remote tar is
    streamed once. A compressed tar is read once and decompressed into a temporary file.

    Args:
        archive: The tar, zip or compressed tar.
        note: Called with each file and folder, in order. A folder's name ends with a slash.
        on_progress: Called with (bytes read, all bytes) while an archive is read as a whole.
        keep: Asked for each file of a remote tar whether its content is wanted: fetching many small
            files later would take a request each. All other archives are read cheaply later.
        kept: Called with each such file and its content, after `note`.

    Raises:
        SourceError: Damaged or cut short, of an unknown kind, or a member is a link, leads out of
            the archive, or (zip) is encrypted or compressed in another way than by Deflate.
        StoreError: Storage failed, and went on failing; or a compressed tar does not fit on the
            disk of temporary files.
    """
    if archive.local is not None:
        return _scan_local(archive.place, archive.local, note, on_progress)
    if urlsplit(archive.url).path.lower().endswith(".zip"):
        with damage_named():
            (mark,) = archive.read_ranges([(0, min(_MARK_BYTES, archive.num_bytes()))])
        if _kind_of(archive.place, mark) == "zip":
            return scan_remote_zip(archive, note)
    with damage_named():
        return _scan_stream(archive, note, on_progress, (keep, kept) if keep and kept else None)


def _kind_of(place: str, mark: bytes) -> str:
    """'zip', the kind of compression, or 'tar' for anything else."""
    kind = next((kind for kind, mark_of in _KINDS.items() if re.match(mark_of, mark)), "tar")
    if kind in ("7z", "RAR"):
        raise SourceError(place, f"is a {kind} archive", "extract it and give the folder")
    return kind


def _scan_local(
    place: str,
    path: Path,
    note: Callable[[FileSpan], None],
    on_progress: Callable[[int, int], None] | None,
) -> ArchiveScan:
    with os_errors_named(place), path.open("rb", buffering=0) as file:
        descriptor, stat = file.fileno(), os.fstat(file.fileno())
        kind = _kind_of(place, os.pread(descriptor, _MARK_BYTES, 0))
        if kind == "zip":
            num_backslashed = note_zip_members(place, file, stat.st_size, note)
        elif kind == "tar":
            num_backslashed = _note_local(place, descriptor, note)
        else:
            blocks = iter(lambda: file.read(_BLOCK_BYTES), b"")
            scan = _scan_packed(place, kind, blocks, stat.st_size, note, on_progress)
            if state_of(os.fstat(descriptor)) != state_of(stat):
                raise SourceError(place, "was changed while it was read", UNCHANGING)
            return scan._replace(state=state_of(stat))
    return ArchiveScan(stat.st_size, state=state_of(stat), num_backslashed=num_backslashed)


def _note_local(place: str, descriptor: int, note: Callable[[FileSpan], None]) -> int:
    """Read the headers of a tar and skip the contents."""
    size = os.fstat(descriptor).st_size
    return note_members(place, lambda at, n: os.pread(descriptor, n, at), size, note)


def _scan_stream(
    archive: StoredObject,
    note: Callable[[FileSpan], None],
    on_progress: Callable[[int, int], None] | None,
    keep: Keep | None,
) -> ArchiveScan:
    """Stream and hash a remote archive: reading its headers one by one would cost a trip each."""
    place, size, digest = archive.place, archive.num_bytes(), sha256()
    coming = archive.read_parts(0, size, num_bytes=size)
    first = next(coming, b"")
    if (kind := _kind_of(place, first[:_MARK_BYTES])) == "zip":
        del coming  # cancels the next part
        return scan_remote_zip(archive, note)
    parts = chain([first], coming)
    if kind != "tar":
        return _scan_packed(place, kind, parts, size, note, on_progress)

    def seen(part: bytes) -> None:
        digest.update(part)
        if on_progress:
            on_progress(reader.num_bytes, size)

    reader = ForwardReader(parts, seen)
    num = note_members(place, reader, size, note, with_crcs=True, keep=keep)
    reader.drain()  # a tar ends before its file does
    return ArchiveScan(size, digest.hexdigest(), num_backslashed=num)


def _scan_packed(
    place: str,
    kind: str,
    parts: Iterator[bytes],
    size: int,
    note: Callable[[FileSpan], None],
    on_progress: Callable[[int, int], None] | None,
) -> ArchiveScan:
    """Decompress a tar and hash its compressed bytes, then scan what comes out."""
    digest, done = sha256(), 0

    def seen() -> Iterator[bytes]:
        nonlocal done
        for part in parts:
            digest.update(part)
            done += len(part)
            if on_progress:
                on_progress(done, size)
            yield part

    unpacked = unpack(place, kind, seen(), size)
    try:
        with os_errors_named(place), Path(unpacked.path).open("rb", buffering=0) as file:
            num = _note_local(place, file.fileno(), note)
    except BaseException:
        unpacked.remove()
        raise
    return ArchiveScan(size, digest.hexdigest(), unpacked=unpacked, num_backslashed=num)


def scan_remote_zip(archive: StoredObject, note: Callable[[FileSpan], None]) -> ArchiveScan:
    """Read the directory of a zip, by a few requests however many members there are."""
    size, digest = archive.num_bytes(), sha256()

    def noted(span: FileSpan) -> None:
        digest.update(repr(span).encode("utf-8", "surrogateescape"))
        note(span)

    file = remote_end(archive, size)
    num_backslashed = note_zip_members(archive.place, file, size, noted)
    state = f"{size} {digest.hexdigest()}"
    return ArchiveScan(size, state=state, num_backslashed=num_backslashed)


def state_of(stat: os.stat_result) -> str:
    """Size, time of change and inode: what shows that a local file was changed."""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
