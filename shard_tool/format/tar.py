"""Writes shards as ustar, reads any usual tar, and makes and parses the ``.idx`` beside it.

This module knows bytes only: no storage, no JSON, no pictures. It writes byte for byte what
webdataset's TarWriter writes with mtime 0 (a test compares), so a name of more than 100 bytes gets
a PAX header. It also reads GNU long names and base-256 sizes. It takes for a sample what webdataset
takes for one.

A *shard* is a tar; a *sample* is a run of neighbouring members whose names agree up to the first
dot of the last path component (the WebDataset convention); the *index* says where samples are::

    uint64 [n + 1]  where each sample's first header starts, then the end of the last sample
    uint32 [n]      CRC-32 (zlib) of each sample's bytes between them

all little-endian, headers and padding included.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shard_tool.errors import ShardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = tarfile.BLOCKSIZE
RECORD = tarfile.RECORDSIZE
INDEX_SUFFIX = ".idx"
MAX_KEY_BYTES = 255
"""Bytes of the longest key in UTF-8, folders included."""

ReadAt = Callable[[int, int], bytes]
"""read_at(offset, length) returns these bytes; fewer only where the file ends."""

_NAME = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)")
_META = re.compile(r"__[^/]*__(/|$)")
_OCTAL = re.compile(rb"[0-7]+")
_USTAR = struct.Struct("100s 24x 11s x 20x B 188x B").unpack_from
"""Unpacks the name, the size without its NUL, the type, and the first byte of the prefix."""
_REGULAR = ord("0")
_DECIMAL = re.compile(r"[0-9]{1,19}")
_WITHOUT_CONTENT = "123456"
"""Types of links, devices, folders and pipes, which have no content whatever their header says."""

_MAX_NAME_BYTES = 1 << 20
"""A longer PAX or GNU name is damage or an attack."""


class Member(NamedTuple):
    """A file, folder or link of a tar."""

    name: str
    kind: str
    """The tar's type flag: '0' is a file, '5' a folder, '1' and '2' are links."""
    start: int
    """Byte at which its first header starts, long-name headers included."""
    offset: int
    """Byte at which its content starts."""
    size: int
    """Bytes of its content."""

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file (type '0', NUL or '7')."""
        return self.kind in "0\x007"


def padded(size: int) -> int:
    """Round a size up to whole tar blocks of 512 bytes."""
    return -(-size // BLOCK) * BLOCK


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into key and extension at the first dot after the last slash.

    Webdataset does the same: to it, "a/.b" is key "a/" with extension "b".

    Returns:
        (key, extension without its leading dot). None where webdataset skips the member: there is
        no dot, or nothing before it.

    >>> split_name("a/000005.class.png")
    ('a/000005', 'class.png')
    """
    match = _NAME.fullmatch(name)
    return (match[1], match[2]) if match else None


def sample_part(member: Member) -> tuple[str, str] | None:
    """Tell which part of which sample a member is.

    Returns:
        (key, extension in lower case, as in webdataset). None where webdataset skips the member:
        it is no file, it is called like ``__meta__`` or lies in a folder called so, or `split_name`
        returns None.
    """
    if not member.is_file or _META.match(member.name):
        return None
    named = split_name(member.name)
    return (named[0], named[1].lower()) if named else None


# Reading ------------------------------------------------------------------------------------


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes, place: str, at: int) -> int:
    if field[0] & 0x80:  # GNU base-256
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    digits = field.strip(b" \0") or b"0"
    if not _OCTAL.fullmatch(digits):  # int() would take a sign, '_' and '0o'
        raise ShardError(place, f"the header at byte {at} is not a tar header")
    return int(digits, 8)


def _check_sum(block: bytes, place: str, at: int) -> None:
    found = _number(block[148:156], place, at)
    expected = sum(block) - sum(block[148:156]) + 8 * 32
    if found != expected:
        problem = f"the header at byte {at} has checksum {found}, its bytes give {expected}"
        raise ShardError(place, problem)


def _pax_records(content: bytes, place: str, at: int) -> dict[str, str]:
    """Parse ``length key=value`` lines; the length counts the whole line."""
    records: dict[str, str] = {}
    while content:
        digits, _, _ = content.partition(b" ")
        is_number = digits.isdigit() and len(digits) <= 19
        if not is_number or not len(digits) < int(digits) <= len(content):
            raise ShardError(place, f"the PAX header at byte {at} is damaged")
        line, content = content[len(digits) + 1 : int(digits) - 1], content[int(digits) :]
        key, _, value = line.partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
    if any(key.startswith("GNU.sparse.") for key in records):
        raise _sparse(place, at)
    return records


def _sparse(place: str, at: int) -> ShardError:
    hint = "write the tar without --sparse"
    return ShardError(place, f"the member at byte {at} is stored with holes (sparse)", hint)


def walk(
    read_at: ReadAt, start: int, stop: int, *, place: str, check: bool = True, whole: bool = True
) -> Iterator[Member]:
    """Yield the members from `start` to `stop`, with one read of 512 bytes for each.

    Args:
        read_at: Reads from the file the tar lies in.
        start: Byte of the first header.
        stop: Byte after the last one that may be read, usually the file's size.
        place: What errors call the file.
        check: Whether to verify each header's checksum (about 4 µs). Pass False only for bytes
            whose CRC or digest was compared before.
        whole: Whether an end marker (a block of zeros) must come before `stop`. Pass False for a
            run of samples that the index cut out.

    Yields:
        Each member in order, also folders and links. A long-name header is part of its member.

    Raises:
        ShardError: A header is damaged, or the file ends inside a header, inside a member or before
            the end marker. So a shard that was cut short never passes for a shorter one.
    """
    at, first, overrides = start, start, dict[str, str]()
    while at < stop:
        block = read_at(at, min(BLOCK, stop - at))
        if len(block) < BLOCK:
            raise ShardError(place, f"cut short inside the header at byte {at} ({stop} bytes)")
        if not block[0] and not any(block):
            return
        if check:
            _check_sum(block, place, at)
        kind, size = chr(block[156]), _number(block[124:136], place, at)
        offset = at + BLOCK
        if kind in _WITHOUT_CONTENT:
            size = 0
        if kind in "xgLK":  # a header about the next member: PAX, PAX global, GNU name, GNU link
            if size > _MAX_NAME_BYTES:
                raise ShardError(place, f"the long-name header at byte {at} claims {size} bytes")
            content = read_at(offset, size)
            if kind == "x":
                overrides |= _pax_records(content, place, at)
            elif kind == "L":
                overrides["path"] = _text(content)
            elif kind == "g" and _pax_records(content, place, at).keys() & {"path", "size"}:
                problem = f"the PAX header at byte {at} names or sizes all members after it"
                raise ShardError(place, problem)
            at = offset + padded(size)
            continue
        if kind == "S":
            raise _sparse(place, at)
        name = _text(block[:100])
        if block[257:263] == b"ustar\0" and block[345]:
            name = f"{_text(block[345:500])}/{name}"
        name = overrides.get("path", name)
        if (pax_size := overrides.get("size")) is not None:
            if not _DECIMAL.fullmatch(pax_size):
                raise ShardError(place, f"the PAX header at byte {first} is damaged")
            size = int(pax_size) if kind not in _WITHOUT_CONTENT else 0
        if offset + size > stop:
            problem = f"cut short: member {name!r} needs {offset + size} bytes, there are {stop}"
            raise ShardError(place, problem)
        yield Member(name, kind, first, offset, size)
        at = first = offset + padded(size)
        overrides = {}
    if whole:
        raise ShardError(place, f"cut short: no end-of-archive marker in its {stop} bytes")


def read_at_of(buffer: bytes | memoryview) -> ReadAt:
    """Make a `ReadAt` of bytes in memory, such as a mapped file."""
    return lambda offset, length: bytes(buffer[offset : offset + length])


def copy_members(buffer: Any, start: int, stop: int, members: dict[str, Any], *, place: str) -> str:
    """Add one sample's members to a dict, given two offsets of the index.

    This reads plain ustar headers, which are what we write, six times as fast as `walk`, and leaves
    all other headers to `walk`. It verifies no checksum: the caller has compared the CRC.

    Args:
        buffer: The file. Of bytes or a map the contents are copies, of a memoryview they are views.
        start: Byte at which the sample's first header starts.
        stop: Byte at which its last member ends, padding included.
        members: Gets each member: extension, in lower case, to content.
        place: What errors call the file.

    Returns:
        The sample's key.

    Raises:
        ShardError: A header is damaged, or a member is longer than its sample.
    """
    key, at = "", start
    try:
        while at < stop:
            name, digits, kind, prefix = _USTAR(buffer, at)
            name, ended, _ = name.partition(b"\0")
            is_odd = kind != _REGULAR or prefix or not ended or not digits.isdigit()
            if is_odd or b"/" in name or name.startswith(b"__"):
                return _walk_members(buffer, start, stop, members, place)
            key, _, extension = name.decode().partition(".")
            begin = at + BLOCK
            end = begin + int(digits, 8)
            at = (end + BLOCK - 1) & -BLOCK
            if at > stop or not (key and extension):
                return _walk_members(buffer, start, stop, members, place)
            members[extension.lower()] = buffer[begin:end]
    except (ValueError, struct.error):  # a name that is not UTF-8, an 8 in a size, a header cut off
        return _walk_members(buffer, start, stop, members, place)
    return key


def _walk_members(buffer: Any, start: int, stop: int, members: dict[str, Any], place: str) -> str:
    key, read_at = "", read_at_of(buffer)
    for member in walk(read_at, start, stop, place=place, check=False, whole=False):
        if part := sample_part(member):
            key, extension = part
            members[extension] = buffer[member.offset : member.offset + member.size]
    return key


def sample_starts(members: Iterable[Member]) -> tuple[list[int], list[str]]:
    """Group members into samples the way webdataset does.

    Returns:
        (the byte at which each sample starts, then the end of the last sample; each sample's key).
        A member that webdataset skips belongs to the sample before it.
    """
    starts, keys, end = list[int](), list[str](), 0
    for member in members:
        part = sample_part(member)
        if part and (not keys or part[0] != keys[-1]):
            starts.append(member.start)
            keys.append(part[0])
        end = member.offset + padded(member.size)
    return [*starts, end], keys


# The index ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Where the samples of one shard lie, and their CRCs."""

    starts: NDArray[np.uint64]
    """uint64 [n + 1]: the byte at which each sample starts, then the end of the last sample."""
    crcs: NDArray[np.uint32]
    """uint32 [n]: CRC-32 of the bytes from one start to the next."""

    def __len__(self) -> int:
        return len(self.crcs)

    def to_bytes(self) -> bytes:
        """Encode the ``.idx`` file."""
        return self.starts.astype("<u8").tobytes() + self.crcs.astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, content: bytes, *, place: str, shard_bytes: int) -> ShardIndex:
        """Parse an ``.idx`` file.

        Raises:
            ShardError: The length is impossible, or the starts are not increasing multiples of
                512 that lie in a shard of `shard_bytes` bytes.
        """
        if len(content) < 8 or (len(content) - 8) % 12:
            raise ShardError(place, f"{len(content)} bytes are no index (8 + 12 per sample)")
        n = (len(content) - 8) // 12
        starts = np.frombuffer(content, "<u8", n + 1)
        crcs = np.frombuffer(content, "<u4", n, offset=8 * (n + 1))
        if (starts[1:] <= starts[:-1]).any() or (starts % BLOCK).any() or starts[-1] > shard_bytes:
            raise ShardError(place, f"its offsets do not fit a shard of {shard_bytes} bytes")
        return cls(starts.astype(np.uint64), crcs.astype(np.uint32))

    @classmethod
    def from_shard(cls, read_at: ReadAt, num_bytes: int, *, place: str) -> ShardIndex:
        """Make the index of any tar; this reads every byte, for the CRCs."""
        starts, keys = sample_starts(walk(read_at, 0, num_bytes, place=place))
        if not keys:
            return cls(np.zeros(1, np.uint64), np.zeros(0, np.uint32))
        crcs = [zlib.crc32(read_at(start, stop - start)) for start, stop in pairwise(starts)]
        return cls(np.array(starts, np.uint64), np.array(crcs, np.uint32))


# Writing ------------------------------------------------------------------------------------


def member_block(name: str, content: bytes) -> bytes:
    """Encode one member: its header, its content, and zeros up to a whole block.

    The header is ustar. A name of more than 100 bytes stands in a PAX header before it, in UTF-8.
    """
    encoded = name.encode("utf-8", "surrogateescape")
    size = len(content)
    if len(encoded) > _NAME_BYTES or size >= _OCTAL_SIZES:
        header = _tarfile_header(name, size)
    else:
        header = _header(encoded, size)
    return b"".join((header, content, bytes(-size % BLOCK)))


def _tarfile_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o444
    info.uname = info.gname = "bigdata"  # webdataset's; ids stay 0
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_NAME_BYTES = 100
_OCTAL_SIZES = 8**11
_EMPTY = _tarfile_header("", 0)
"""The standard library's header. `_header` changes its name, size and checksum, which takes a tenth
of the time of a new one (a test compares)."""
_BEFORE_SIZE, _AFTER_SIZE, _AFTER_CHECKSUM = _EMPTY[100:124], _EMPTY[135:148], _EMPTY[156:]
_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + sum(_AFTER_CHECKSUM) + 8 * ord(" ")


def _header(name: bytes, size: int) -> bytes:
    digits = b"%011o" % size
    checksum = b"%06o\0 " % (_SUM + sum(name) + sum(digits))
    filled = name.ljust(_NAME_BYTES, b"\0")
    return b"".join((filled, _BEFORE_SIZE, digits, _AFTER_SIZE, checksum, _AFTER_CHECKSUM))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenShard:
    """What is known of a shard when it is written."""

    num_samples: int
    num_bytes: int
    sha256: str
    index: ShardIndex


class ShardWriter:
    """Writes samples one after another into an open binary file, and hashes what it writes.

    The caller opens, publishes and closes the file. The writer never reads or seeks.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._starts, self._crcs = [0], list[int]()

    @property
    def num_samples(self) -> int:
        """Samples written so far."""
        return len(self._crcs)

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; its members are sorted by extension, as webdataset sorts them.

        Raises:
            ShardError: The key has more than `MAX_KEY_BYTES` bytes.
        """
        if (size := len(key.encode("utf-8", "surrogateescape"))) > MAX_KEY_BYTES:
            problem = f"the key has {size} bytes (most: {MAX_KEY_BYTES})"
            raise ShardError(key, problem, "give the file a shorter name")
        block = b"".join(member_block(f"{key}.{ext}", members[ext]) for ext in sorted(members))
        self._crcs.append(zlib.crc32(block))
        self._starts.append(self._starts[-1] + len(block))
        self._put(block)

    def finish(self) -> WrittenShard:
        """Write the end marker, zeros up to a whole record of 10,240 bytes, and sum up."""
        end = self._starts[-1]
        total = -(-(end + 2 * BLOCK) // RECORD) * RECORD
        self._put(bytes(total - end))
        return WrittenShard(
            num_samples=self.num_samples,
            num_bytes=total,
            sha256=self._sha256.hexdigest(),
            index=ShardIndex(np.array(self._starts, np.uint64), np.array(self._crcs, np.uint32)),
        )

    def _put(self, block: bytes) -> None:
        self._sha256.update(block)
        self._file.write(block)
