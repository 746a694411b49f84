"""Defines `Folder` and its objects: small values that list, read and write storage fsspec reaches.

All storage is reached through them. On top of fsspec, an object becomes visible only when it is
complete (`publish`), and errors name the object and its folder. `ranges`, `objects` and `uploads`
transfer the bytes and retry. A `Folder` holds no connection, so it can be sent to workers: file
systems are made lazily, once per process, because s3fs instances do not survive a fork.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from shard_tool.errors import ObjectMissing, ShardToolError, StoreError
from shard_tool.storage import local_disk
from shard_tool.storage.event_loop import is_s3
from shard_tool.storage.objects import (
    Entry,
    abort_uploads,
    list_folder,
    remove_objects,
    size_of,
    version_of,
)
from shard_tool.storage.ranges import TIMEOUT_S, Range, read_parts, read_ranges
from shard_tool.storage.uploads import Small, Staged, upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_kept_alive: dict[int, Any] = {}
"""File systems are never released: a forked child that drops its parent's, as fsspec's cache does,
would close the parent's connections in a loop of its own."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object by its path or URL, which may be a signed URL.

    Args:
        url: A local path, or any URL fsspec knows. Requests use it as given, with its query;
            messages show it without.
        options: fsspec's storage options. May hold secrets: never shown, never saved.
        timeout_s: Seconds for one request for bytes, with all its attempts.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    timeout_s: float = TIMEOUT_S
    _absolute: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_absolute", _absolute(self.url))

    def __str__(self) -> str:
        return public_url(self.url)

    def __repr__(self) -> str:
        return f"StoredObject({str(self)!r})"

    @property
    def place(self) -> str:
        """What messages call it."""
        return str(self)

    @property
    def local(self) -> Path | None:
        """The object as a local path; None if it is remote."""
        fs, path = _fs_path(self._absolute, self.options)
        return Path(path) if isinstance(fs, LocalFileSystem) else None

    def num_bytes(self) -> int:
        """Return its size in bytes.

        Raises:
            ObjectMissing: There is no such object.
            StoreError: Storage failed, or does not tell the size.
        """
        fs, path = _fs_path(self._absolute, self.options)
        if isinstance(fs, LocalFileSystem):
            with local_disk.errors_of(self.place, "read"):
                return Path(path).stat().st_size
        return size_of(fs, path, self.place, self.timeout_s)

    def version(self) -> list[str]:
        """Return what changes when the object is replaced, as far as storage tells.

        Returns:
            Plain values to compare; empty if storage tells nothing or does not answer.
        """
        if (path := self.local) is not None:
            try:
                state = path.stat()
            except OSError:
                return []
            return [f"mtime {state.st_mtime_ns}", f"inode {state.st_ino}"]
        fs, its_path = _fs_path(self._absolute, self.options)
        try:
            return version_of(fs, its_path, self.place, self.timeout_s)
        except StoreError:
            return []

    def read_ranges(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read (start, stop) ranges; remote ones by several requests at a time.

        Raises:
            ObjectMissing: There is no such object.
            StoreError: Storage failed until the time was up.
            ShardError: The object ends before a range does.
        """
        fs, path = _fs_path(self._absolute, self.options)
        ranges = [Range(path, self.place, *at) for at in wanted]
        if isinstance(fs, LocalFileSystem):
            return local_disk.read_ranges(ranges)
        return read_ranges(fs, ranges, timeout_s=self.timeout_s)

    def read_parts(self, start: int, stop: int, *, num_bytes: int) -> Iterator[bytes]:
        """Read bytes `start` to `stop` of its `num_bytes`, a few MiB at a time.

        Raises:
            ObjectReplacedError: The object was replaced meanwhile; start again.
            ObjectMissing: There is no such object.
            StoreError: Storage failed until the time was up.
            ShardError: The object has another size.
        """
        fs, path = _fs_path(self._absolute, self.options)
        wanted = Range(path, self.place, start, stop)
        return read_parts(fs, wanted, num_bytes=num_bytes, timeout_s=self.timeout_s)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder or bucket prefix, by path or URL.

    Args:
        url: A local path, or any URL fsspec knows (``s3://bucket/voc``).
        options: fsspec's storage options. May hold secrets: never shown, never saved.
        timeout_s: Seconds for one request for bytes, with all its attempts.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    timeout_s: float = TIMEOUT_S
    _absolute: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_absolute", _absolute(self.url))

    def __str__(self) -> str:
        return public_url(self.url)

    def __repr__(self) -> str:
        return f"Folder({str(self)!r})"  # the URL as given may hold a password

    @property
    def local(self) -> Path | None:
        """The folder as a local path; None if it is remote."""
        fs, path = self._fs_path()
        return Path(path) if isinstance(fs, LocalFileSystem) else None

    @property
    def is_of_one_process(self) -> bool:
        """Whether other processes cannot see what is written here (``memory://``)."""
        return isinstance(self._fs_path()[0], MemoryFileSystem)

    def place(self, name: str) -> str:
        """Return what messages call an object of this folder."""
        return f"{str(self).rstrip('/')}/{name}"

    def child(self, name: str) -> Folder:
        """Return a folder inside this one."""
        folder = Folder(_below(self.url, name), self.options, self.timeout_s)
        object.__setattr__(folder, "_absolute", _below(self._absolute, name))
        return folder

    def object(self, name: str) -> StoredObject:
        """Return an object of this folder."""
        found = StoredObject(_below(self.url, name), self.options, self.timeout_s)
        object.__setattr__(found, "_absolute", _below(self._absolute, name))
        return found

    def sizes(self) -> dict[str, int]:
        """Return the size of each object directly in this folder; empty if there is no folder."""
        entries = self._entries()
        return {name: num_bytes for name, num_bytes in entries if num_bytes is not None}

    def names(self) -> list[str]:
        """List the names directly in this folder, sorted; empty if there is no such folder."""
        return [entry.name for entry in self._entries()]

    def _entries(self) -> list[Entry]:
        fs, path = self._fs_path()
        try:
            if isinstance(fs, LocalFileSystem):
                with local_disk.errors_of(str(self), "listed"):
                    return local_disk.list_folder(Path(path or "/"))
            return list_folder(fs, path, str(self), self.timeout_s)
        except ObjectMissing:
            return []

    def read(self, name: str) -> bytes:
        """Read one whole object.

        Raises:
            ObjectMissing: There is no such object.
            StoreError: Storage failed until the time was up.
        """
        fs, path = self._fs_path()
        if isinstance(fs, LocalFileSystem):
            with local_disk.errors_of(self.place(name), "read"):
                return Path(path, name).read_bytes()
        whole = Range(_below(path, name), self.place(name))
        return read_ranges(fs, [whole], timeout_s=self.timeout_s)[0]

    def read_ranges(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Read ranges of objects given as (name, start, stop), several at a time.

        Raises:
            ObjectMissing: There is no such object.
            StoreError: Storage failed until the time was up.
            ShardError: An object ends before a range does.
        """
        fs, path = self._fs_path()
        ranges = [Range(_below(path, name), self.place(name), *at) for name, *at in wanted]
        return read_ranges(fs, ranges, timeout_s=self.timeout_s)

    def read_parts(self, name: str, start: int, stop: int, *, num_bytes: int) -> Iterator[bytes]:
        """Read bytes `start` to `stop` of an object of `num_bytes`, a few MiB at a time.

        Raises:
            ObjectReplacedError: The object was replaced meanwhile; start again.
            ObjectMissing: There is no such object.
            StoreError: Storage failed until the time was up.
            ShardError: The object has another size.
        """
        fs, path = self._fs_path()
        wanted = Range(_below(path, name), self.place(name), start, stop)
        return read_parts(fs, wanted, num_bytes=num_bytes, timeout_s=self.timeout_s)

    def remove(self, name: str) -> None:
        """Remove one object; a missing one is ignored."""
        fs, path = self._fs_path()
        if isinstance(fs, LocalFileSystem):
            with local_disk.errors_of(self.place(name), "removed"):
                Path(path, name).unlink(missing_ok=True)
        else:
            remove_objects(fs, [_below(path, name)], self.place(name), self.timeout_s)

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove many objects, in bulk if storage can; missing ones are ignored."""
        fs, path = self._fs_path()
        if isinstance(fs, LocalFileSystem):
            for name in names:
                self.remove(name)
        else:
            paths = [_below(path, name) for name in names]
            remove_objects(fs, paths, str(self), self.timeout_s)

    def abort_uploads(self, is_ours: Callable[[str], bool]) -> int:
        """Abort unfinished multipart uploads of objects directly in this folder.

        Killed processes leave such uploads on S3, where they take space without being visible.

        Args:
            is_ours: Selects the objects by name.

        Returns:
            How many were aborted.
        """
        fs, path = self._fs_path()
        return abort_uploads(fs, path, str(self), self.timeout_s, is_ours=is_ours)

    def put(self, name: str, content: bytes, *, staging: str | None = None) -> None:
        """Make or replace one small object, whole or not at all; `staging` as for `publish`."""
        fs, path = self._fs_path()
        if isinstance(fs, LocalFileSystem):
            with self.publish(name, staging=staging) as file:
                file.write(content)
        else:
            at = (_below(path, name), self.place(name))
            upload(fs, *at, Small(content), self.timeout_s)

    @contextmanager
    def publish(self, name: str, *, staging: str | None = None) -> Iterator[IO[bytes]]:
        """Write an object that becomes visible, whole, when the block ends without an exception.

        On a local disk a sibling ``.partial-`` file is renamed. Remote objects are staged in a
        temporary file, uploaded as one object, which stores make visible only when complete, and
        compared with what storage then holds. Complete does not mean crash-durable: nothing is
        fsynced.

        Args:
            name: The object's.
            staging: A folder below this one, where a file on a local disk is written until it has
                its name. It is not made: once it is gone, nothing can be published by way of it.
                None: this folder, which is made where it is missing.

        Raises:
            StoreError: Storage failed until the time was up: `timeout_s`, plus what a slow
                connection needs for so many bytes.
        """
        fs, path = self._fs_path()
        is_local = isinstance(fs, LocalFileSystem)
        try:
            if is_local:
                folder = None if staging is None else Path(path, staging)
                with local_disk.publish(Path(path, name), folder) as file:
                    yield file
                return
            # nameless, so that it vanishes with its process, unless a library needs its name
            stage = tempfile.TemporaryFile if is_s3(fs) else tempfile.NamedTemporaryFile
            with stage(prefix="shard-tool-") as staged:
                yield cast("IO[bytes]", staged)
                staged.flush()
                num_bytes = os.fstat(staged.fileno()).st_size
                content = Staged(staged.fileno(), num_bytes, str(staged.name))
                upload(fs, _below(path, name), self.place(name), content, self.timeout_s)
        except ShardToolError:  # some are OSErrors too, and none is the disk's
            raise
        except OSError as exc:
            where = "written" if is_local else f"staged in {tempfile.gettempdir()}"
            problem = f"cannot be {where}: {exc.strerror or type(exc).__name__}"
            raise StoreError(self.place(name), problem) from exc

    def _fs_path(self) -> tuple[Any, str]:
        return _fs_path(self._absolute, self.options)


def _absolute(url: str) -> str:
    """Make a path absolute, so that it means the same in a worker with another folder."""
    return url if "://" in url else str(Path(url).absolute())


def _below(url: str, name: str) -> str:
    """Return the URL of something inside a folder; the folder's query stays at the end.

    >>> _below("https://host/voc/?token=abc", "a.tar")
    'https://host/voc/a.tar?token=abc'
    """
    is_web = url.startswith(("http://", "https://"))
    path, mark, query = url.partition("?") if is_web else (url, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def _fs_path(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the file system (fsspec keeps one per process and options) and the path in it."""
    try:
        fs, path = url_to_fs(url, **_with_defaults(url, options))
        _kept_alive[id(fs)] = fs
    except (ValueError, ImportError) as exc:
        hint = f"known protocols: {', '.join(sorted(fsspec.available_protocols()))}"
        raise StoreError(public_url(url), f"cannot be opened: {exc}", hint) from exc
    return fs, path if "?" in path else path.rstrip("/")  # a signature may end with a slash


def _with_defaults(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under which file systems fail early and correctly; the user's own win.

    Above `max_concurrency=1` s3fs reads large objects without retries and fills a short answer up
    with zeros. Its retries and botocore's would multiply; we retry only the part that failed, on
    top of one repetition of theirs. Uploads are checked by MD5, which every store knows, unlike
    botocore's newer checksums. Each call returns a fresh dict, because botocore changes it.
    """
    if url.startswith(("http://", "https://")) and "?" in url:
        return {"encoded": True, **options}  # a signature is of the URL as it was given
    if not url.startswith(("s3://", "s3a://")):
        return dict(options)
    config = {
        "connect_timeout": 5,
        "read_timeout": 15,
        "max_pool_connections": 24,
        "retries": {"total_max_attempts": 2, "mode": "standard"},
        "request_checksum_calculation": "when_required",
    }
    config |= options.get("config_kwargs", {})
    return {"max_concurrency": 1, **options, "config_kwargs": config}


def public_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, which may hold secrets.

    >>> public_url("https://me:p@ss@host/voc?X-Amz-Signature=abc#token")
    'https://host/voc'
    """
    protocol, separator, rest = url.partition("://")
    if not separator:
        return url
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority = rest.partition("/")[0]
    if "@" in authority:
        rest = authority.rpartition("@")[2] + rest[len(authority) :]
    elif ":" in authority and "@" in rest:  # a slash in the password: what looks like a host is not
        rest = rest.rpartition("@")[2]
    return f"{protocol}://{rest}"
