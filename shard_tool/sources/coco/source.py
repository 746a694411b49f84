"""Reads COCO JSON as a source of records: one document for each picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.sources.coco.annotation import parse_document
from shard_tool.sources.coco.categories import digest_of
from shard_tool.sources.files.archive import FileSpan
from shard_tool.sources.keys import key_of
from shard_tool.sources.plain_source import PlainSource
from shard_tool.sources.source import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.annotation import Annotation
    from shard_tool.sources.coco.content import CocoJson
    from shard_tool.sources.coco.images import Images

_AT_A_TIME = 1024
_TASKS_WITHOUT = ("segmentation", "layout", "action")


@dataclass(frozen=True, kw_only=True)
class CocoSource(PlainSource):
    """COCO JSON files that agree on the ids of their categories.

    Where files of one source do not, such as those of train and val, each is a source of its own:
    the manifest holds one map of ids for each.
    """

    images: Images = field(repr=False)
    """Those of all files, of other sources too."""
    members: tuple[int, ...]
    """Numbers of this source's files among them."""
    chosen: Mapping[str, Sequence[NDArray[np.int64]]] = field(repr=False)
    """Split to the rows of its images in each of all files, where the user's lists say them."""
    parents: frozenset[str]
    """Categories that no object has and that are the parents of others: no classes."""

    @property
    def format(self) -> str:
        """'coco'."""
        return "coco"

    @property
    def is_listed(self) -> bool:
        """A file lists all pictures."""
        return True

    @property
    def parser(self) -> Callable[[bytes, str], Annotation]:
        """Parses the document of a picture."""
        names = {digest_of(its.categories): its.names for its in self._files}
        return partial(parse_document, names=names)

    @property
    def _files(self) -> list[CocoJson]:
        return [self.images.files[at] for at in self.members]

    @cached_property
    def class_ids(self) -> Mapping[str, int]:
        """Name of each category but parents to its id."""
        found = {(its.id, its.name) for file in self._files for its in file.categories}
        return {name: id_ for id_, name in sorted(found) if name not in self.parents}

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits of its files, or of the user's lists that name pictures of them."""
        if self.chosen:
            its = self.chosen.items()
            return tuple(split for split, rows in its if any(len(rows[at]) for at in self.members))
        return tuple(self.images.splits[at] for at in self.members if self.images.files[at].images)

    def check_split(self, task: str, split: str) -> None:
        """Check that there is a split of this name, in this source or another one of these files.

        Raises:
            SourceError: There is none; names those there are.
        """
        if split not in self.chosen and split not in self.images.splits:
            super().check_split(task, split)

    def split_place(self, task: str, split: str) -> str:
        """The list or the JSON file of a split."""
        if split in self.images.splits and split not in self.split_files:
            return self.images.files[self.images.splits.index(split)].place
        return super().split_place(task, split)

    def check_unlisted(self, task: str, splits: Sequence[str]) -> None:
        """Report pictures that no file or, where the user has lists, no list names."""
        del task, splits
        if self.members[0]:
            return  # the first source does
        is_taken = [np.zeros(len(its.images), np.bool_) for its in self.images.files]
        for rows in self.chosen.values():
            for taken, its in zip(is_taken, rows, strict=True):
                taken[its] = True
        self.images.note_unlisted(is_taken if self.chosen else None)

    def records(self, task: str, split: str) -> Iterator[Record]:
        """The records of a split, sorted by id.

        Raises:
            SourceError: COCO has no annotations for this task.
        """
        if task in _TASKS_WITHOUT:
            problem = f"has no annotations for {task}: found {self.evidence}"
            raise SourceError(self.files.shown, problem, "add --task detection")
        of, rows, ids = self._of_split(split)
        order = np.argsort(ids, kind="stable")
        for first in range(0, len(order), _AT_A_TIME):
            some = order[first : first + _AT_A_TIME]
            numbers = np.array(
                [self.images.numbers[at][row] for at, row in zip(of[some], rows[some], strict=True)]
            )
            spans = self.images.pictures.spans(numbers)
            for at, row, id_, span in zip(
                of[some].tolist(), rows[some].tolist(), ids[some].tolist(), spans, strict=True
            ):
                yield self._record(at, row, id_.decode("utf-8", "surrogateescape"), span)

    def _of_split(
        self, split: str
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bytes_]]:
        """Number of the file, row and id of each image of a split."""
        of, rows, ids = [], [], []
        for at in self.members:
            its = self.images.ids(at)
            if self.chosen:
                chosen = self.chosen[split][at] if split in self.chosen else np.zeros(0, np.int64)
            else:
                chosen = np.arange(len(its) if self.images.splits[at] == split else 0)
            of.append(np.full(len(chosen), at))
            rows.append(chosen)
            ids.append(its[chosen])
        return np.concatenate(of), np.concatenate(rows), np.concatenate(ids)

    def _record(self, at: int, row: int, id_: str, image: FileSpan | None) -> Record:
        file = self.images.files[at]
        document = file.document(row)
        span = FileSpan(f"{file.span.name}#{file.image_ids[row]}", 0, len(document))
        return Record(
            key=key_of(id_),
            id=id_,
            source=self.files.number,
            image=image,
            annotation=span,
            expected_image=self.images.expected(at, row) if image is None else image.name,
            expected_annotation=span.name,
            is_plain=False,
            document=document,
        )
