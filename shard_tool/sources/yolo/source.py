"""A YOLO dataset: pictures, a text file of labels for each, and names of classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from posixpath import join
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.sources.boxes import NORMALIZED
from shard_tool.sources.keys import key_of
from shard_tool.sources.plain_source import PlainSource
from shard_tool.sources.source import Record
from shard_tool.sources.yolo.labels import parse_labels
from shard_tool.sources.yolo.pictures import label_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.annotation import Annotation
    from shard_tool.sources.files.file_span import FileSpan
    from shard_tool.sources.yolo.data_file import DataFile
    from shard_tool.sources.yolo.pictures import Pictures

_AT_A_TIME = 4096
_WITHOUT_OBJECTS = ("segmentation", "layout", "action")
"""Tasks that need more than YOLO's labels say."""
_OF_LABELS = ("labels", "label")


class _Sorted(NamedTuple):
    """The pictures of a split in the order of their ids."""

    ids: NDArray[np.bytes_]
    folders: NDArray[np.int64]
    """[pictures]: number of each picture's folder; -1 for one that is missing."""
    rows: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class YoloSource(PlainSource):
    """One dataset."""

    data: DataFile
    pictures: Mapping[str, Pictures] = field(repr=False)
    """Split to its pictures, in the usual order of splits."""

    @property
    def format(self) -> str:
        """Always 'yolo'."""
        return "yolo"

    @property
    def is_listed(self) -> bool:
        """Whether lists name its pictures; else they are whatever lies in its folders."""
        return bool(self.split_files) or any(its.lists for its in self.pictures.values())

    @property
    def parser(self) -> Callable[[bytes, str], Annotation]:
        """Reads the labels of a picture."""
        its = self.data
        return partial(parse_labels, names=dict(its.names), num_keypoints=its.num_keypoints)

    @property
    def conventions(self) -> tuple[str, ...]:
        """Numbers are parts of the picture."""
        return (NORMALIZED,)

    @property
    def class_ids(self) -> Mapping[str, int]:
        """Name of each class to its number, from 0."""
        return {name: number for number, name in self.data.names.items()}

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that have pictures."""
        return tuple(self.pictures)

    def split_place(self, task: str, split: str) -> str:
        """What names the pictures of a split, for messages."""
        its = self.pictures.get(split)
        return super().split_place(task, split) if its is None else its.place

    @cached_property
    def _labels(self) -> dict[str, str]:
        """Folder of pictures to that of their labels, of all splits and of none."""
        return label_folders(self.listing.table.of_kind("picture"), self.listing.table)

    def folders(self) -> set[str]:
        """All folders whose files may be read."""
        taken = {folder for its in self.pictures.values() for folder in its.rows}
        return taken | {self._labels[folder] for folder in taken}

    def lists(self, task: str, splits: Sequence[str]) -> list[FileSpan]:
        """The files of names and the lists of splits."""
        del task
        of_splits = (its.lists for split, its in self.pictures.items() if split in splits)
        return sorted({*self.data.spans, *(span for its in of_splits for span in its)})

    # Records --------------------------------------------------------------------------------------

    def records(self, task: str, split: str) -> Iterator[Record]:
        """The records of a split, sorted by id; empty if it has no such split.

        Raises:
            SourceError: The task needs what YOLO's labels do not say.
        """
        if task in _WITHOUT_OBJECTS:
            problem = f"has no annotations for {task}: found {self.format} ({self.evidence})"
            raise SourceError(self.files.shown, problem, "add --task detection")
        pictures = self.pictures.get(split)
        if pictures is None:
            return
        its = self._sorted(pictures)
        names = list(pictures.rows)
        for first in range(0, len(its.ids), _AT_A_TIME):
            some = slice(first, first + _AT_A_TIME)
            part = _Sorted(its.ids[some], its.folders[some], its.rows[some])
            yield from self._some(part, names)

    def _sorted(self, pictures: Pictures) -> _Sorted:
        columns = [(_encoded(pictures.missing), -1, np.full(len(pictures.missing), -1))]
        for number, (folder, rows) in enumerate(pictures.rows.items()):
            stems = self.listing.table.files[folder, "picture"].stems[rows]
            ids = np.char.add(_encoded([f"{folder}/"]), stems) if folder else stems
            columns.append((ids, number, rows))
        ids = np.concatenate([its for its, _, _ in columns])
        folders = np.concatenate([np.full(len(its), number) for its, number, _ in columns])
        rows = np.concatenate([rows for _, _, rows in columns])
        order = np.argsort(ids, kind="stable")
        return _Sorted(ids[order], folders[order], rows[order])

    def _some(self, part: _Sorted, names: Sequence[str]) -> list[Record]:
        found: dict[int, Record] = {}
        texts = [id_.decode("utf-8", "surrogateescape") for id_ in part.ids.tolist()]
        for number in np.unique(part.folders).tolist():
            places = np.flatnonzero(part.folders == number)
            ids = [texts[place] for place in places.tolist()]
            if number < 0:
                records = [self._missing(id_) for id_ in ids]
            else:
                records = self._of_folder(names[number], ids, part.rows[places])
            found |= dict(zip(places.tolist(), records, strict=True))
        return [found[place] for place in range(len(texts))]

    def _of_folder(self, folder: str, ids: Sequence[str], rows: NDArray[np.int64]) -> list[Record]:
        table, beside = self.listing.table, self._labels[folder]
        files, labels = table.files[folder, "picture"], table.files.get((beside, "list"))
        none: list[FileSpan | None] = [None] * len(ids)
        spans = none if labels is None else labels.spans(labels.rows(files.stems[rows]))
        return [
            Record(
                key=key_of(id_),
                id=id_,
                source=self.files.number,
                image=image,
                annotation=label,
                expected_image=id_,
                expected_annotation=join(beside, f"{id_.rpartition('/')[2]}.txt"),
                is_plain=False,
            )
            for id_, image, label in zip(ids, files.spans(rows), spans, strict=True)
        ]

    def _missing(self, id_: str) -> Record:
        """The record of a picture that a list names and that is not there."""
        return Record(
            key=key_of(id_),
            id=id_,
            source=self.files.number,
            image=None,
            annotation=None,
            expected_image=id_,
            expected_annotation=f"{id_}.txt",
            is_plain=False,
        )

    # What is left out -----------------------------------------------------------------------------

    def check_unlisted(self, task: str, splits: Sequence[str]) -> None:
        """Report pictures of no split, and labels of no picture."""
        del task, splits
        table = self.listing.table
        for folder, files in table.of_kind("picture").items():
            taken = [its.rows[folder] for its in self.pictures.values() if folder in its.rows]
            rows = np.setdiff1d(np.arange(len(files)), np.concatenate(taken) if taken else [])
            if len(rows):
                code = "in-no-list" if taken else "picture-apart"
                place = self.files.place(files.span(int(rows[0])))
                self.report.add(code, place, len(rows))
        self._report_labels()

    def _report_labels(self) -> None:
        """Report labels without a picture: in folders of labels, whatever they are called."""
        table = self.listing.table
        pictures_of = dict[str, list[str]]()
        for folder, beside in self._labels.items():
            pictures_of.setdefault(beside, []).append(folder)
        others = {span.name for its in self.pictures.values() for span in its.lists}
        others |= {span.name for span in self.data.spans}
        for folder, files in table.of_kind("list").items():
            is_of_labels = any(name.casefold() in _OF_LABELS for name in folder.split("/"))
            if folder not in pictures_of and not is_of_labels:
                continue
            stems = [table.files[its, "picture"].stems for its in pictures_of.get(folder, ())]
            rows = np.flatnonzero(~np.isin(files.stems, np.concatenate([*stems, _encoded([])])))
            spans = [span for span in files.spans(rows) if span and not _is_other(span, others)]
            if spans:
                place = self.files.place(spans[0])
                self.report.add("annotation-without-picture", place, len(spans))


def _is_other(span: FileSpan, others: set[str]) -> bool:
    """Whether a text file is no labels: a list, names, or what tools write for people."""
    name = span.name.rpartition("/")[2].casefold()
    return span.name in others or name == "classes.txt" or name.startswith("readme")


def _encoded(names: Sequence[str]) -> NDArray[np.bytes_]:
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    return np.array(encoded, np.bytes_) if encoded else np.zeros(0, "S1")
