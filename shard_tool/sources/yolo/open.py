"""Finds YOLO data among the files of a source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shard_tool.errors import OptionError
from shard_tool.sources.found import Found
from shard_tool.sources.yolo.by_names import dataset_by_names
from shard_tool.sources.yolo.declared import bases_of, data_files, declared_dataset
from shard_tool.sources.yolo.pictures import Pictures, add_listed
from shard_tool.sources.yolo.places import Places
from shard_tool.sources.yolo.source import YoloSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shard_tool.sources.files.listing import Listing
    from shard_tool.sources.yolo.declared import Dataset


def find_yolo(listing: Listing, split_files: Mapping[str, str]) -> Found | None:
    """Find a dataset by its data.yaml or obj.data, else by names of classes and by labels.

    Args:
        listing: The files of the source.
        split_files: Split to the path of a local list of its pictures.

    Returns:
        None: there is nothing of YOLO's.

    Raises:
        SourceError: There is, and it is broken, or files declare several datasets.
    """
    files = listing.files
    places = Places(listing.table, "" if files.is_archive else files.where, files.shown)
    needs_splits = not split_files
    if declared := [*data_files(listing, places)]:
        dataset = declared_dataset(declared, listing, places, needs_splits=needs_splits)
    else:
        dataset = dataset_by_names(listing, needs_splits=needs_splits)
    if dataset is None:
        return None
    evidence = _evidence(dataset)
    return Found("yolo", evidence, lambda: [_open(listing, places, dataset, evidence, split_files)])


def _evidence(dataset: Dataset) -> str:
    data, count = dataset.data, len(dataset.data.names)
    told = f"{data.name} names {count} {'class' if count == 1 else 'classes'}"
    notes = [*data.notes, *(note for its in dataset.pictures.values() for note in its.notes)]
    if mended := sum(code == "path-mended" for code, _ in notes):
        told += f"; {mended} paths were found by how they end"
    return told


def _open(
    listing: Listing,
    places: Places,
    dataset: Dataset,
    evidence: str,
    split_files: Mapping[str, str],
) -> YoloSource:
    """Open a dataset, and report what was odd about it."""
    pictures = dataset.pictures
    if split_files:
        pictures = {split: Pictures(path) for split, path in split_files.items()}
        for split, its in pictures.items():
            content = YoloSource.read_list(split, its.place)
            add_listed(its, content, places, bases=bases_of(dataset.data), split=split)
            if not len(its):
                raise OptionError(f"--split-file {split}={its.place}", "names no picture")
    for code, example in dataset.data.notes:
        listing.report.add(code, example)
    for its in pictures.values():
        for code, example in its.notes:
            # The manifest must not say where a local list lay.
            shown = example.replace(its.place, Path(its.place).name) if split_files else example
            listing.report.add(code, shown)
    source = YoloSource(
        listing=listing,
        evidence=evidence,
        split_files=split_files,
        data=dataset.data,
        pictures={split: its for split, its in pictures.items() if len(its)},
    )
    listing.check_twice(source.folders())
    return source
