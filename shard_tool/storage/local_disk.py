"""Reads, lists and writes files of this machine; a file becomes visible when it is complete."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import IO, TYPE_CHECKING

from shard_tool.errors import ObjectMissing, ShardError, ShardToolError, StoreError
from shard_tool.storage.objects import Entry
from shard_tool.storage.uploads import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shard_tool.storage.ranges import Range


@contextmanager
def errors_of(place: str, what: str) -> Iterator[None]:
    """Raise errors of the local disk as those of storage."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ObjectMissing(place, "there is no such object") from exc
    except ShardToolError:
        raise
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise StoreError(place, f"cannot be {what}: {reason}") from exc


def read_ranges(wanted: Sequence[Range]) -> list[bytes]:
    """Read ranges of one file."""
    found = list[bytes]()
    if not wanted:
        return found
    path, place = wanted[0].path, wanted[0].place
    with errors_of(place, "read"), Path(path).open("rb", buffering=0) as file:
        for _, _, start, stop in wanted:
            assert stop is not None
            found.append(_pread(file.fileno(), start, stop, place))
    return found


def _pread(descriptor: int, start: int, stop: int, place: str) -> bytes:
    """Read bytes of an open file; one system call brings at most 2 GiB."""
    content = os.pread(descriptor, stop - start, start)
    while len(content) < stop - start:
        at = start + len(content)
        if not (more := os.pread(descriptor, stop - at, at)):
            problem = f"ends at byte {at}, before byte {stop}"
            raise ShardError(place, problem, "put it there again")
        content += more
    return content


def list_folder(folder: Path) -> list[Entry]:
    """List a folder, without files that vanish meanwhile."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            state = path.stat()
            found.append(Entry(path.name, state.st_size if S_ISREG(state.st_mode) else None))
    return sorted(found)


@contextmanager
def publish(path: Path, staging: Path | None = None) -> Iterator[IO[bytes]]:
    """Write a file under another name, and rename it.

    Args:
        path: The file; its folder is made where it is missing.
        staging: The folder to write in, which is not made; None: that of the file.
    """
    if staging is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    partial = (staging or path.parent) / f".{path.name}{PARTIAL}{secrets.token_hex(4)}"
    # The kernel applies the umask. Reading it here would change it for threads beside this one.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
