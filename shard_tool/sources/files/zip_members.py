"""Finds the members of a zip and reads them in place: stored and deflated ones.

The directory at the end of a zip says where the members are; `zipfile` reads it. A member is read
alone, as the bytes that hold its own header and its content, and compared with the directory's
CRC-32. So any process reads any member, and never more than the directory says.

Source: APPNOTE.TXT 6.3.10 (PKWARE), sections 4.3.7 and 4.4.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
import zlib
from bisect import bisect_right
from stat import S_IFMT, S_ISDIR, S_ISLNK, S_ISREG
from typing import IO, TYPE_CHECKING, cast

from shard_tool.errors import SourceError
from shard_tool.sources.files.file_span import (
    AGAIN,
    FileSpan,
    checked_name,
    damage_named,
    unsafe_member,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from zipfile import ZipInfo

    from shard_tool.storage.location import StoredObject

_HEADER = struct.Struct("<4s 2x H H 16x H H").unpack_from
"""Unpacks mark, flags, method, and the lengths of name and extra field of a local header."""
_HEADER_BYTES = 30
_MARK = b"PK\x03\x04"
_ENCRYPTED = 0x1
_UTF8 = 0x800
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard"}
_METHODS |= {95: "XZ", 98: "PPMd", 99: "AES"}
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError)
_TAIL_BYTES = 1 << 20
_MOST_DIRECTORY_BYTES = 1 << 30


def note_zip_members(
    place: str, file: IO[bytes], num_bytes: int, note: Callable[[FileSpan], None]
) -> int:
    """Check and note all members of a zip.

    Args:
        place: What messages call it.
        file: The zip; only its end is read.
        num_bytes: Its length.
        note: Called with each file and folder, in the order of the directory.

    Returns:
        How many names had backslashes.

    Raises:
        SourceError: It is damaged or cut short, or a member is encrypted, compressed by another
            method than Deflate, a link, or leads out of the archive.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (*_DAMAGE, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno != errno.EINVAL:  # that is a wrong position
            raise
        problem = f"is a zip that is damaged or cut short ({exc})"
        raise SourceError(place, problem, AGAIN) from exc
    members, num_backslashed = archive.infolist(), 0
    starts = sorted({info.header_offset for info in members})
    starts.append(min(archive.start_dir, num_bytes))
    for info in members:
        written = _name_of(info)
        name = checked_name(place, written)
        num_backslashed += name != written
        at, packed = info.header_offset, 0
        if not name.endswith("/"):
            _check_kind(place, info, name)
            packed = starts[min(bisect_right(starts, at), len(starts) - 1)] - at
            if at < 0 or packed < _HEADER_BYTES + info.compress_size:
                problem = f"member {name!r} does not lie where the directory says"
                raise SourceError(place, problem, AGAIN)
        note(FileSpan(name, at, info.file_size, info.CRC, packed))
    return num_backslashed


def _name_of(info: ZipInfo) -> str:
    """The name in UTF-8 where the bytes are UTF-8, flagged or not; else in code page 437."""
    if not info.flag_bits & _UTF8:
        try:
            return info.orig_filename.encode("cp437").decode()
        except UnicodeDecodeError:
            pass
    return info.orig_filename


def _check_kind(place: str, info: ZipInfo, name: str) -> None:
    mode = S_IFMT(info.external_attr >> 16)
    if mode and not (S_ISREG(mode) or S_ISDIR(mode)):
        kind = "a symbolic link" if S_ISLNK(mode) else "a device or pipe"
        raise unsafe_member(place, name, f"is {kind}, not a file")
    hint = "extract it and give the folder"
    if info.flag_bits & _ENCRYPTED:
        raise SourceError(place, f"member {name!r} is encrypted", hint)
    if info.compress_type not in (_STORED, _DEFLATED):
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        problem = f"member {name!r} is compressed by {method}; Deflate can be read"
        raise SourceError(place, problem, hint)


def content_of(window: bytes, span: FileSpan) -> bytes:
    """Take the content of a member from its bytes in the zip.

    Args:
        window: `span.packed` bytes from `span.offset` on.
        span: The member; its CRC-32 is compared.

    Raises:
        ValueError: Says what is wrong with the bytes.
    """
    if len(window) < _HEADER_BYTES:
        raise ValueError("its header is cut short")
    mark, _, method, *skipped = _HEADER(window)
    if mark != _MARK:
        raise ValueError("there is no zip header where it should be")
    packed = memoryview(window)[_HEADER_BYTES + sum(skipped) :]
    if method == _DEFLATED:
        content = _inflated(packed, span.size)
    elif method == _STORED:
        content = bytes(packed[: span.size])
    else:
        raise ValueError(f"its header names method {method}")
    if len(content) != span.size:
        raise ValueError(f"{len(content)} bytes, {span.size} expected")
    if (crc := zlib.crc32(content)) != span.crc:
        raise ValueError(f"its CRC-32 is {crc:08x}, {span.crc or 0:08x} expected")
    return content


def _inflated(packed: memoryview, size: int) -> bytes:
    """Inflate, and stop after one byte too many."""
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return inflating.decompress(packed, size + 1)
    except zlib.error as exc:
        raise ValueError(f"its compressed bytes are damaged ({exc})") from exc


class RemoteEnd(io.RawIOBase):
    """The end of a remote object, as a file that can seek; a few requests bring it.

    Args:
        archive: The object.
        num_bytes: Its length.
    """

    def __init__(self, archive: StoredObject, num_bytes: int) -> None:
        super().__init__()
        self._archive, self._size, self._at = archive, num_bytes, 0
        self._held, self._start = b"", num_bytes

    def seekable(self) -> bool:  # noqa: D102  (as in RawIOBase, like the others)
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # as a file of the system does
        self._at = base + offset
        return self._at

    def tell(self) -> int:  # noqa: D102
        return self._at

    def read(self, size: int | None = -1) -> bytes:  # noqa: D102
        stop = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if stop <= self._at:
            return b""
        if self._at < self._start:
            self._fetch(min(self._at, max(0, self._size - _TAIL_BYTES)))
        content = self._held[self._at - self._start : stop - self._start]
        self._at = stop
        return content

    def _fetch(self, start: int) -> None:
        if self._size - start > _MOST_DIRECTORY_BYTES:
            problem = f"is a zip with a directory of {self._size - start} bytes"
            raise SourceError(self._archive.place, problem, AGAIN)
        with damage_named():
            self._held = self._archive.read_ranges([(start, self._start)])[0] + self._held
        self._start = start


def remote_end(archive: StoredObject, num_bytes: int) -> IO[bytes]:
    """The file that `note_zip_members` reads of a remote zip."""
    return cast("IO[bytes]", RemoteEnd(archive, num_bytes))
