"""Decodes and encodes COCO's run lengths of an object's pixels, without pycocotools.

Pixels are counted down the columns, from the left one on. Runs of 0 and of 1 take turns, and the
first is of 0. COCO writes them as a list of numbers, or as a string.

Source: cocoapi, common/maskApi.c, `rleToString` and `rleFrString`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_FIRST = ord("0")
_BITS, _MORE, _SIGN = 5, 0x20, 0x10
"""Bits of a number in a character; the bit that says that more follow; the sign's in the last."""
_MOST_CHARACTERS = 6
"""Of one number: 30 bits, more than pixels of any picture that is read."""


def run_counts(rle: Mapping[str, Any]) -> NDArray[np.int64]:
    """The lengths of the runs, int64 [n].

    Args:
        rle: COCO's `size` [height, width], and `counts`: a list, or a string.

    Raises:
        ValueError: They are not the runs of a picture of this size.
    """
    counts, (height, width) = rle["counts"], rle["size"]
    found = _counts_of_string(counts) if isinstance(counts, str) else _counts_of_list(counts)
    if len(found) and int(found.min()) < 0:
        message = "some run is shorter than 0"
        raise ValueError(message)
    total = sum(found.tolist())
    if total != height * width:
        message = f"the runs have {total} pixels, a picture of {width} x {height} has"
        raise ValueError(f"{message} {height * width}")
    return found


def counts_string(counts: NDArray[np.int64]) -> str:
    """The runs as COCO's compressed string.

    From the fourth on, a run is written as the difference from the last but one.

    >>> counts_string(np.array([3, 2, 4, 1])), _counts_of_string("324O").tolist()
    ('324O', [3, 2, 4, 1])
    """
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    text = bytearray()
    for value in values.tolist():
        while True:
            low = value & (_MORE - 1)
            value >>= _BITS
            is_last = value == (-1 if low & _SIGN else 0)
            text.append(_FIRST + (low if is_last else low | _MORE))
            if is_last:
                break
    return text.decode()


def _counts_of_list(counts: list[int]) -> NDArray[np.int64]:
    try:
        return np.array(counts, np.int64)
    except OverflowError:
        message = "some run is longer than any picture"
        raise ValueError(message) from None


def _counts_of_string(text: str) -> NDArray[np.int64]:
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - _FIRST
    except UnicodeEncodeError:
        codes = np.array([-1])
    if not len(codes):
        return codes
    ends = np.flatnonzero(codes & _MORE == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1 if len(ends) else ends
    is_whole = len(ends) and ends[-1] == len(codes) - 1 and lengths.max() <= _MOST_CHARACTERS
    if codes.min() < 0 or codes.max() >= 2 * _MORE or not is_whole:
        message = "the string is not one of run lengths"
        raise ValueError(message)
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & (_MORE - 1)) << _BITS * places, starts)
    values -= np.where(codes[ends] & _SIGN, np.int64(1) << _BITS * lengths, 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def counts_of_pixels(pixels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The runs of a mask, bool [H, W]."""
    flat = pixels.T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0] * (1 + bool(flat[0])), changes, [len(flat)]])
    return np.diff(bounds)


def pixels_of_counts(counts: NDArray[np.int64], height: int) -> NDArray[np.uint8]:
    """The pixels of runs: uint8 [width, height], 0 or 1, so a row is a column of the picture."""
    values = np.arange(len(counts), dtype=np.uint8) & 1
    return np.repeat(values, counts).reshape(-1, height)
