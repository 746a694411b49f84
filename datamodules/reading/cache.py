"""Caches fetched bytes in a folder that all workers, ranks and jobs of a node share.

A file is named by the SHA-256 of its shard, so several datasets share one folder and no file goes
stale. It is written under a temporary name and renamed when it is complete and verified. The writer
holds an operating-system lock, which a crash releases. When the cache
is full (`cache_limit`), the least recently used files are deleted. A process that has a deleted
file mapped can still read it.

    ab/abcdef….tar            a whole shard
    ab/abcdef….12-40.tar      samples 12 to 40 of it
    ab/abcdef….idx            an index
    ab/….partial, ab/….lock   being written; left over only after a crash, and then reused

Callers verify the bytes. Locks are `filelock`'s. Eviction is ours: libraries that keep files by
least recent use (diskcache) need a database, and reserve no space for what is being written.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from filelock import FileLock, Timeout

from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

log = logging.getLogger(__name__)

PARTIAL, LOCK = ".partial", ".lock"
_SHARE_OF_DISK = 0.5
_OURS = re.compile(r"[0-9a-f]{64}(\.\d+-\d+)?\.(tar|idx)(\.partial)?")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class NoSpaceError(Exception):
    """The cache has no space for a file; its reader must do without."""


class BusyError(Exception):
    """Another process or thread is writing this file."""


class _Kept(NamedTuple):
    used_ns: int
    num_bytes: int
    path: Path


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/voc-shards``, else ``~/.cache/voc-shards``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "voc-shards"


class ShardCache:
    """Keeps files by name, up to a total size.

    Args:
        folder: Created if missing; may lie in /dev/shm.
        limit_bytes: Total bytes of all files; None: half of the disk's free space plus what the
            cache holds.

    Raises:
        OptionError: The folder cannot be made or written to, or the limit is below 1.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        if limit_bytes is not None and limit_bytes < 1:
            raise OptionError("cache_limit", f"{limit_bytes} bytes are below 1")
        try:
            self.folder = folder.expanduser().absolute()
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):  # check that the folder is writable
                held = self._scan()
        except (OSError, ValueError, RuntimeError) as exc:
            problem = f"cannot be used: {getattr(exc, 'strerror', None) or exc}"
            hint = "give a local folder that can be written to"
            raise OptionError(f"cache_dir {str(folder)!r}", problem, hint) from exc
        if limit_bytes is None:
            held_bytes = sum(kept.num_bytes for kept in held)
            limit_bytes = int(_SHARE_OF_DISK * (shutil.disk_usage(self.folder).free + held_bytes))
        self.limit_bytes = limit_bytes

    def find(self, name: str, num_bytes: int) -> Path | None:
        """Return the file if it exists with the right length, and mark it as used.

        A file of another length is removed.
        """
        path = self._path(name)
        try:
            if path.stat().st_size == num_bytes:
                with suppress(PermissionError):  # another user's file: used all the same
                    os.utime(path)
                return path
        except FileNotFoundError:
            return None
        self.discard(name)
        return None

    def discard(self, name: str) -> None:
        """Remove a file; a missing one, or another user's, is ignored."""
        with suppress(PermissionError):
            self._path(name).unlink(missing_ok=True)

    def fill(
        self,
        name: str,
        num_bytes: int,
        write: Callable[[IO[bytes]], None],
        *,
        keep: Collection[str] = (),
        wait_s: float = 0,
        may_evict: bool = True,
    ) -> tuple[Path, bool]:
        """Write a file unless it exists.

        Args:
            name: Its name.
            num_bytes: Its length.
            write: Writes exactly `num_bytes` verified bytes. If it raises, nothing is kept.
            keep: Names that must not be evicted.
            wait_s: Seconds to wait for another writer of the file.
            may_evict: Whether others may be evicted; False: use free space only.

        Returns:
            (the file, whether `write` was called).

        Raises:
            BusyError: Another process or thread is still writing it after `wait_s`.
            NoSpaceError: It does not fit beside `keep`, or other files fill the disk.
        """
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked(path, wait_s):
                if found := self.find(name, num_bytes):
                    return found, False
                kept = {self._path(other) for other in keep} if may_evict else None
                self._write(path, num_bytes, write, kept)
                return path, True
        except OSError as exc:  # a folder or a lock takes space as well
            if exc.errno in _DISK_FULL:
                raise NoSpaceError from exc
            raise

    @contextmanager
    def _locked(self, path: Path, wait_s: float) -> Iterator[None]:
        lock = path.with_name(path.name + LOCK)
        try:
            with FileLock(lock, timeout=wait_s, poll_interval=0.02, thread_local=False):
                try:
                    yield
                finally:
                    # Waiters find the name gone and lock a new file: no lock stays behind.
                    lock.unlink(missing_ok=True)
        except Timeout as exc:
            raise BusyError from exc

    def _write(
        self,
        path: Path,
        num_bytes: int,
        write: Callable[[IO[bytes]], None],
        keep: set[Path] | None,
    ) -> None:
        """Write a file; others may be evicted unless they are in `keep`, None: none may."""
        partial = path.with_name(path.name + PARTIAL)
        is_last_try = False
        try:
            while True:
                self._reserve(partial, num_bytes, keep)
                try:
                    with partial.open("r+b") as file:
                        write(file)
                    break
                except OSError as exc:  # the disk is fuller than the limit foresaw
                    if exc.errno not in _DISK_FULL:
                        raise
                    if is_last_try or not self._free(num_bytes, keep):
                        raise NoSpaceError from exc
                    is_last_try = True
            with self._space_lock():  # a file renamed while others count would be missed
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _reserve(self, partial: Path, num_bytes: int, keep: set[Path] | None) -> None:
        """Create the temporary file in its full length, so that it counts from now on."""
        with self._space_lock():
            partial.unlink(missing_ok=True)  # of a process that died
            held = self._scan()
            excess = sum(kept.num_bytes for kept in held) + num_bytes - self.limit_bytes
            if excess > 0 and not self._evict(held, excess, keep):
                raise NoSpaceError
            try:
                with partial.open("wb") as file:
                    file.truncate(num_bytes)
            except OSError as exc:
                if exc.errno in _DISK_FULL:
                    raise NoSpaceError from exc
                raise

    def _free(self, num_bytes: int, keep: set[Path] | None) -> bool:
        """Evict so many bytes, even if the limit would allow more."""
        with self._space_lock():
            return self._evict(self._scan(), num_bytes, keep)

    def _space_lock(self) -> FileLock:
        """Return the lock for counting and freeing space, and for renaming files."""
        # Processes of other releases may share the folder, so the name must not change.
        return FileLock(self.folder / f"room{LOCK}", poll_interval=0.01, thread_local=False)

    def _evict(self, held: list[_Kept], num_bytes: int, keep: set[Path] | None) -> bool:
        """Remove least recently used files of so many bytes; none if that is impossible."""
        if keep is None:
            return False
        spare = [
            kept for kept in held if kept.path not in keep and not self._is_being_written(kept)
        ]
        if sum(kept.num_bytes for kept in spare) < num_bytes:
            return False
        for kept in sorted(spare):
            if num_bytes <= 0:
                break
            kept.path.unlink(missing_ok=True)
            num_bytes -= kept.num_bytes
        return True

    def _is_being_written(self, kept: _Kept) -> bool:
        """Tell whether it is a temporary file whose writer is alive."""
        if kept.path.suffix != PARTIAL:
            return False
        lock = FileLock(kept.path.with_suffix(LOCK), timeout=0, thread_local=False)
        try:
            with lock:
                Path(lock.lock_file).unlink(missing_ok=True)
                return False
        except Timeout:
            return True

    def _scan(self) -> list[_Kept]:
        found: list[_Kept] = []
        with os.scandir(self.folder) as folders:
            for folder in folders:
                if len(folder.name) == 2 and folder.is_dir():
                    found += _files_in(folder.path)
        return found

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name


def _files_in(folder: str) -> Iterator[_Kept]:
    """Yield the cache's files in one folder, without those removed meanwhile."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if _OURS.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    stat = entry.stat()
                    yield _Kept(stat.st_mtime_ns, stat.st_size, Path(entry.path))
