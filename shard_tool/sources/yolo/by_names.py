"""Finds a dataset that no file declares: labels beside pictures, and a file of names.

labelImg and Label Studio write classes.txt; obj.names is darknet's. Folders called train, valid and
test are the splits.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.sources.yolo.data_file import DataFile, names_of_lines
from shard_tool.sources.yolo.declared import Dataset
from shard_tool.sources.yolo.pictures import SPLITS, Pictures, label_folders, some_labels
from shard_tool.sources.yolo.places import split_of
from shard_tool.sources.yolo.text import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shard_tool.sources.files.file_span import FileSpan
    from shard_tool.sources.files.listing import Listing

_MAX_NAMES_BYTES = 1 << 22
_LABELS = re.compile(rb"\s*\d+([ \t]+\d*\.?\d+){4}[\s\d.]*")
_MOST_LOOKED_AT = 1 << 16


def dataset_by_names(listing: Listing, *, needs_splits: bool) -> Dataset | None:
    """The dataset of all pictures with labels.

    Args:
        listing: The files of the source.
        needs_splits: Whether folders have to say the split of each picture, or of none.

    Returns:
        None: there are no labels, or nothing names their classes.

    Raises:
        SourceError: Files of names differ; nothing names the classes of what are labels for
            certain; or some pictures lie in folders of splits and others do not.
    """
    folders = _with_labels(listing)
    if not folders:
        return None
    spans = [span for span in _name_files(listing) if span.size <= _MAX_NAMES_BYTES]
    if not spans:
        _refuse_nameless(listing, folders)
        return None
    data, *others = [_data_of(span, listing) for span in spans]
    for other in others:
        if other.names != data.names:
            problem = f"{data.name} and {other.name} hold other names"
            raise SourceError(listing.files.shown, problem, "keep one of them")
    if not needs_splits:
        return Dataset(data, {})
    return Dataset(data, _pictures_by_folders(list(folders), listing))


def _with_labels(listing: Listing) -> dict[str, str]:
    """Folder of pictures to that of their labels, where there are some."""
    table = listing.table
    every = label_folders(table.of_kind("picture"), table)
    return {folder: its for folder, its in every.items() if some_labels(folder, its, table)}


def _name_files(listing: Listing) -> Iterator[FileSpan]:
    """Files of names: classes.txt, obj.names."""
    for files in listing.table.of_kind("names").values():
        yield from filter(None, files.spans(np.arange(len(files))))
    for files in listing.table.of_kind("list").values():
        rows = np.flatnonzero(np.char.lower(files.stems) == b"classes")
        yield from filter(None, files.spans(rows))


def _data_of(span: FileSpan, listing: Listing) -> DataFile:
    place = listing.files.place(span)
    text = text_of(listing.files.read(span), place)
    return DataFile(spans=(span,), place=place, names=names_of_lines(text, place))


def _pictures_by_folders(folders: Sequence[str], listing: Listing) -> dict[str, Pictures]:
    splits = {folder: _split_of_folder(folder) for folder in folders}
    if "" in splits.values() and len(set(splits.values())) > 1:
        without = next(folder for folder, split in splits.items() if not split)
        problem = f"pictures in {without or '.'!r} are in no folder of a split, others are"
        hint = "name the pictures of each split by --split-file, or in a data.yaml"
        raise SourceError(listing.files.shown, problem, hint)
    found = dict[str, Pictures]()
    for split in SPLITS:
        for folder in folders:
            if (splits[folder] or "train") == split:
                pictures = found.setdefault(split, Pictures(listing.files.shown))
                pictures.add(folder, np.arange(len(listing.table.files[folder, "picture"])))
    return found


def _split_of_folder(folder: str) -> str:
    """The split that the innermost name of a path says; '' for none."""
    return next((split for name in folder.split("/")[::-1] if (split := split_of(name))), "")


def _refuse_nameless(listing: Listing, folders: Mapping[str, str]) -> None:
    """Raise an error where labels are YOLO's for certain, and nothing names their classes."""
    if listing.table.count("annotation") or listing.table.count("json"):
        return
    for folder, beside in folders.items():
        span = some_labels(folder, beside, listing.table)
        if span and span.size < _MOST_LOOKED_AT and _LABELS.fullmatch(listing.files.read(span)):
            problem = f"has labels of YOLO ({span.name}), and nothing that names their classes"
            hint = "write the names, one a line, into a file classes.txt beside the labels"
            raise SourceError(listing.files.shown, problem, hint)
