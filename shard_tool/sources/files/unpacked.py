"""Decompresses a compressed tar once, into a temporary plain one that can be read by offset.

Every process of this machine can open the temporary file by its name. It is removed when its owner,
the object that `unpack` returns, is no longer used or the process ends. A killed process cannot
remove it, but loses its lock on it, so the next `unpack` of anyone removes it then.
"""

from __future__ import annotations

import fcntl
import importlib
import io
import logging
import os
import shutil
import tarfile
import tempfile
import weakref
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import IO, TYPE_CHECKING, Any

from shard_tool.errors import ShardToolError, SourceError, StoreError
from shard_tool.sources.files.file_span import AGAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

_MODULES = {"gzip": "gzip", "bzip2": "bz2", "xz": "lzma", "zstd": "compression.zstd"}
"""The standard library's; a Python may lack some, those before 3.14 the last."""
_PREFIX, _SUFFIX = "shard-tool-unpacked-", ".tar"
_BLOCK_BYTES = 1 << 20
_SPACE = "set TMPDIR to a folder on a larger disk, or decompress the archive and give the tar"


class UnpackedTar:
    """A temporary plain tar.

    Args:
        path: Its path.
        file: The open file, if this object owns it. Pickled copies do not.
    """

    def __init__(self, path: str, file: IO[bytes] | None = None) -> None:
        self.path = path
        if file is not None:
            self._finalizer = weakref.finalize(self, _remove, path, file, os.getpid())

    def __reduce__(self) -> tuple[type[UnpackedTar], tuple[str]]:
        return UnpackedTar, (self.path,)

    def remove(self) -> None:
        """Remove the file now; only its owner does."""
        self._finalizer()


def unpack(place: str, kind: str, parts: Iterator[bytes], num_bytes: int) -> UnpackedTar:
    """Decompress an archive into a temporary file.

    Args:
        place: What messages call the archive.
        kind: How it is compressed: 'gzip', 'bzip2', 'xz' or 'zstd'.
        parts: Its bytes; all are taken.
        num_bytes: Their number.

    Raises:
        SourceError: It is damaged, cut short or holds no tar, or this Python cannot decompress it.
        StoreError: The temporary file does not fit on its disk.
    """
    opener, folder = _opener(place, kind), Path(tempfile.gettempdir())
    _sweep(folder)
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        problem = f"must be decompressed into {folder}: {free} bytes free, it has {num_bytes}"
        raise StoreError(place, problem, _SPACE)
    text = "%s: decompressing %d bytes (%s) into %s, where %d are free"
    log.info(text, place, num_bytes, kind, folder, free)
    tar, file = _new_file(place, folder)
    try:
        done = _write(place, kind, _decompressed(place, kind, opener, parts), file, folder)
    except BaseException:
        tar.remove()
        raise
    log.info("%s: decompressed to %d bytes", place, done)
    return tar


def _write(place: str, kind: str, blocks: Iterator[bytes], file: IO[bytes], folder: Path) -> int:
    done = 0
    for block in blocks:
        if not done:
            _check_is_tar(place, kind, block)
        with _disk_errors_named(place, folder, done):
            rest = memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]
        done += len(block)
    return done


def _opener(place: str, kind: str) -> Callable[..., IO[bytes]]:
    try:
        opener: Callable[..., IO[bytes]] = importlib.import_module(_MODULES[kind]).open
    except ImportError as exc:
        problem = f"is compressed ({kind}), which this Python cannot read"
        raise SourceError(place, problem, "decompress it and give the tar") from exc
    return opener


def _decompressed(
    place: str, kind: str, opener: Callable[..., IO[bytes]], parts: Iterator[bytes]
) -> Iterator[bytes]:
    """Yield the decompressed bytes, a MiB at a time, then take what follows the compressed ones."""
    errors = (EOFError, OSError, zlib.error, _error_of(kind))
    try:
        with opener(io.BufferedReader(_Stream(parts), _BLOCK_BYTES)) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except ShardToolError:  # of the parts
        raise
    except errors as exc:
        is_cut = isinstance(exc, EOFError)
        problem = "ends too early" if is_cut else f"is damaged ({exc})"
        raise SourceError(place, f"its {kind} data {problem}", AGAIN) from exc
    for _ in parts:
        pass


def _error_of(kind: str) -> type[Exception]:
    module = importlib.import_module(_MODULES[kind])
    error: type[Exception] = getattr(module, "LZMAError", getattr(module, "ZstdError", OSError))
    return error


class _Stream(io.RawIOBase):
    """Parts as a file."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        super().__init__()
        self._parts, self._held = parts, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._held = memoryview(part)
        some = self._held[: len(buffer)]
        buffer[: len(some)] = some
        self._held = self._held[len(some) :]
        return len(some)


def _check_is_tar(place: str, kind: str, block: bytes) -> None:
    header = block[: tarfile.BLOCKSIZE]
    if not header.strip(b"\0"):  # the end of an empty tar
        return
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as exc:
        hint = "give a compressed tar, or extract it and give the folder"
        raise SourceError(place, f"its {kind} data holds no tar", hint) from exc


def _new_file(place: str, folder: Path) -> tuple[UnpackedTar, IO[bytes]]:
    """Make a file that is removed with its `UnpackedTar`; locked while this process lives."""
    with _disk_errors_named(place, folder, 0):
        while True:
            descriptor, path = tempfile.mkstemp(_SUFFIX, _PREFIX, folder)
            file = open(descriptor, "wb", buffering=0)  # noqa: SIM115, PTH123
            tar = UnpackedTar(path, file)
            with suppress(OSError):  # a file system without locks: nobody sweeps there
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.exists(path):  # noqa: PTH110  (else it was swept before it was locked)
                return tar, file


def _remove(path: str, file: IO[bytes], owner: int) -> None:
    if os.getpid() == owner:  # a forked process ends or drops its copy earlier
        Path(path).unlink(missing_ok=True)
        file.close()


def _sweep(folder: Path) -> None:
    """Remove what dead processes of this user left."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):  # locked, another user's, or gone already
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path, flags)
            try:
                stat = os.fstat(descriptor)
                if S_ISREG(stat.st_mode) and stat.st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    log.info("removed %s (%d bytes), left by a process", path, stat.st_size)
            finally:
                os.close(descriptor)


@contextmanager
def _disk_errors_named(place: str, folder: Path, done: int) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        free = shutil.disk_usage(folder).free
        problem = f"cannot be decompressed into {folder}: {exc.strerror or exc} after {done} bytes"
        raise StoreError(place, f"{problem} ({free} bytes free)", _SPACE) from exc
