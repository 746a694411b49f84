"""Says which pictures each split has: those of its folders, and those that its lists name."""

from __future__ import annotations

from dataclasses import dataclass, field
from posixpath import join
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.sources.files.file_span import slashed
from shard_tool.sources.files.file_table import KIND_OF_SUFFIX
from shard_tool.sources.yolo.text import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.files.file_span import FileSpan
    from shard_tool.sources.files.file_table import FileTable
    from shard_tool.sources.yolo.places import Places

SPLITS = ("train", "val", "test")


@dataclass
class Pictures:
    """The pictures of one split."""

    place: str
    """What names them, for messages."""
    rows: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Folder to the rows of its pictures, sorted, in the table of files."""
    missing: list[str] = field(default_factory=list)
    """Paths in lists at which there is no picture."""
    lists: list[FileSpan] = field(default_factory=list)
    """The lists that name them; empty: folders do."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Code and example of each thing that was read otherwise."""

    def __len__(self) -> int:
        return sum(map(len, self.rows.values())) + len(self.missing)

    def note(self, code: str, example: str) -> None:
        """Note what was read otherwise: a code of `report.MEANINGS`."""
        self.notes.append((code, example))

    def add(self, folder: str, rows: NDArray[np.int64]) -> None:
        """Add pictures of a folder; some may be there already."""
        known = self.rows.get(folder)
        self.rows[folder] = rows if known is None else np.union1d(known, rows)

    def same_as(self, other: Pictures) -> bool:
        """Whether these are the same pictures."""
        return (
            self.missing == other.missing
            and self.rows.keys() == other.rows.keys()
            and all(np.array_equal(rows, other.rows[folder]) for folder, rows in self.rows.items())
        )


def add_folder(pictures: Pictures, folder: str, table: FileTable) -> None:
    """Add all pictures in a folder and below."""
    for its, files in table.of_kind("picture").items():
        if not folder or its == folder or its.startswith(f"{folder}/"):
            pictures.add(its, np.arange(len(files)))


def add_listed(
    pictures: Pictures, content: bytes, places: Places, *, bases: Sequence[str], split: str
) -> None:
    """Add the pictures that the lines of a list name, by paths of any machine.

    Args:
        pictures: Gets them; its place is the list's.
        content: The list.
        places: What lies in the source.
        bases: Folders that its paths may be seen from.
        split: The split that it is of.

    Raises:
        SourceError: The list is no text, or a dead path may mean several pictures.
    """
    lines = [line.strip() for line in text_of(content, pictures.place).split("\n")]
    named = dict[str, None]()
    stems = dict[str, list[str]]()
    for line in filter(None, lines):
        path = slashed(line)
        if path in named:
            pictures.note("list-name-twice", f"{pictures.place}: {path}")
            continue
        named[path] = None
        folder, slash, name = path.rpartition("/")
        stems.setdefault(f"{folder}{slash}", []).append(_stem(name))
    for written, its in stems.items():
        found = places.folder(written or ".", bases, split)
        if found and found.base is None:
            pictures.note("path-mended", f"{pictures.place}: {written!r} is {found.path}")
        folder = found.path if found else written.strip("/")
        for stem in _not_in(pictures, folder, its, places.table):
            if written or not _add_anywhere(pictures, stem, places):
                pictures.missing.append(join(folder, stem))


def _not_in(
    pictures: Pictures, folder: str, stems: Sequence[str], table: FileTable
) -> Iterator[str]:
    """Add pictures of a folder; yield the names of which it has none."""
    files = table.files.get((folder, "picture"))
    if files is None:
        yield from stems
        return
    rows = files.rows(_encoded(stems))
    if len(there := np.unique(rows[rows >= 0])):
        pictures.add(folder, there)
    yield from (stems[at] for at in np.flatnonzero(rows < 0).tolist())


def _add_anywhere(pictures: Pictures, stem: str, places: Places) -> bool:
    """Add the picture of a name without a folder, wherever it lies."""
    found = [
        (folder, rows)
        for folder, files in places.table.of_kind("picture").items()
        if (rows := files.rows(_encoded([stem])))[0] >= 0
    ]
    if len(found) > 1:
        told = ", ".join(repr(folder) for folder, _ in found[:3])
        problem = f"{stem!r} may be a picture in any of {told}"
        raise SourceError(pictures.place, problem, "write the path of each picture")
    for folder, rows in found:
        pictures.add(folder, rows)
    return bool(found)


def _stem(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and KIND_OF_SUFFIX.get(f".{suffix.lower()}") == "picture" else name


def _encoded(names: Sequence[str]) -> NDArray[np.bytes_]:
    return np.array([name.encode("utf-8", "surrogateescape") for name in names], np.bytes_)


def label_folders(folders: Iterable[str], table: FileTable) -> dict[str, str]:
    """Folder of pictures to the folder in which their labels lie, or would.

    As ultralytics does, the last ``images`` of the path is replaced by ``labels``, in any case.
    Where that holds no label of a picture, an earlier ``images`` is, or labels lie beside their
    pictures, or in a folder ``labels`` inside of it or beside it.
    """
    known = dict[str, list[str]]()
    for folder in sorted(table.of_kind("list")):
        known.setdefault(folder.casefold(), []).append(folder)
    found = dict[str, str]()
    for folder in folders:
        stems = table.files[folder, "picture"].stems
        options = _labels_beside(folder)
        there = (its for path in options for its in known.get(path.casefold(), ()))
        with_labels = (its for its in there if (table.files[its, "list"].rows(stems) >= 0).any())
        found[folder] = next(with_labels, options[0])
    return found


def some_labels(folder: str, beside: str, table: FileTable) -> FileSpan | None:
    """Labels of a picture in a folder, not empty ones if there are such; None: there are none."""
    pictures, labels = table.files.get((folder, "picture")), table.files.get((beside, "list"))
    if pictures is None or labels is None:
        return None
    rows = labels.rows(pictures.stems)
    rows = rows[rows >= 0]
    return labels.span(int(rows[int(np.argmax(labels.sizes[rows] > 0))])) if len(rows) else None


_OF_PICTURES = ("images", "jpegimages", "image", "imgs", "img")


def _labels_beside(folder: str) -> list[str]:
    """Where the labels of a folder's pictures may lie, the most usual place first.

    >>> _labels_beside("images/train")
    ['labels/train', 'images/train', 'images/train/labels', 'images/labels/train']
    """
    names = folder.split("/")
    parent, _, last = folder.rpartition("/")
    replaced = [
        "/".join([*names[:at], "labels", *names[at + 1 :]])
        for at in range(len(names))[::-1]
        if names[at].casefold() in _OF_PICTURES
    ]
    return [*replaced, folder, join(folder, "labels"), join(parent, "labels", last)]
