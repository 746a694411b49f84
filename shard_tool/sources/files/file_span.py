"""Defines where one file of a source lies, and what every reader of a source says and refuses.

Names inside an archive are compared and never joined to a path of this machine, so a hostile name
reaches no file; `checked_name` still refuses it with an error that shows it.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from shard_tool.errors import ShardError, ShardToolError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

AGAIN = "download or copy the archive again"
UNCHANGING = "convert from a source that does not change"

_CLUTTER = {"__macosx", "thumbs.db", "desktop.ini"}
_MAY_BE_CLUTTER = re.compile("|".join(map(re.escape, _CLUTTER)), re.IGNORECASE)


class FileSpan(NamedTuple):
    """Where one file of a source lies."""

    name: str
    """Its path in the archive or below the folder, with slashes."""
    offset: int
    """First byte in the archive: of the content, in a zip of the local header; 0 in a folder."""
    size: int
    """Length of the content in bytes."""
    crc: int | None = None
    """CRC-32 of the content, if the scan learnt it."""
    packed: int | None = None
    """In a zip: bytes from `offset` on that hold the member with its header. None: the content lies
    in the archive as it is, so any part of it can be read."""


def is_clutter(name: str) -> bool:
    """Whether a path names what systems leave in folders, or lies in a hidden folder.

    >>> [is_clutter(name) for name in ("./a/b.jpg", "__MACOSX/a/b.jpg", "a/._b.jpg", "Thumbs.db")]
    [False, True, True, True]
    """
    if "/." not in name and name[:1] != "." and not _MAY_BE_CLUTTER.search(name):
        return False  # most names; the rest takes ten times as long
    return any(_is_clutter(part) for part in name.split("/"))


def _is_clutter(part: str) -> bool:
    return (part.startswith(".") and part not in (".", "..")) or part.lower() in _CLUTTER


def slashed(name: str) -> str:
    r"""A name as Windows programs write it, with slashes.

    >>> slashed(r"VOCdevkit\VOC2007\a.jpg")
    'VOCdevkit/VOC2007/a.jpg'
    """
    return name.replace("\\", "/")


def printable(name: str) -> str:
    r"""A name as text: bytes of a file's name that are not UTF-8 are shown by their number.

    >>> printable("caf\udce9"), printable("caf\u00e9")
    ('caf\\xe9', 'café')
    """
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def checked_name(place: str, name: str) -> str:
    """The name of a member, with slashes.

    Raises:
        SourceError: It leads out of the archive.
    """
    path = slashed(name)
    if ".." in path.split("/") or path.startswith("/"):
        raise unsafe_member(place, name, "leads out of the archive")
    return path


def unsafe_member(place: str, name: str, problem: str) -> SourceError:
    """The error for a member that no honest archive holds."""
    hint = "get the archive from another place, or extract what you trust and give the folder"
    return SourceError(place, f"member {name!r} {problem}", hint)


@contextmanager
def os_errors_named(source: str) -> Iterator[None]:
    """Turn errors of the operating system into a `SourceError` that names the source."""
    try:
        yield
    except ShardToolError:  # some are OSErrors too
        raise
    except OSError as exc:
        raise SourceError(source, f"cannot be read: {exc.strerror or exc}") from exc


@contextmanager
def damage_named() -> Iterator[None]:
    """Turn a `ShardError` about an archive into a `SourceError` with the way out."""
    try:
        yield
    except ShardError as exc:
        hint = AGAIN
        if "Range" in exc.hint:  # from `storage.ranges`, after several attempts
            hint = "its server ignores Range: download the archive and give its path"
        raise SourceError(exc.place, exc.problem, hint) from exc
