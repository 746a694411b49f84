"""Pictures that several sources have: found by their bytes, for ids differ between years.

Nothing is hashed that a look at sizes can tell apart: only pictures whose size another source has
as well are compared, first by a few bytes of their middle, then by all of them.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.sources.archive import FileSpan
from shard_tool.sources.voc.devkit import SUFFIX_OF_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.voc.devkit import Devkit

_FOLDER = "JPEGImages"
_PROBE_BYTES = 256
_AT_A_TIME = 64


def duplicates_of(
    devkits: Sequence[Devkit],
    keys: NDArray[np.bytes_],
    sources: NDArray[np.int16],
    *,
    rank: NDArray[np.int16],
) -> list[tuple[int, int]]:
    """Records whose picture another source has, too.

    Args:
        devkits: The sources, by number.
        keys: [records].
        sources: [records]: the source of each.
        rank: [records]: of equal pictures the one with the lowest rank stays, then the first.

    Returns:
        (row of the one to leave out, row of the one that stays), by the former. Equal pictures of
        one source are nobody's business but its own: both stay.

    Raises:
        SourceError: A source cannot be read.
    """
    rows = _of_shared_size(_sizes(devkits, keys, sources), sources)
    spans = _spans(devkits, keys, sources, rows)
    groups = [list(spans)]
    for probe_bytes in (_PROBE_BYTES, None):
        some = [row for group in groups for row in group]
        digests = _digests(devkits, spans, some, sources, probe_bytes)
        values = ((spans[row].size, digest) for row, digest in zip(some, digests, strict=True))
        groups = _groups(some, values, sources)
    found = []
    for group in groups:
        stays = min(group, key=lambda row: (int(rank[row]), int(sources[row]), row))
        found += [(row, stays) for row in group if sources[row] != sources[stays]]
    return sorted(found)


def _sizes(
    devkits: Sequence[Devkit], keys: NDArray[np.bytes_], sources: NDArray[np.int16]
) -> NDArray[np.int64]:
    """Bytes of each picture; -1 where there is none."""
    sizes = np.full(len(keys), -1, np.int64)
    for number, devkit in enumerate(devkits):
        of_source = np.flatnonzero(sources == number)
        files = devkit.files
        sizes[of_source] = files.sizes(_FOLDER, files.rows(_FOLDER, keys[of_source]))
    return sizes


def _of_shared_size(sizes: NDArray[np.int64], sources: NDArray[np.int16]) -> NDArray[np.int64]:
    """Rows of pictures whose size one of another source has, too."""
    order = np.lexsort((sources, sizes))
    if not len(order):
        return order
    sizes, sources = sizes[order], sources[order]
    starts = np.flatnonzero(np.append(True, sizes[1:] != sizes[:-1]))
    is_mixed = np.minimum.reduceat(sources, starts) != np.maximum.reduceat(sources, starts)
    lengths = np.diff(np.append(starts, len(sizes)))
    return np.sort(order[np.repeat(is_mixed, lengths) & (sizes >= 0)])


def _spans(
    devkits: Sequence[Devkit],
    keys: NDArray[np.bytes_],
    sources: NDArray[np.int16],
    rows: NDArray[np.int64],
) -> dict[int, FileSpan]:
    """Where the pictures of these rows lie."""
    found: dict[int, FileSpan] = {}
    for number, devkit in enumerate(devkits):
        of_source = rows[sources[rows] == number]
        files = devkit.files.folders[_FOLDER]
        for row, at in zip(of_source.tolist(), files.rows(keys[of_source]).tolist(), strict=True):
            name = f"{_FOLDER}/{keys[row].decode('utf-8', 'surrogateescape')}"
            found[row] = FileSpan(name + SUFFIX_OF_FOLDER[_FOLDER], *files.place(at))
    return dict(sorted(found.items()))


def _groups(
    rows: Iterable[int], values: Iterable[object], sources: NDArray[np.int16]
) -> list[list[int]]:
    """Rows of equal value, where more than one source has it."""
    by_value: dict[object, list[int]] = {}
    for row, value in zip(rows, values, strict=True):
        by_value.setdefault(value, []).append(row)
    return [group for group in by_value.values() if len({int(sources[row]) for row in group}) > 1]


def _digests(
    devkits: Sequence[Devkit],
    spans: dict[int, FileSpan],
    rows: Sequence[int],
    sources: NDArray[np.int16],
    probe_bytes: int | None,
) -> list[bytes]:
    """A digest of each picture, or of a few bytes of its middle (in an archive; else of all)."""
    found: dict[int, bytes] = {}
    for number, devkit in enumerate(devkits):
        source = devkit.source
        of_source = [row for row in rows if sources[row] == number]
        with source.opened() as read:
            for first in range(0, len(of_source), _AT_A_TIME):
                some = of_source[first : first + _AT_A_TIME]
                wanted = [spans[row] for row in some]
                if probe_bytes is not None and source.is_archive:
                    wanted = [_middle(span, probe_bytes) for span in wanted]
                for row, content in zip(some, read(wanted), strict=True):
                    if probe_bytes is not None and not source.is_archive:
                        middle = _middle(FileSpan("", 0, len(content)), probe_bytes)
                        content = content[middle.offset :][: middle.size]
                    found[row] = sha256(content).digest()
    return [found[row] for row in rows]


def _middle(span: FileSpan, num_bytes: int) -> FileSpan:
    skipped = max(0, span.size - num_bytes) // 2
    return FileSpan(span.name, span.offset + skipped, min(num_bytes, span.size))  # no CRC of it
