"""A shard somebody else wrote, read once from front to back: its index, its digest, what it holds.

Bytes come in parts of any size, as a disk or a network gives them, and are let go of part by part:
memory grows with the number of samples alone, by some twenty bytes each. Headers are understood by
`tarshard.walk`, so the index is the one a walk over the whole file would make.
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
"""More different ones than this are not counted: the manifest must stay small."""
MAX_KEPT_BYTES = 16 << 20
"""Of a member whose content is looked at."""
_PART_BYTES = 1 << 20
"""Read at a time from a disk."""

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x03\x04": "zip",
}
_RESERVED = {"__key__", "__url__", "__bad__", "__local_path__"}
"""Fields webdataset keeps for itself: a member of such an extension it loses, or its sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedShard:
    """What one pass over a shard tells."""

    num_bytes: int
    sha256: str
    index: ShardIndex
    members: dict[str, int] | None
    """Samples that have a member of each extension, by extension (bytes that are not UTF-8 as
    backslash escapes); None above `MAX_EXTENSIONS`."""
    num_repeated: int
    """Samples whose key an earlier one of this shard has as well, other samples between them."""
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
    """Read a shard.

    Args:
        parts: Its bytes in order.
        num_bytes: How many there are.
        place: What errors call it.
        keep: Extensions whose contents are handed to `on_sample`.
        on_sample: Called with each sample's key, its extensions, and the contents of those in
            `keep`, after its last member.

    Raises:
        ShardError: It is no tar, damaged, cut short or of another length; or webdataset would
            refuse a sample of it.
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
        raise ShardError(place, problem, "it changed while it was read: repeat when it is at rest")
    return samples.scanned(num_bytes, has_more=has_more)


def scan_stored(
    shard: StoredObject,
    num_bytes: int,
    *,
    keep: Collection[str] = (),
    on_sample: Callable[[str, Collection[str], dict[str, bytes]], None] = lambda *_: None,
) -> ScannedShard:
    """Read a shard of so many bytes where it is stored, as `scan_shard` does.

    Raises:
        ObjectReplacedError: It changed meanwhile; start again.
        ShardError: As `scan_shard`; or it is a local file nobody can read.
        ObjectMissing: There is none.
        StoreError: The storage failed, and went on failing.
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
    """The samples of a shard, member by member."""

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
        """Take a member in, whose header was just read, and read its content."""
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
        """There are no members more."""
        self._finish()
        self._starts.append(self._end)

    def scanned(self, num_bytes: int, *, has_more: bool) -> ScannedShard:
        """Everything found out."""
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
        elif extension in self._keep and member.size > MAX_KEPT_BYTES:
            problem = f"has {member.size} bytes, more than {MAX_KEPT_BYTES}"
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


class _Stream:
    """Bytes that come once, hashed as they pass.

    Whether a header begins a sample shows only after it was read. So its bytes are counted for both
    cases: as going on with the sample before (`_crc`), and as beginning one (`_header_crc`).
    """

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = iter(parts)
        self._part, self._used = memoryview(b""), 0
        self.position = 0
        self.sha256 = hashlib.sha256()
        self.head = b""
        """The first bytes."""
        self._crc = self._header_crc = 0
        self.sample_crc = 0
        """CRC-32 of the sample up to the header being read, or last read."""

    def read_at(self, offset: int, length: int) -> bytes:
        """A header's bytes, or a long name's; what lies before them is its padding."""
        views: list[memoryview] = []
        for stop in (offset, offset + length):
            views = []
            for view in self._until(stop):
                self._crc = zlib.crc32(view, self._crc)
                self._header_crc = zlib.crc32(view, self._header_crc)
                views.append(view)
        return b"".join(views)

    def begin_header(self) -> None:
        """What is read next is a header again."""
        self.sample_crc, self._header_crc = self._crc, 0

    def begin_sample(self) -> None:
        """The header that was just read begins a sample."""
        self._crc = self._header_crc

    def content(self, stop: int) -> bytes:
        """Content up to `stop`."""
        content = b"".join(self._until(stop))
        self._crc = zlib.crc32(content, self._crc)
        return content

    def skip(self, stop: int) -> None:
        """Pass over content."""
        for view in self._until(stop):
            self._crc = zlib.crc32(view, self._crc)

    def skip_zeros(self, stop: int) -> bool:
        """Pass over what follows the samples; whether anything of it is no zero."""
        has_more = False
        for view in self._until(stop):
            has_more = has_more or bytes(view).count(0) != len(view)
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
            view = self._part[self._used : self._used + stop - self.position]
            self._used += len(view)
            self.position += len(view)
            yield view


def _utf8(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    r"""Text of a tar as it may be shown: what a terminal would obey is spelled out.

    >>> printable("caf\xe9\x1b[31m\n")
    'café\\x1b[31m\\n'
    """
    if text.isprintable():
        return text
    spelled = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(spelled)
