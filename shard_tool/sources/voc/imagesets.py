"""Parses the lists of ImageSets, which say which pictures a split holds.

A list is a text file of lines ``id``, ``id label`` (class lists: -1, 0 for difficult objects only,
1), ``id object-number`` (Layout; ids repeat) or ``id object-number label`` (Action). Lines may end
in CRLF and may be blank; other tools write comments that begin with '#'. Only blanks of ASCII end a
field: a name may hold others, such as the wide blank of Japanese.
"""

from __future__ import annotations

import io
import re
import string
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shard_tool.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SPLITS = ("train", "val", "trainval", "test")
"""Names of the plain lists of ids; the lists of classes are called ``<class>_<split>``."""

LIST_FOLDERS = ("Main", "Segmentation", "Layout", "Action")

TASK_FOLDERS = {
    "detection": "Main",
    "segmentation": "Segmentation",
    "classification": "Main",
    "layout": "Layout",
    "action": "Action",
}
"""Task to the folder of ImageSets that holds its lists."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")
_BLANKS = " \t\v\f"
_FIELD = re.compile(rf"[^{_BLANKS}]+")
_QUOTED_FIELD = re.compile(rf'"[^"]+"|[^{_BLANKS}]+')

_IS_SIMPLE = np.zeros(256, np.bool_)
_IS_SIMPLE[np.frombuffer(f"{string.ascii_letters}{string.digits}_-".encode(), np.uint8)] = True

CLASS_LABELS = (-1, 0, 1)
"""Numbers in the list of a class: no object, difficult ones only, at least one other."""

NAMES_OF_SPLIT = {
    "train": ("train", "training", "default"),
    "val": ("val", "valid", "validation"),
    "trainval": ("trainval",),
    "test": ("test", "testing"),
}
"""Split to the lists that may hold it. CVAT and Datumaro call a list without a name 'default'."""


def parse_ids(content: bytes, *, place: str) -> list[str]:
    r"""Parse the ids of a list, in its order, each once.

    Raises:
        SourceError: The list is not text.

    >>> parse_ids(b"000005\r\n\r\n000007  1\r\n000007  2\r\n", place="trainval.txt")
    ['000005', '000007']
    """
    return list(dict.fromkeys(fields[0] for fields in _lines(content, place)))


def sorted_ids(content: bytes, *, place: str) -> NDArray[np.bytes_]:
    r"""Parse the ids of a list as UTF-8 bytes, sorted, each once; str would need more memory.

    Raises:
        SourceError: The list is not text.

    >>> sorted_ids(b"000007\n000005\n000007\n", place="train.txt").tolist()
    [b'000005', b'000007']
    """
    return np.unique(_ids(content, place))


class Line(NamedTuple):
    """A line of a list that is more than one field, or may be."""

    raw: str
    """As it is written, without its end."""
    rest: str
    """The fields after the first, with one blank between them."""


class ListedNames(NamedTuple):
    """The lines of a list of pictures, in its order; no comments."""

    first: NDArray[np.bytes_]
    """UTF-8 [lines]: the first field of each."""
    whole: dict[int, Line]
    """Number of a line that is not its first field alone, to all of it."""
    comments: tuple[str, ...]
    """Lines that begin with '#', unless that begins the name of a picture."""


def listed_names(content: bytes, *, place: str) -> ListedNames:
    r"""Parse the lines of a list of pictures, repeated ones too.

    Raises:
        SourceError: The list is not text.

    >>> listed_names(b"000005\n000007  1\n", place="train.txt").whole
    {1: Line(raw='000007  1', rest='1')}
    """
    if (ids := _plain_ids(content)) is not None:
        return ListedNames(ids, {}, ())
    whole = {
        number: Line(raw, " ".join(fields[1:]))
        for number, (raw, fields) in enumerate(_rows(content, place))
        if len(fields) > 1 or raw[:1] in _BLANKS or raw[-1:] in _BLANKS
    }
    comments = tuple(raw for raw in _texts(content, place) if _is_comment(raw))
    return ListedNames(_ids(content, place), whole, comments)


def _plain_ids(content: bytes) -> NDArray[np.bytes_] | None:
    r"""The ids of a list of equally long, simple ones, as VOC's own are; None for any other list.

    >>> _plain_ids(b"000005\n000007\n").tolist(), _plain_ids(b"5\n000007\n"), _plain_ids(b"")
    ([b'000005', b'000007'], None, None)
    """
    length = content.find(b"\n") + 1
    if length < 2 or len(content) % length:
        return None
    rows = np.frombuffer(content, np.uint8).reshape(-1, length)
    if not (_IS_SIMPLE[rows[:, :-1]].all() and (rows[:, -1] == ord("\n")).all()):
        return None
    return np.ascontiguousarray(rows[:, :-1]).view(f"S{length - 1}")[:, 0]


def _ids(content: bytes, place: str) -> NDArray[np.bytes_]:
    if (plain := _plain_ids(content)) is not None:
        return plain
    longest = max((len(fields[0].encode()) for fields in _lines(content, place)), default=1)
    ids = bytearray()  # fixed length: one object for each id would need ten times the memory
    for fields in _lines(content, place):
        ids += fields[0].encode().ljust(longest, b"\0")
    return np.frombuffer(ids, f"S{longest}")


def names_any(content: bytes, *, place: str) -> bool:
    """Whether a list names a picture.

    Raises:
        SourceError: The list is not text (up to its first picture).
    """
    return any(True for _ in _lines(content, place))


def parse_numbers(content: bytes, *, place: str) -> dict[str, tuple[int, ...]]:
    r"""Map each id to the numbers in its second column, ascending; empty for a plain list.

    Raises:
        SourceError: The list is not text, or a second column is not a whole number.

    >>> parse_numbers(b"2007_000423  2\n2007_000423  1\n", place="train.txt")
    {'2007_000423': (1, 2)}
    """
    found: dict[str, set[int]] = {}
    for fields in _lines(content, place):
        if len(fields) > 1:
            if not _NUMBER.fullmatch(fields[1]):
                problem = f"the line of {fields[0]!r} has {fields[1]!r}, expected a whole number"
                raise SourceError(place, problem)
            found.setdefault(fields[0], set()).add(int(fields[1]))
    return {key: tuple(sorted(numbers)) for key, numbers in found.items()}


def labelled_names(content: bytes, *, place: str) -> list[str] | None:
    r"""Parse what a list of a class names, as it is written; None: it is none, a label is missing.

    Raises:
        SourceError: The list is not text.

    >>> labelled_names(b"my cat.jpg 1\n2.jpg -1\n", place="cat_train.txt")
    ['my cat.jpg', '2.jpg']
    """
    lines = [
        line.rstrip(_BLANKS).rpartition(" ")
        for line, _ in _rows(content.replace(b"\t", b" "), place)
    ]
    if any(not name or label not in map(str, CLASS_LABELS) for name, _, label in lines):
        return None
    return [name.strip(_BLANKS) for name, _, _ in lines]


def sorted_labels(
    content: bytes, *, place: str
) -> tuple[NDArray[np.bytes_], NDArray[np.int64]] | None:
    r"""Parse the list of a class: its ids, sorted, and the number of each.

    Returns:
        None unless each id has one line with a whole number; `parse_numbers` then tells more.

    >>> sorted_labels(b"000007  1\n000005 -1\n", place="cat_train.txt")[1].tolist()
    [-1, 1]
    """
    ids = sorted_ids(content, place=place)
    numbers, count = np.zeros(len(ids), np.int64), 0
    for fields in _lines(content, place):
        if len(fields) < 2 or not _NUMBER.fullmatch(fields[1]) or count == len(ids):
            return None
        numbers[np.searchsorted(ids, fields[0].encode())] = int(fields[1])
        count += 1
    return (ids, numbers) if count == len(ids) else None


def _lines(content: bytes, place: str) -> Iterator[list[str]]:
    """Yield the fields of each line that is neither blank nor a comment."""
    return (fields for _, fields in _rows(content, place))


def _rows(content: bytes, place: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each line that is neither blank nor a comment, and its fields."""
    for line in _texts(content, place):
        if '"' in line:  # datumaro quotes names with blanks in some lists
            fields = [field.strip('"') for field in _QUOTED_FIELD.findall(line)]
        else:
            fields = line.split() if line.isascii() else _FIELD.findall(line)
        if fields and not _is_comment(line):
            yield line, fields


def _is_comment(line: str) -> bool:
    return line.lstrip(_BLANKS).startswith("#")


def _texts(content: bytes, place: str) -> Iterator[str]:
    """Yield each line without its end."""
    try:
        for line in io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline=None):
            yield line.removesuffix("\n")
    except UnicodeDecodeError as exc:
        raise SourceError(place, f"not a text file: {exc}") from exc
