"""Finds folders of classes, and makes a source of them.

``cat/1.jpg`` is a picture of the class cat, and so is ``cat/persian/1.jpg``. Where the first
folders are all called train, valid or test, those below them are the classes. A source knows files
alone: a folder without pictures is no class.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shard_tool.errors import AnnotationError, SourceError
from shard_tool.sources.files.file_span import printable
from shard_tool.sources.found import Found
from shard_tool.sources.indexed_source import Indexed, IndexedSource, id_of, sorted_by_id
from shard_tool.sources.split_folders import SPLIT_FOLDERS, common_folder, split_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shard_tool.sources.annotation import Annotation
    from shard_tool.sources.files.file_table import Files, FileTable
    from shard_tool.sources.files.listing import Listing

_EVIDENCE = "folders of classes"
_ANNOTATING = ("annotation", "json", "yaml", "darknet")
"""Kinds of files that may say what pictures show."""
_NO_CLASSES = re.compile(
    r"images?|imgs?|jpegs|jpegimages|pictures|photos|frames|masks?|labels?|annotations|gt"
    r"|segmentation\w+|(train|val|valid|test|unlabell?ed)[-_ ]?\d+"
)
"""Names of folders that say what files are, or which split, and not what pictures show."""
_FEWEST_CLASSES = 2
"""Of what is taken for classes without being called so."""


class _Folders(NamedTuple):
    """Folders of pictures."""

    classes: dict[str, tuple[str, str]]
    """Folder to its split and class."""
    apart: list[str]
    """Folders of pictures that lie in no class."""
    loose: str | None
    """A folder beside those of splits that is none, if there is one."""

    @property
    def names(self) -> list[str]:
        """The classes, sorted."""
        return sorted({name for _, name in self.classes.values()})


def find_image_folder(
    listing: Listing, split_files: Mapping[str, str], *, is_wanted: bool = False
) -> Found | None:
    """Find folders of classes; None where nothing is, or something else may say what is shown.

    Args:
        listing: The files of the source.
        split_files: Split to the path of a local list of its pictures.
        is_wanted: Whether the user says that it is of this format: only the folders count then.
    """
    pictures = listing.table.of_kind("picture")
    if not pictures:
        return None
    folders = _folders_of(pictures)
    if not folders.classes or not (is_wanted or _is_certain(folders, listing.table)):
        return None
    return Found("imagefolder", _EVIDENCE, lambda: [_opened(listing, folders, split_files)])


def _folders_of(pictures: Mapping[str, Files]) -> _Folders:
    common = common_folder(pictures)
    paths = {folder: folder[len(common) :].strip("/").split("/") for folder in pictures}
    deep = {names[0] for names in paths.values() if len(names) > 1}
    firsts = {names[0] for names in paths.values() if names[0]}
    of_splits = {first for first in firsts if _split_called(first)}
    by_splits = of_splits == firsts or not of_splits.isdisjoint(deep)
    classes, apart, at = dict[str, tuple[str, str]](), list[str](), int(by_splits)
    for folder, names in paths.items():
        if len(names) > at and names[0]:
            split = _split_called(names[0]) if by_splits else split_of(common)
            classes[folder] = split or "train", printable(names[at])
        else:
            apart.append(folder)
    others = sorted(firsts - of_splits)
    return _Folders(classes, apart, others[0] if by_splits and others else None)


def _split_called(folder: str) -> str | None:
    return SPLIT_FOLDERS.get(folder.casefold())


def _is_certain(folders: _Folders, table: FileTable) -> bool:
    """Whether nothing but the folders can say what pictures show."""
    names = folders.names
    if len(names) < _FEWEST_CLASSES or any(table.count(kind) for kind in _ANNOTATING):
        return False
    if any(_NO_CLASSES.fullmatch(name.casefold()) for name in names):
        return False
    pictures = table.of_kind("picture")
    stems = np.concatenate([files.stems for files in pictures.values()])
    if any(np.isin(files.stems, stems).any() for files in table.of_kind("list").values()):
        return False
    num_apart = sum(len(pictures[folder]) for folder in folders.apart)
    return num_apart < sum(len(pictures[folder]) for folder in folders.classes)


def _opened(listing: Listing, folders: _Folders, split_files: Mapping[str, str]) -> IndexedSource:
    """Make the source.

    Raises:
        SourceError: A folder lies beside those of splits and is none, or a folder has two pictures
            of one name.
    """
    if folders.loose is not None and not split_files:
        problem = f"the folder {folders.loose!r} lies beside folders of splits, and is none"
        hint = "give the folder of the splits alone, or name the pictures by --split-file"
        raise SourceError(listing.files.shown, problem, hint)
    pictures = listing.table.of_kind("picture")
    listing.check_twice(folders.classes.keys())
    for folder in folders.apart:
        files = pictures[folder]
        listing.report.add("picture-apart", listing.files.place(files.span(0)), len(files))
    found = [
        Indexed(id_of(span), split, span, None, classes=(name,))
        for folder, (split, name) in folders.classes.items()
        for span in pictures[folder].spans(np.arange(len(pictures[folder])))
        if span is not None
    ]
    return IndexedSource(
        listing=listing,
        evidence=_EVIDENCE,
        split_files=split_files,
        format="imagefolder",
        parser=parse_nothing,
        class_ids={name: number for number, name in enumerate(folders.names)},
        pictures=sorted_by_id(found),
        tasks=("classification",),
    )


def parse_nothing(content: bytes, place: str) -> Annotation:
    """There are no annotations.

    Raises:
        AnnotationError: Always.
    """
    raise AnnotationError(place, f"{len(content)} bytes of an annotation, expected none")
