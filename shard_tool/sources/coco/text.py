"""Reads the bytes of JSON files: a few of many files, or all of a large one without a copy.

A file of a local folder, or a member that lies in a local archive as it is, is mapped into memory:
the system loads what is read, and drops it again. A packed member of a zip, and one of a remote
archive, is held in memory as a whole; nothing is written to a disk.
"""

from __future__ import annotations

import codecs
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from shard_tool.errors import SourceError
from shard_tool.sources.files.archive import os_errors_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shard_tool.sources.files.archive import FileSpan, SourceFiles

Content = bytes | memoryview

PEEKED_BYTES = 1 << 16
"""So much of a file's begin and of its end tells what it is."""
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"{\0", b"\0{")


def peeks(files: SourceFiles, spans: Sequence[FileSpan]) -> list[bytes]:
    """The first and last bytes of some files, as UTF-8; of a small or packed one all of it.

    Raises:
        SourceError: A file cannot be read.
        StoreError: Storage failed, and went on failing.
    """
    if not files.is_archive:
        return [_plain(_ends_of(files, span)) for span in spans]
    parts = [part for span in spans for part in _ends(span)]
    with files.opened() as read:
        contents = iter(read(parts))
    return [_plain(b"".join(next(contents) for _ in _ends(span))) for span in spans]


def _ends(span: FileSpan) -> list[FileSpan]:
    """Spans of the first and the last bytes of a member; of all of it where it is packed or small.

    A zip has a checksum of a whole member alone.
    """
    if span.packed is not None or span.size <= 2 * PEEKED_BYTES:
        return [span]
    first = span._replace(size=PEEKED_BYTES, crc=None)
    return [first, first._replace(offset=span.offset + span.size - PEEKED_BYTES)]


def _ends_of(files: SourceFiles, span: FileSpan) -> bytes:
    path = Path(files.where, span.name)
    with os_errors_named(files.place(span)), path.open("rb", buffering=0) as file:
        if span.size <= 2 * PEEKED_BYTES:
            return file.read()
        first = file.read(PEEKED_BYTES)
        file.seek(-PEEKED_BYTES, os.SEEK_END)
        return first + file.read(PEEKED_BYTES)


def _plain(ends: bytes) -> bytes:
    """The bytes of UTF-16 as those of UTF-8; good enough for ASCII."""
    return ends.replace(b"\0", b"") if ends.startswith(_MARKS) else ends


def content_of(files: SourceFiles, span: FileSpan) -> Content:
    """All of a file, as UTF-8 without a byte order mark.

    Raises:
        SourceError: It cannot be read, or is marked as UTF-16 and is none.
        StoreError: Storage failed, and went on failing.
    """
    content = _mapped(files, span)
    head = bytes(content[:4])
    if head.startswith(codecs.BOM_UTF8):
        return content[len(codecs.BOM_UTF8) :]
    if not head.startswith(_MARKS):
        return content
    encoding = "utf-16" if head.startswith(_MARKS[:2]) else "utf-16-le"
    try:
        return codecs.decode(content, "utf-16-be" if head[:1] == b"\0" else encoding).encode()
    except UnicodeError as exc:
        problem = f"begins as UTF-16 and is not: {exc}"
        raise SourceError(files.place(span), problem, "write it as UTF-8") from exc


def _mapped(files: SourceFiles, span: FileSpan) -> Content:
    if not span.size:
        return b""
    path = Path(files.where, span.name)
    if files.is_archive:
        local = Path(files.unpacked.path) if files.unpacked else files.archive.local
        if span.packed is not None or local is None:
            return files.read(span)
        with files.opened():  # checks that it is the archive that was scanned
            path = local
    with os_errors_named(files.place(span)), path.open("rb", buffering=0) as file:
        first = span.offset % mmap.ALLOCATIONGRANULARITY
        if os.fstat(file.fileno()).st_size < span.offset + span.size:
            raise SourceError(files.place(span), "is shorter than when it was scanned")
        pages = mmap.mmap(
            file.fileno(), first + span.size, access=mmap.ACCESS_READ, offset=span.offset - first
        )
    return memoryview(pages)[first:]
