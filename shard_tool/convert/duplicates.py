"""Finds pictures that more than one source holds; compares bytes, since their ids may differ.

Only pictures with the same size as one of another source are read: first a few bytes from the
middle, then, where these are equal, all bytes.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.sources.files.archive import FileSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.files.archive import SourceFiles

_PROBE_BYTES = 256
_AT_A_TIME = 64


def duplicates_of(
    files: Sequence[SourceFiles],
    sizes: NDArray[np.int64],
    sources: NDArray[np.int16],
    image_of: Callable[[int], FileSpan],
    *,
    rank: NDArray[np.int16],
) -> list[tuple[int, int]]:
    """Find records whose picture another source has as well.

    Args:
        files: The sources, by number.
        sizes: [records]: bytes of each picture; -1 for a missing one.
        sources: [records]: number of the source of each.
        image_of: Returns where the picture of a row lies.
        rank: [records]: of equal pictures the one with the lowest rank stays, then the first one.

    Returns:
        (row of the record to leave out, row of the one that stays), sorted. Equal pictures of one
        source both stay.

    Raises:
        SourceError: A source cannot be read.
    """
    spans = {row: image_of(row) for row in _of_shared_size(sizes, sources).tolist()}
    groups = [list(spans)]
    for probe_bytes in (_PROBE_BYTES, None):
        some = [row for group in groups for row in group]
        digests = _digests(files, spans, some, sources, probe_bytes)
        values = ((spans[row].size, digest) for row, digest in zip(some, digests, strict=True))
        groups = _groups(some, values, sources)
    found = []
    for group in groups:
        stays = min(group, key=lambda row: (int(rank[row]), int(sources[row]), row))
        found += [(row, stays) for row in group if sources[row] != sources[stays]]
    return sorted(found)


def _of_shared_size(sizes: NDArray[np.int64], sources: NDArray[np.int16]) -> NDArray[np.int64]:
    """Rows of pictures with the size of a picture of another source."""
    order = np.lexsort((sources, sizes))
    if not len(order):
        return order
    sizes, sources = sizes[order], sources[order]
    starts = np.flatnonzero(np.append(True, sizes[1:] != sizes[:-1]))
    is_mixed = np.minimum.reduceat(sources, starts) != np.maximum.reduceat(sources, starts)
    lengths = np.diff(np.append(starts, len(sizes)))
    return np.sort(order[np.repeat(is_mixed, lengths) & (sizes >= 0)])


def _groups(
    rows: Iterable[int], values: Iterable[object], sources: NDArray[np.int16]
) -> list[list[int]]:
    """Group rows of equal value, and keep groups of more than one source."""
    by_value: dict[object, list[int]] = {}
    for row, value in zip(rows, values, strict=True):
        by_value.setdefault(value, []).append(row)
    return [group for group in by_value.values() if len({int(sources[row]) for row in group}) > 1]


def _digests(
    files: Sequence[SourceFiles],
    spans: dict[int, FileSpan],
    rows: Sequence[int],
    sources: NDArray[np.int16],
    probe_bytes: int | None,
) -> list[bytes]:
    """Digest each picture, or the bytes in its middle."""
    found: dict[int, bytes] = {}
    for number, source in enumerate(files):
        of_source = [row for row in rows if sources[row] == number]
        with source.opened() as read:
            for first in range(0, len(of_source), _AT_A_TIME):
                some = of_source[first : first + _AT_A_TIME]
                wanted = [spans[row] for row in some]
                reads_parts = source.is_archive and all(span.packed is None for span in wanted)
                if probe_bytes is not None and reads_parts:
                    wanted = [_middle(span, probe_bytes) for span in wanted]
                for row, content in zip(some, read(wanted), strict=True):
                    if probe_bytes is not None and not reads_parts:
                        middle = _middle(FileSpan("", 0, len(content)), probe_bytes)
                        content = content[middle.offset :][: middle.size]
                    found[row] = sha256(content).digest()
    return [found[row] for row in rows]


def _middle(span: FileSpan, num_bytes: int) -> FileSpan:
    skipped = max(0, span.size - num_bytes) // 2
    return FileSpan(
        span.name, span.offset + skipped, min(num_bytes, span.size)
    )  # without CRC: it covers the whole file
