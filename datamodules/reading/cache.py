"""A folder of fetched bytes, shared by all workers, ranks and jobs of a node.

A file is named by the SHA-256 of what it is a part of, so several datasets share one folder and
nothing in it ever goes stale. It is written under a temporary name and renamed when whole and
verified; who writes holds an operating-system lock, which a crash releases. Files that were not
used for longest go first when room is needed. A file may be removed while another process has it
mapped: that process keeps its bytes.

    ab/abcdef….tar            a whole shard
    ab/abcdef….12-40.tar      samples 12 to 40 of it
    ab/abcdef….idx            an index
    ab/….partial, ab/….lock   being written; left over only after a crash, and then reused

Owns files and room; what bytes are right its callers know.
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
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class NoSpaceError(Exception):
    """The cache cannot hold it: its reader must do without."""


class BusyError(Exception):
    """Somebody else is writing this file just now."""


class _Kept(NamedTuple):
    used_ns: int
    num_bytes: int
    path: Path


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/voc-shards``, else ``~/.cache/voc-shards``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "voc-shards"


class ShardCache:
    """Files by name, in at most so many bytes.

    Args:
        folder: Made where there is none; /dev/shm is as good as a disk.
        limit_bytes: Bytes of all files together; None: half of what the disk has free or the cache
            holds already.

    Raises:
        OptionError: The folder cannot be made or written to, or the limit is below 1.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        if limit_bytes is not None and limit_bytes < 1:
            raise OptionError("cache_limit", f"{limit_bytes} bytes are below 1")
        try:
            self.folder = folder.expanduser().absolute()
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):  # the proof that it can be written to
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
        """The file, if it is there and of the right length; one of another length is removed.

        Counts as a use.
        """
        path = self._path(name)
        try:
            if path.stat().st_size == num_bytes:
                with suppress(PermissionError):  # of another user: used all the same
                    os.utime(path)
                return path
        except FileNotFoundError:
            return None
        self.discard(name)
        return None

    def discard(self, name: str) -> None:
        """Throw a file away; nothing happens where there is none, or it is another user's."""
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
        """Have a file written, unless it is there by then.

        Args:
            name: Its name.
            num_bytes: Its length.
            write: Writes exactly `num_bytes` verified bytes; may raise, and is then not kept.
            keep: Names that must not be removed to make room.
            wait_s: Seconds to wait for another process that is writing it.
            may_evict: Remove others to make room; False: only into what is free.

        Returns:
            (the file, whether `write` was called).

        Raises:
            BusyError: Somebody else is writing it, and still is after `wait_s`.
            NoSpaceError: It does not fit beside `keep`, or the disk is full of other things.
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
        except OSError as exc:  # a folder or a lock takes room too
            if exc.errno in _NO_ROOM:
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
        """Write a file; what is not in `keep` may go for it, None: nothing may."""
        partial = path.with_name(path.name + PARTIAL)
        is_last_try = False
        try:
            while True:
                self._make_room(partial, num_bytes, keep)
                try:
                    with partial.open("r+b") as file:
                        write(file)
                    break
                except OSError as exc:  # the disk is fuller than the limit foresaw
                    if exc.errno not in _NO_ROOM:
                        raise
                    if is_last_try or not self._free(num_bytes, keep):
                        raise NoSpaceError from exc
                    is_last_try = True
            with self._room():  # a name that changed while somebody counts is not counted
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, partial: Path, num_bytes: int, keep: set[Path] | None) -> None:
        """Make the temporary file, in its full length: so it counts while it is being written."""
        with self._room():
            partial.unlink(missing_ok=True)  # of a process that died
            held = self._scan()
            excess = sum(kept.num_bytes for kept in held) + num_bytes - self.limit_bytes
            if excess > 0 and not self._evict(held, excess, keep):
                raise NoSpaceError
            try:
                with partial.open("wb") as file:
                    file.truncate(num_bytes)
            except OSError as exc:
                if exc.errno in _NO_ROOM:
                    raise NoSpaceError from exc
                raise

    def _free(self, num_bytes: int, keep: set[Path] | None) -> bool:
        """Free so much of the disk, whatever the limit would allow."""
        with self._room():
            return self._evict(self._scan(), num_bytes, keep)

    def _room(self) -> FileLock:
        """The lock under which room is counted, given and made, and files get their names."""
        return FileLock(self.folder / f"room{LOCK}", poll_interval=0.01, thread_local=False)

    def _evict(self, held: list[_Kept], num_bytes: int, keep: set[Path] | None) -> bool:
        """Remove what was not used for longest, so many bytes of it; nothing if that cannot be."""
        if keep is None:
            return False
        spare = [kept for kept in held if kept.path not in keep and not self._is_in_hand(kept)]
        if sum(kept.num_bytes for kept in spare) < num_bytes:
            return False
        for kept in sorted(spare):
            if num_bytes <= 0:
                break
            kept.path.unlink(missing_ok=True)
            num_bytes -= kept.num_bytes
        return True

    def _is_in_hand(self, kept: _Kept) -> bool:
        """Whether it is a temporary file whose writer lives."""
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
    """The cache's files in one folder, but for those that are removed meanwhile."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if _OURS.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    stat = entry.stat()
                    yield _Kept(stat.st_mtime_ns, stat.st_size, Path(entry.path))
