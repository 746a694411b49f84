"""Reads a shard once from front to back: builds its index, digests it and counts its members.

Bytes come in parts of any size and are dropped part by part. So memory grows only with the number
of samples, by some twenty bytes for each. `format.tar.walk` reads the headers, so the index is the
one that a walk over the whole file would make.
"""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import ShardError
from shard_tool.format.tar import ShardIndex, padded, sample_part, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from shard_tool.format.tar import Member
    from shard_tool.storage.location import StoredObject

MAX_EXTENSIONS = 256
"""If there are more different extensions, none are counted: the manifest must stay small."""
MAX_KEPT_BYTES = {"json": 16 << 20}
"""The longest member whose content is kept, by extension."""
_MAX_PICTURE_BYTES = 1 << 29
_PART_BYTES = 1 << 20
"""Bytes read at a time from a disk."""

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x03\x04": "zip",
}
_RESERVED = {"__key__", "__url__", "__bad__", "__local_path__"}
"""Fields of webdataset's own. It loses a member with such an extension, or the whole sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedShard:
    """What was found in a shard."""

    num_bytes: int
    sha256: str
    index: ShardIndex
    members: dict[str, int] | None
    """Each extension to the number of samples that have such a member. Bytes that are not UTF-8 are
    backslash escapes. None if there are more than `MAX_EXTENSIONS`."""
    num_repeated: int
    """How many samples have the key of an earlier sample, with other samples between them."""
    has_more: bool
    """Whether anything but zeros follows the end marker, where no reader looks."""


def scan_shard(
    parts: Iterable[bytes],
    num_bytes: int,
    *,
    place: str,
    keep: Collection[str] = (),
    on_sample: Callable[[str, Collection[str], dict[str, bytes]], None] = lambda *_: None,
) -> ScannedShard:
    """Read a shard from its bytes.

    Args:
        parts: The bytes, in order.
        num_bytes: How many bytes there are.
        place: What errors call the shard.
        keep: Extensions whose contents `on_sample` gets.
        on_sample: Called after the last member of each sample with the sample's key, its
            extensions, and the contents of those in `keep`.

    Raises:
        ShardError: The shard is no tar, or it is damaged, cut short or of another length; or
            webdataset would refuse one of its samples.
    """
    stream = _Stream(parts)
    samples = _Samples(place, stream, keep, on_sample)
    try:
        for member in walk(stream.read_at, 0, num_bytes, place=place):
            samples.add(member)
    except ShardError as exc:
        kind = next(
            (kind for magic, kind in _COMPRESSED.items() if magic == stream.head[: len(magic)]), ""
        )
        if not kind:
            raise
        hint = "decompress it: samples inside a compressed file cannot be found"
        raise ShardError(place, f"is no plain tar but {kind}", hint) from exc
    samples.end()
    has_more = stream.skip_zeros(num_bytes + 1)
    if stream.position != num_bytes:
        at_least = "at least " if stream.position > num_bytes else ""
        problem = f"{at_least}{stream.position} bytes were read, {num_bytes} expected"
        raise ShardError(
            place, problem, "it changed while it was read; repeat when nobody writes to it"
        )
    return samples.scanned(num_bytes, has_more=has_more)


def scan_stored(
    shard: StoredObject,
    num_bytes: int,
    *,
    keep: Collection[str] = (),
    on_sample: Callable[[str, Collection[str], dict[str, bytes]], None] = lambda *_: None,
) -> ScannedShard:
    """Read a stored shard of `num_bytes` bytes; the other arguments are those of `scan_shard`.

    Raises:
        ObjectReplacedError: The shard changed meanwhile; start again.
        ShardError: As for `scan_shard`, or a local file cannot be read.
        ObjectMissing: There is no such shard.
        StoreError: Storage failed, also when it was asked again.
    """
    path = shard.local
    if path is None:
        parts = shard.read_parts(0, num_bytes, num_bytes=num_bytes)
    else:
        parts = _local_parts(path)
    return scan_shard(parts, num_bytes, place=shard.place, keep=keep, on_sample=on_sample)


def _local_parts(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while part := file.read(_PART_BYTES):
                yield part
    except OSError as exc:
        raise ShardError(str(path), f"cannot be read: {exc.strerror or exc}") from exc


class _Samples:
    """Groups the members of a shard into samples."""

    def __init__(
        self,
        place: str,
        stream: _Stream,
        keep: Collection[str],
        on_sample: Callable[[str, Collection[str], dict[str, bytes]], None],
    ) -> None:
        self._place, self._stream, self._keep, self._on_sample = place, stream, keep, on_sample
        self._key: str | None = None
        self._extensions: dict[str, None] = {}
        self._kept: dict[str, bytes] = {}
        self._starts, self._crcs, self._key_hashes = array("Q"), array("I"), array("q")
        self._end = 0
        self._members: Counter[str] = Counter()

    def add(self, member: Member) -> None:
        """Add a member whose header was just read, and read its content."""
        part = sample_part(member)
        if part and part[0] != self._key:
            self._finish()
            self._begin(part[0], member.start)
        if part:
            self._add_extension(part[1], member)
        stop = member.offset + member.size
        if part and part[1] in self._keep:
            self._kept[part[1]] = self._stream.content(stop)
        self._end = member.offset + padded(member.size)
        self._stream.skip(self._end)
        self._stream.begin_header()

    def end(self) -> None:
        """End the last sample."""
        self._finish()
        self._starts.append(self._end)

    def scanned(self, num_bytes: int, *, has_more: bool) -> ScannedShard:
        """Make the result."""
        is_empty = not self._crcs
        starts = np.zeros(1, np.uint64) if is_empty else np.array(self._starts, np.uint64)
        hashes = np.array(self._key_hashes, np.int64)
        few = len(self._members) <= MAX_EXTENSIONS
        return ScannedShard(
            num_bytes=num_bytes,
            sha256=self._stream.sha256.hexdigest(),
            index=ShardIndex(starts, np.array(self._crcs, np.uint32)),
            members={_utf8(name): self._members[name] for name in sorted(self._members)}
            if few
            else None,
            num_repeated=len(hashes) - len(np.unique(hashes)),
            has_more=has_more,
        )

    def _begin(self, key: str, start: int) -> None:
        self._key = key
        self._starts.append(start)
        self._key_hashes.append(hash(key))
        self._stream.begin_sample()

    def _add_extension(self, extension: str, member: Member) -> None:
        problem = ""
        if extension in self._extensions:
            problem = f"is the second {extension!r} of its sample, which webdataset refuses"
        elif extension in _RESERVED:
            problem = "has an extension that webdataset keeps for itself"
        elif extension in self._keep and member.size > (most := _most_bytes(extension)):
            problem = f"has {member.size} bytes, more than {most}"
        if problem:
            raise ShardError(self._place, f"member {member.name!r} {problem}", "rename it")
        self._extensions[extension] = None

    def _finish(self) -> None:
        if self._key is None:
            return
        self._crcs.append(self._stream.sample_crc)
        if len(self._members) <= MAX_EXTENSIONS:
            self._members.update(self._extensions.keys())
        self._on_sample(self._key, self._extensions, self._kept)
        self._extensions, self._kept = {}, {}


def _most_bytes(extension: str) -> int:
    return MAX_KEPT_BYTES.get(extension, _MAX_PICTURE_BYTES)


class _Stream:
    """Reads bytes that come only once, and hashes them.

    A header must be read before it is known whether it starts a sample. So its bytes count twice:
    in the CRC of the sample before it (`_crc`), and in that of a new sample (`_header_crc`).
    """

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = iter(parts)
        self._part, self._used = memoryview(b""), 0
        self.position = 0
        self.sha256 = hashlib.sha256()
        self.head = b""
        """The first eight bytes."""
        self._crc = self._header_crc = 0
        self.sample_crc = 0
        """CRC-32 of the sample up to the current header."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read a header or a long name, and the padding before it."""
        parts: list[memoryview] = []
        for stop in (offset, offset + length):
            parts = []
            for part in self._until(stop):
                self._crc = zlib.crc32(part, self._crc)
                self._header_crc = zlib.crc32(part, self._header_crc)
                parts.append(part)
        return b"".join(parts)

    def begin_header(self) -> None:
        """Say that the next bytes are a header."""
        self.sample_crc, self._header_crc = self._crc, 0

    def begin_sample(self) -> None:
        """Say that the last header starts a sample."""
        self._crc = self._header_crc

    def content(self, stop: int) -> bytes:
        """Read content up to `stop`."""
        content = b"".join(self._until(stop))
        self._crc = zlib.crc32(content, self._crc)
        return content

    def skip(self, stop: int) -> None:
        """Read over content up to `stop`."""
        for part in self._until(stop):
            self._crc = zlib.crc32(part, self._crc)

    def skip_zeros(self, stop: int) -> bool:
        """Read over what follows the samples; returns whether any of it is not zero."""
        has_more = False
        for part in self._until(stop):
            has_more = has_more or bytes(part).count(0) != len(part)
        return has_more

    def _until(self, stop: int) -> Iterator[memoryview]:
        while self.position < stop:
            if self._used == len(self._part):
                part = next(self._parts, None)
                if part is None:
                    return
                self.head = self.head or bytes(part[:8])
                self.sha256.update(part)
                self._part, self._used = memoryview(part), 0
            found = self._part[self._used : self._used + stop - self.position]
            self._used += len(found)
            self.position += len(found)
            yield found


def _utf8(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    r"""Escape characters in a tar's text that a terminal would obey.

    >>> printable("caf\xe9\x1b[31m\n")
    'café\\x1b[31m\\n'
    """
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)
