"""Copies one shard and its index in a worker, and checks every byte on the way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.dataset.shard_urls import locate_shard
from shard_tool.errors import ShardError, StoreError
from shard_tool.format.tar import INDEX_SUFFIX
from shard_tool.storage.ranges import ObjectReplacedError
from shard_tool.storage.wrong_bytes import WrongBytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shard_tool.dataset.journal import Journal
    from shard_tool.format.manifest import ShardEntry
    from shard_tool.storage.location import Folder, StoredObject

_PART_BYTES = 1 << 20
_HINT = "put the original there (`shard-tool verify SRC` finds all such)"


@dataclass(frozen=True, slots=True)
class CopyJob:
    """What all tasks share; it travels to workers."""

    source: Folder
    journal: Journal


@dataclass(frozen=True, slots=True)
class _Object:
    """An object to copy, and its expected length and digest."""

    source: StoredObject
    name: str
    num_bytes: int
    sha256: str


class _WrongBytesError(ShardError):
    """The bytes that came are not those of the manifest."""


def copy_shard(job: CopyJob, entry: ShardEntry, known: dict[str, Any] | None) -> bool:
    """Copy one shard and its index; runs in a worker.

    Args:
        job: What all tasks share.
        entry: The shard.
        known: The record of the shard by an earlier run into a local folder; None: there is none.

    Returns:
        Whether the shard was there already.
    """
    dest, objects = job.journal.folder, objects_of(job.source, entry)
    if is_recorded(entry, known) and all(_is_whole(dest, item) for item in objects):
        return True
    for item in objects:
        _copy_object(item, job.journal)
    job.journal.record(entry.name, _report(entry))
    return False


def objects_of(source: Folder, entry: ShardEntry) -> tuple[_Object, _Object]:
    """The shard, wherever it lies, and its index."""
    folder, name = (source, entry.name) if entry.url is None else locate_shard(entry.url, source)
    shard = folder.object(name)
    index_name = entry.name + INDEX_SUFFIX
    index = source.object(index_name)
    return (
        _Object(shard, entry.name, entry.num_bytes, entry.sha256),
        _Object(index, index_name, index_bytes(entry), entry.index_sha256),
    )


def index_bytes(entry: ShardEntry) -> int:
    """Bytes of a shard's index."""
    return 8 + 12 * entry.num_samples


def _report(entry: ShardEntry) -> dict[str, Any]:
    """Make the record of a shard."""
    sizes = {entry.name: entry.num_bytes, entry.name + INDEX_SUFFIX: index_bytes(entry)}
    return {"sizes": sizes, "sha256": entry.sha256, "index_sha256": entry.index_sha256}


def is_recorded(entry: ShardEntry, known: dict[str, Any] | None) -> bool:
    """Tell whether a record is of exactly this shard, and by a copy."""
    return known == _report(entry)


def _is_whole(folder: Folder, item: _Object) -> bool:
    """Tell whether a local file still has the bytes that were written."""
    assert folder.local is not None
    try:
        with (folder.local / item.name).open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == item.sha256
    except OSError:  # the file is written again, and that reports what is wrong
        return False


def _copy_object(item: _Object, journal: Journal) -> None:
    """Copy one object, and publish it if its bytes are right.

    Raises:
        ShardError: They are not, twice the same ones; a local file is read once.
        StoreError: The storage on one side failed, or other wrong bytes came each time.
    """
    wrong = WrongBytes(item.source.timeout_s)
    while True:
        try:
            with journal.publish(item.name) as file:
                for part in _checked_parts(item):
                    file.write(part)
        except _WrongBytesError as exc:
            error = ShardError(exc.place, exc.problem, _HINT)
            if item.source.local is not None:
                raise error from exc
            wrong.note(error, exc.problem)  # which holds the size or the digest
        except ObjectReplacedError as exc:
            wrong.note(ShardError(exc.place, exc.problem, _HINT), None)
        else:
            return
        wrong.wait()


def _checked_parts(item: _Object) -> Iterator[bytes]:
    """Yield the bytes of an object in parts, and raise at the end if they are wrong."""
    place, sha = item.source.place, hashlib.sha256()
    path, num_bytes = item.source.local, 0
    if path is None:
        parts = item.source.read_parts(0, item.num_bytes, num_bytes=item.num_bytes)
    else:
        _check_size(item, item.source.num_bytes())
        parts = _local_parts(path, place)
    for part in parts:
        sha.update(part)
        num_bytes += len(part)
        yield part
    _check_size(item, num_bytes)
    if sha.hexdigest() != item.sha256:
        problem = f"sha256 {sha.hexdigest()}, the manifest says {item.sha256}"
        raise _WrongBytesError(place, problem)


def _check_size(item: _Object, found: int) -> None:
    if found != item.num_bytes:
        problem = f"{found} bytes, the manifest says {item.num_bytes}"
        raise _WrongBytesError(item.source.place, problem)


def _local_parts(path: Path, place: str) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while part := file.read(_PART_BYTES):
                yield part
    except OSError as exc:  # `publish` would blame the destination
        problem = f"cannot be read: {exc.strerror or type(exc).__name__}"
        raise StoreError(place, problem) from exc
