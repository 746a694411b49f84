"""The one seam to storage: a folder anywhere fsspec reaches, as a small value.

Owns two things fsspec leaves open: an object becomes visible only when it is whole (`publish`),
and errors say which object of which folder. Everything else is fsspec's. A `Folder` holds no
connection: file systems are made lazily, once per process, because s3fs instances do not survive a
fork; so folders travel to workers freely.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from shard_tool.errors import ManifestError, ObjectMissing, ShardToolError, StoreError
from shard_tool.manifest import MANIFEST_NAME, Manifest, parse_manifest
from shard_tool.ranges import TIMEOUT_S, Range, read_parts, read_ranges, shown_cause

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_TIMES = 3
"""Times a remote manifest is read before it is called damaged."""
PARTIAL = ".partial-"
"""Infix of the temporary names of files being written; readers never look at them."""


_kept_alive: dict[int, Any] = {}
"""File systems are never let go of: a forked child that drops its parent's (fsspec's cache does)
would close, in a loop of its own, connections that are not its."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder or bucket prefix, by path or URL.

    Args:
        url: A local path, or any URL fsspec knows (``s3://bucket/voc``).
        options: fsspec's storage options for it. May hold secrets: never shown, never saved.
        timeout_s: Seconds a request for bytes may take, with all its repetitions.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    timeout_s: float = TIMEOUT_S
    _absolute: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # a relative path means the folder it meant here, wherever a worker stands later
        path = self.url if "://" in self.url else str(Path(self.url).absolute())
        object.__setattr__(self, "_absolute", path)

    def __str__(self) -> str:
        return public_url(self.url)

    def __repr__(self) -> str:
        return f"Folder({str(self)!r})"  # the URL as given may hold a password

    @property
    def local(self) -> Path | None:
        """The folder as a local path; None when it is elsewhere."""
        fs, path = self._fs_path()
        return Path(path) if isinstance(fs, LocalFileSystem) else None

    @property
    def is_of_one_process(self) -> bool:
        """Whether other processes see nothing of what is written here (``memory://``)."""
        return isinstance(self._fs_path()[0], MemoryFileSystem)

    def place(self, name: str) -> str:
        """What messages call an object of this folder."""
        return f"{str(self).rstrip('/')}/{name}"

    def names(self) -> list[str]:
        """Names directly in this folder, sorted; empty where there is no such folder."""
        fs, path = self._fs_path()
        try:
            with _errors_of(str(self), "listed"):
                entries = fs.ls(path, detail=False, refresh=True)
        except ObjectMissing:
            return []
        return sorted(entry.rstrip("/").rpartition("/")[2] for entry in entries)

    def read(self, name: str) -> bytes:
        """The content of one object.

        Raises:
            ObjectMissing: There is none.
            StoreError: The storage failed, and went on failing.
        """
        fs, path = self._fs_path()
        if isinstance(fs, LocalFileSystem):
            with _errors_of(self.place(name), "read"):
                return Path(path, name).read_bytes()
        whole = Range(f"{path}/{name}", self.place(name))
        return read_ranges(fs, [whole], timeout_s=self.timeout_s)[0]

    def read_ranges(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Ranges of objects as (name, start, stop), several requests at a time.

        Raises:
            ObjectMissing: There is no such object.
            StoreError: The storage failed, and went on failing.
            ShardError: An object ends before the range does.
        """
        fs, path = self._fs_path()
        ranges = [Range(f"{path}/{name}", self.place(name), *at) for name, *at in wanted]
        return read_ranges(fs, ranges, timeout_s=self.timeout_s)

    def read_parts(self, name: str, start: int, stop: int, *, num_bytes: int) -> Iterator[bytes]:
        """Bytes `start` to `stop` of an object of `num_bytes`, a few MiB at a time.

        Raises:
            ObjectReplacedError: The object changed meanwhile; start again.
            ObjectMissing: There is none.
            StoreError: The storage failed, and went on failing.
            ShardError: The object has another size.
        """
        fs, path = self._fs_path()
        wanted = Range(f"{path}/{name}", self.place(name), start, stop)
        return read_parts(fs, wanted, num_bytes=num_bytes, timeout_s=self.timeout_s)

    def remove(self, name: str) -> None:
        """Remove one object; nothing happens where there is none."""
        fs, path = self._fs_path()
        with suppress(ObjectMissing), _errors_of(self.place(name), "removed"):
            fs.rm_file(f"{path}/{name}")

    @contextmanager
    def publish(self, name: str) -> Iterator[IO[bytes]]:
        """Write an object that becomes visible, whole, when the block ends without an exception.

        On a local disk a sibling ``.partial-`` file is renamed; elsewhere the bytes are staged in a
        temporary file and put as one object, which object stores make visible only when complete.
        Complete, not crash-durable: nothing is fsynced.
        """
        if (folder := self.local) is not None:
            try:
                with _publish_local(folder / name) as file:
                    yield file
            except ShardToolError:  # some are OSErrors too, and none is the disk's
                raise
            except OSError as exc:
                problem = f"cannot be written: {exc.strerror or type(exc).__name__}"
                raise StoreError(self.place(name), problem) from exc
            return
        fs, path = self._fs_path()
        with tempfile.NamedTemporaryFile(prefix="shard-tool-") as staged:
            yield cast("IO[bytes]", staged)
            staged.flush()
            with _errors_of(self.place(name), "written"):
                fs.put_file(staged.name, f"{path}/{name}")

    def _fs_path(self) -> tuple[Any, str]:
        """The file system (fsspec keeps one per process and options) and the path in it."""
        try:
            fs, path = url_to_fs(self._absolute, **_with_defaults(self._absolute, self.options))
            _kept_alive[id(fs)] = fs
        except (ValueError, ImportError) as exc:
            hint = f"known protocols: {', '.join(sorted(fsspec.available_protocols()))}"
            raise StoreError(str(self), f"cannot be opened: {exc}", hint) from exc
        return fs, path.rstrip("/")


def _with_defaults(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under which s3fs fails soon and honestly; the user's own win.

    Above `max_concurrency=1` it reads large objects without retries and returns a short answer as
    a hole of zeros. Its retries and botocore's would multiply; ours, which go on with the part that
    failed, come on top of one repetition of theirs. A fresh dict each time: botocore changes it.
    """
    if not url.startswith(("s3://", "s3a://")):
        return dict(options)
    config = {
        "connect_timeout": 5,
        "read_timeout": 15,
        "max_pool_connections": 24,
        "retries": {"total_max_attempts": 2, "mode": "standard"},
    }
    config |= options.get("config_kwargs", {})
    return {"max_concurrency": 1, **options, "config_kwargs": config}


def load_manifest(folder: Folder) -> Manifest:
    """The manifest of the dataset in `folder`.

    Raises:
        ObjectMissing: There is none; says whether a conversion was begun there.
        ManifestError: It is of an unknown version, damaged or contradicts itself.
    """
    try:
        return _load_manifest(folder)
    except ObjectMissing:
        names = folder.names()
        shards = [name for name in names if name.endswith(".tar")]
        if shards or any(PARTIAL in name for name in names):
            problem = f"conversion not finished ({len(shards)} shards, no {MANIFEST_NAME})"
            raise ObjectMissing(str(folder), problem, "convert again") from None
        hint = "make a dataset with `shard-tool convert SOURCE DEST`"
        raise ObjectMissing(str(folder), f"no dataset here (no {MANIFEST_NAME})", hint) from None


def _load_manifest(folder: Folder, times: int = _TIMES) -> Manifest:
    """Read and check it; from elsewhere again, where the way may have been at fault."""
    content = folder.read(MANIFEST_NAME)
    try:
        return parse_manifest(content, place=folder.place(MANIFEST_NAME))
    except ManifestError:
        if folder.local is not None or times <= 1:
            raise
        return _load_manifest(folder, times - 1)


def public_url(url: str) -> str:
    """A URL without user, password, query and fragment, which may hold secrets.

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


@contextmanager
def _errors_of(place: str, what: str) -> Iterator[None]:
    """One type for callers, whatever a storage library raises (botocore's, aiohttp's, OSError)."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ObjectMissing(place, "there is no such object") from shown_cause(exc)
    except Exception as exc:  # noqa: BLE001  (storage libraries share no base class)
        reason = getattr(exc, "strerror", None) or type(exc).__name__
        raise StoreError(place, f"cannot be {what}: {reason}") from shown_cause(exc)


@contextmanager
def _publish_local(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}{PARTIAL}", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        Path(partial).chmod(0o666 & ~umask)  # mkstemp's 0600 would hide shards from other users
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
