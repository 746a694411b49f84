"""Says what a file tells of a YOLO dataset: the names of classes, and where each split lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shard_tool.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shard_tool.sources.files.file_span import FileSpan

SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
"""Key of a file to the split that it means."""


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """What one file says, as written."""

    spans: tuple[FileSpan, ...]
    """The file, and the file of names that it points to."""
    place: str
    """Its name in messages."""
    names: Mapping[int, str]
    """Number of each class to its name, by rising numbers."""
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Split to the folders and lists of its pictures; empty: the file says none."""
    path: str = ""
    """The folder that those are below."""
    num_keypoints: int = 0
    """How many numbers of keypoints follow each box."""
    notes: tuple[tuple[str, str], ...] = ()
    """Code and example of each thing that was read otherwise than written."""

    @property
    def name(self) -> str:
        """Its path below the source."""
        return self.spans[0].name

    @property
    def folder(self) -> str:
        """The folder that it lies in, below the source."""
        return self.name.rpartition("/")[0]


def checked_names(found: Iterable[tuple[int, str]], place: str) -> dict[int, str]:
    """The names of classes by rising numbers, without blanks around them.

    Raises:
        SourceError: There are none; a number or a name is there twice; a name is empty.
    """
    names = dict[int, str]()
    numbers = dict[str, int]()
    for number, text in sorted(found):
        name = text.strip()
        if number in names:
            raise SourceError(
                place, f"class {number} has two names, {names[number]!r} and {name!r}"
            )
        if not name:
            raise SourceError(place, f"class {number} has no name", "name it")
        if not _is_text(name):
            raise SourceError(place, f"the name of class {number}, {name!r}, is no text")
        if name in numbers:
            problem = f"classes {numbers[name]} and {number} are both called {name!r}"
            raise SourceError(place, problem, "give each class a name of its own")
        names[number], numbers[name] = name, number
    if not names:
        raise SourceError(place, "names no class")
    return names


def check_count(count: str, names: Mapping[int, str], place: str, key: str) -> None:
    """Check the number of classes that a file says beside the names.

    Raises:
        SourceError: It is another one, or no number.
    """
    if count != str(len(names)):
        problem = f"{key} is {count!r}, and there are {len(names)} names"
        raise SourceError(place, problem, f"correct {key} or the names")


def names_of_lines(text: str, place: str) -> dict[int, str]:
    """The names in a file that has one a line, numbered from 0.

    Raises:
        SourceError: There are none, one is there twice, or a line between them is blank.
    """
    return checked_names(enumerate(text.rstrip().split("\n")) if text.strip() else (), place)


def splits_of(written: Mapping[str, tuple[str, ...]], place: str) -> dict[str, tuple[str, ...]]:
    """Split to its paths, of a key of `SPLIT_KEYS` to its paths.

    Raises:
        SourceError: Two keys say one split, with other paths.
    """
    found = dict[str, tuple[str, ...]]()
    for key, paths in written.items():
        split = SPLIT_KEYS[key]
        if found.get(split, paths) != paths:
            raise SourceError(place, f"has {split} and {key}, with other paths", "keep one")
        if paths:
            found[split] = paths
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return True
