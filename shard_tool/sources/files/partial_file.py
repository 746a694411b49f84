"""Keeps the bytes of an unfinished download in a locked file, with their number and MD5.

The lock is on the file itself. `filelock` would leave a lock file behind where a process is killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shard_tool.errors import ObjectBusy, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO
    from pathlib import Path

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20


class PartialFile:
    """A locked ``.part`` file.

    Args:
        target: Path of the finished file; the part lies beside it.
        on_check: Called with (bytes, all bytes) while the existing part is hashed.

    Raises:
        ObjectBusy: Another process holds the lock.
        StoreError: The disk failed.
    """

    def __init__(self, target: Path, on_check: Callable[[int, int], None] | None) -> None:
        self.target = target
        self.path = part_of(target)
        with disk_errors_named(self.path):
            self._file = _open_locked(self.path)
            self._hash = md5_of(self._file, on_check)
            self.size = self._file.tell()

    @property
    def md5(self) -> str:
        """MD5 of all bytes in the file, as hex digits."""
        return self._hash.hexdigest()

    def append(self, block: bytes) -> None:
        """Append bytes."""
        with disk_errors_named(self.path):
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        self._hash.update(block)
        self.size += len(block)

    def restart(self) -> None:
        """Delete all bytes."""
        with disk_errors_named(self.path):
            self._file.truncate(0)
        self._hash, self.size = _new_md5(), 0

    def set_aside(self, md5: str) -> Path:
        """Rename the file, open an empty one, and return the path of the old."""
        with disk_errors_named(self.path):
            kept = move_aside(self.path, self.target.name, md5)
            self._file.close()
            self._file = _open_locked(self.path)
        self._hash, self.size = _new_md5(), 0
        return kept

    def publish(self) -> None:
        """Rename the part to the finished file, atomically."""
        with disk_errors_named(self.target):
            self.path.replace(self.target)

    def close(self) -> None:
        """Release the lock; the bytes stay for the next process."""
        if self.size == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()


def part_of(target: Path) -> Path:
    """Path of the unfinished file of a download."""
    return target.with_name(f"{target.name}.part")


def move_aside(path: Path, name: str, md5: str) -> Path:
    """Rename a file with a wrong digest, so that people can inspect it; returns the new path."""
    return path.replace(path.with_name(f"{name}.wrong-{md5[:8]}"))


def md5_of(file: FileIO, on_check: Callable[[int, int], None] | None) -> hashlib._Hash:
    """Hash an open file from its position to its end."""
    found, total, done = _new_md5(), os.fstat(file.fileno()).st_size, 0
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    while num_bytes := file.readinto(buffer):
        found.update(buffer[:num_bytes])
        done += num_bytes
        if on_check is not None:
            on_check(done, total)
    return found


def _new_md5() -> hashlib._Hash:
    """MD5, because the published digests are MD5; it finds accidents, not attacks."""
    return hashlib.md5(usedforsecurity=False)


def _open_locked(path: Path) -> FileIO:
    """Open a file for appending and lock it; two processes would mix their bytes.

    The lock ends with its process, so a killed process leaves nothing to clean up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            hint = "wait for it, then try again"
            raise ObjectBusy(str(path), "another process is downloading it", hint) from None
        except OSError:
            logger.info("%s: this file system has no locks", path)
        if _is_at(path, file):
            file.seek(0)
            return file
        file.close()  # the process with the lock has renamed it: open the new file


def _is_at(path: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into a `StoreError` that names the file."""
    try:
        yield
    except ObjectBusy:  # also an OSError
        raise
    except OSError as exc:
        raise StoreError(str(path), f"disk error: {exc.strerror or exc}") from exc
