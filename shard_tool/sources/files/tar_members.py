"""Finds the members of a tar, with their CRC-32s where all of it is read anyway."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from shard_tool.format.tar import walk
from shard_tool.sources.files.file_span import FileSpan, checked_name, damage_named, unsafe_member

if TYPE_CHECKING:
    from collections.abc import Callable

    from shard_tool.format.tar import Member, ReadAt

_LINKS = {"1": "a hard link", "2": "a symbolic link"}
_DEVICES = {"3": "a device", "4": "a device", "6": "a pipe"}
_CRC_BYTES = 1 << 20

Keep = tuple["Callable[[FileSpan], bool]", "Callable[[FileSpan, bytes], None]"]
"""(whether the content of a file is wanted, what gets it)."""


def note_members(
    place: str,
    read_at: ReadAt,
    size: int,
    note: Callable[[FileSpan], None],
    *,
    with_crcs: bool = False,
    keep: Keep | None = None,
) -> int:
    """Check and note all members of a tar.

    Args:
        place: What messages call it.
        read_at: Reads its bytes; asked for ever later ones.
        size: Its length in bytes.
        note: Called with each file and folder, in order.
        with_crcs: Whether to read contents, for their CRC-32s.
        keep: With CRCs: which contents are wanted, and what gets them once they are noted.

    Returns:
        How many names had backslashes.

    Raises:
        SourceError: It is no tar, cut short, or a member is a link or leads out of the archive.
    """
    num_backslashed = 0
    with damage_named():
        for member in walk(read_at, 0, size, place=place):
            _check_kind(place, member)
            name, content = checked_name(place, member.name), None
            num_backslashed += name != member.name
            span = FileSpan(name, member.offset, member.size)
            if keep and keep[0](span):
                content = read_at(span.offset, span.size)
            if with_crcs:
                crc = _crc_of(member, read_at) if content is None else zlib.crc32(content)
                span = span._replace(crc=crc)
            note(span)
            if keep and content is not None:
                keep[1](span, content)
    return num_backslashed


def _check_kind(place: str, member: Member) -> None:
    if member.kind in _LINKS or member.kind in _DEVICES:
        problem = f"is {_LINKS.get(member.kind) or _DEVICES[member.kind]}, not a file"
        raise unsafe_member(place, member.name, problem)


def _crc_of(member: Member, read_at: ReadAt) -> int:
    crc, stop = 0, member.offset + member.size
    for at in range(member.offset, stop, _CRC_BYTES):
        crc = zlib.crc32(read_at(at, min(_CRC_BYTES, stop - at)), crc)
    return crc
