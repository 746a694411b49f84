"""Finds the files of a local folder."""

from __future__ import annotations

import errno
import logging
import os
from hashlib import sha256
from typing import TYPE_CHECKING

from shard_tool.sources.files.file_span import FileSpan, is_clutter, os_errors_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

_Identity = tuple[int, int]
"""Device and inode of a folder."""


def scan_tree(root: Path, note: Callable[[FileSpan], None]) -> str:
    """Note all files below a folder.

    Links are followed, except one that leads to a folder above itself. A warning counts links that
    lead nowhere.

    Args:
        root: A local folder.
        note: Called with each file, named by its path below `root` (with surrogates where it is not
            UTF-8), in no particular order.

    Returns:
        A digest of the files' names and times of last change, but for clutter (`is_clutter`).

    Raises:
        SourceError: A folder or an entry of it cannot be read; names it.
    """
    stamp, broken = _Stamp(), list[str]()
    for name, entry in _entries(root):
        if is_clutter(name):
            note(FileSpan(name, 0, 0))
            continue
        with os_errors_named(entry.path):
            if _is_file(entry):
                note(stamp.add(name, entry.stat()))
            elif entry.is_symlink():
                broken.append(name)
    if broken:
        log.warning("%s: %d links lead nowhere, such as %s", root, len(broken), min(broken))
    return stamp.digest()


class _Stamp:
    """Adds up digests of names and times: the same in any order of the files."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, name: str, stat: os.stat_result) -> FileSpan:
        """Add a file, and return its span."""
        written = f"{name} {stat.st_mtime_ns}".encode("utf-8", "surrogateescape")
        self._sum += int.from_bytes(sha256(written).digest(), "big")
        return FileSpan(name, 0, stat.st_size)

    def digest(self) -> str:
        """The sum, as hex digits."""
        return f"{self._sum % 2**256:x}"


def _entries(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all below `root` that is no folder, by its path below `root`."""
    waiting: list[tuple[str, str, tuple[_Identity, ...]]] = [("", str(root), ())]
    while waiting:
        prefix, path, above = waiting.pop()
        with os_errors_named(path):
            stat = os.stat(path)  # noqa: PTH116  (a path may hold surrogates, and is no Path yet)
            if (here := (stat.st_dev, stat.st_ino)) in above:
                continue
            with os.scandir(path) as found:
                entries = list(found)
        for entry in entries:
            name = prefix + entry.name
            if _is_folder(entry):
                waiting.append((f"{name}/", entry.path, (*above, here)))
            else:
                yield name, entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # what is wrong with it, `_is_file` raises
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()  # False for a link that leads nowhere
    except OSError as exc:
        if exc.errno == errno.ELOOP:  # a link that leads to itself
            return False
        raise
