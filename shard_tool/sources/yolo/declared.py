"""Finds the dataset that a data.yaml or an obj.data declares, and its pictures."""

from __future__ import annotations

from posixpath import join
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.sources.yolo.darknet import MAX_BYTES as MAX_DARKNET_BYTES
from shard_tool.sources.yolo.darknet import parse_obj_data
from shard_tool.sources.yolo.data_yaml import MAX_BYTES as MAX_YAML_BYTES
from shard_tool.sources.yolo.data_yaml import parse_data_yaml
from shard_tool.sources.yolo.pictures import (
    SPLITS,
    Pictures,
    add_folder,
    add_listed,
    label_folders,
    some_labels,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shard_tool.sources.files.file_span import FileSpan
    from shard_tool.sources.files.file_table import FileTable
    from shard_tool.sources.files.listing import Listing
    from shard_tool.sources.yolo.data_file import DataFile
    from shard_tool.sources.yolo.places import Places, TextFile

_MOST_SHOWN = 3


class Dataset(NamedTuple):
    """Names of classes, and the pictures of each split."""

    data: DataFile
    pictures: dict[str, Pictures]
    """By split, in the usual order."""

    @property
    def num_pictures(self) -> int:
        """Number of pictures of all splits, the missing ones of lists too."""
        return sum(map(len, self.pictures.values()))


def data_files(listing: Listing, places: Places) -> Iterator[DataFile]:
    """The files that declare a dataset.

    Raises:
        SourceError: One is broken.
    """
    files = listing.files

    def find(written: str, folder: str) -> tuple[TextFile, bytes] | None:
        found = places.text_file(written, (folder, ""), kinds=("names", "list"))
        return None if found is None else (found, files.read(found.span))

    for span, content in _contents(listing, "yaml", MAX_YAML_BYTES):
        if its := parse_data_yaml(content, span, files.place(span)):
            yield its
    for span, content in _contents(listing, "darknet", MAX_DARKNET_BYTES):
        if its := parse_obj_data(content, span, files.place(span), find):
            yield its


def _contents(listing: Listing, kind: str, max_bytes: int) -> Iterator[tuple[FileSpan, bytes]]:
    """The files of a kind with their contents; no large ones."""
    spans = [
        span
        for files in listing.table.of_kind(kind).values()
        for span in files.spans(np.arange(len(files)))
        if span is not None and span.size <= max_bytes
    ]
    if spans:
        with listing.files.opened() as read:
            yield from zip(spans, read(spans), strict=True)


def declared_dataset(
    declared: Sequence[DataFile], listing: Listing, places: Places, *, needs_splits: bool
) -> Dataset | None:
    """The one dataset that files declare.

    Args:
        declared: What the files say.
        listing: The files of the source.
        places: What lies in it.
        needs_splits: Whether the files have to say where the pictures are.

    Returns:
        None: no picture with labels is where the files say, and there are annotations of another
        format.

    Raises:
        SourceError: The files declare several datasets, or no picture is where they say.
    """
    datasets = [Dataset(data, _pictures_of(data, listing, places)) for data in declared]
    found = [its for its in datasets if its.num_pictures or not needs_splits]
    has_others = any(listing.table.count(kind) for kind in ("annotation", "json"))
    if has_others and not any(_has_labels(its, listing.table) for its in found):
        return None
    if not found:
        told = [path for paths in declared[0].splits.values() for path in paths]
        problem = f"no picture is where it says: {', '.join(map(repr, told[:_MOST_SHOWN]))}"
        raise SourceError(declared[0].place, problem, "correct its paths")
    first, *others = sorted(found, key=lambda its: (its.data.name.count("/"), its.data.name))
    for other in others:
        if not _are_same(first, other):
            problem = f"{first.data.name} and {other.data.name} declare other datasets"
            hint = "convert one folder at a time, or remove the file that is not meant"
            raise SourceError(listing.files.shown, problem, hint)
    return first


def _has_labels(dataset: Dataset, table: FileTable) -> bool:
    every = dict.fromkeys(folder for its in dataset.pictures.values() for folder in its.rows)
    return any(some_labels(*its, table) for its in label_folders(every, table).items())


def _are_same(one: Dataset, other: Dataset) -> bool:
    return (
        one.data.names == other.data.names
        and one.data.num_keypoints == other.data.num_keypoints
        and one.pictures.keys() == other.pictures.keys()
        and all(its.same_as(other.pictures[split]) for split, its in one.pictures.items())
    )


def bases_of(data: DataFile) -> tuple[str, ...]:
    """The folders that paths of a file may be seen from; the first is the one that is meant."""
    own = (data.folder, "")
    return (join(data.folder, data.path), *own) if data.path else own


def _pictures_of(data: DataFile, listing: Listing, places: Places) -> dict[str, Pictures]:
    found = dict[str, Pictures]()
    for split in SPLITS:
        if split not in data.splits:
            continue
        found[split] = pictures = Pictures(data.place)
        for written in data.splits[split]:
            _add(pictures, written, split, data, listing, places)
        if not len(pictures):
            told = ", ".join(map(repr, data.splits[split][:_MOST_SHOWN]))
            pictures.note("split-without-pictures", f"{data.place}: {split}: {told}")
    return found


def _add(
    pictures: Pictures,
    written: str,
    split: str,
    data: DataFile,
    listing: Listing,
    places: Places,
) -> None:
    """Add the pictures of a folder or a list that a file names."""
    bases = bases_of(data)
    if written.casefold().endswith(".txt"):
        text_file = places.text_file(written, bases, split=split)
        if text_file is None:
            return
        path, base = text_file.span.name, text_file.base
        pictures.lists.append(text_file.span)
        pictures.place = listing.files.place(text_file.span)
        content = listing.files.read(text_file.span)
        seen_from = (path.rpartition("/")[0], *bases)
        add_listed(pictures, content, places, bases=seen_from, split=split)
    else:
        folder = places.folder(written, bases, split)
        if folder is None:
            return
        path, base = folder
        add_folder(pictures, path, listing.table)
    if base != 0:
        pictures.note("path-mended", f"{data.place}: {split}: {written!r} is {path or '.'}")
