"""A source that knows each of its pictures, and what annotates it, once it is opened.

So do formats whose annotations name their pictures: they have to be read before anybody knows which
picture has which. The annotations wait in a `Spool`.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shard_tool.errors import OptionError, SourceError
from shard_tool.sources.files.file_span import FileSpan, slashed
from shard_tool.sources.files.file_table import KIND_OF_SUFFIX
from shard_tool.sources.files.spool import Spool
from shard_tool.sources.keys import key_of
from shard_tool.sources.plain_source import PlainSource
from shard_tool.sources.source import Record
from shard_tool.sources.voc.imagesets import SPLITS
from shard_tool.sources.voc.picture_index import PictureIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from shard_tool.errors import DataError
    from shard_tool.sources.annotation import Annotation


class Indexed(NamedTuple):
    """A picture and what annotates it, or an annotation whose picture is not found."""

    id: str
    """The picture's path below the source, without suffix."""
    split: str
    image: FileSpan | None
    annotation: str | None
    """Name of its annotation in messages, or of the one that it lacks; None: it needs none."""
    document: tuple[int, int] | None = None
    """Where its annotation lies in the spool: offset and length; None: it has none."""
    classes: tuple[str, ...] | None = None
    """As `Record.shown_classes`."""
    problem: DataError | None = None
    """Why it cannot become a sample."""


@dataclass(frozen=True, kw_only=True)
class IndexedSource(PlainSource):
    """Pictures with their annotations."""

    format: str
    parser: Callable[[bytes, str], Annotation]
    class_ids: Mapping[str, int]
    pictures: Sequence[Indexed] = field(repr=False)
    """Sorted by id."""
    spool: Spool = field(default_factory=Spool, repr=False)
    tasks: tuple[str, ...] = ()
    """Tasks that its annotations are for; empty: any."""

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that have pictures: the usual ones first."""
        found = set(self.split_files) or {its.split for its in self.pictures}
        usual = [split for split in SPLITS if split in found]
        return (*usual, *sorted(found.difference(SPLITS)))

    def records(self, task: str, split: str) -> Iterator[Record]:
        """The records of a split, sorted by id.

        Raises:
            SourceError: Its annotations are not for this task.
        """
        if self.tasks and task not in self.tasks:
            problem = f"has no annotations for {task}: found {self.evidence}"
            raise SourceError(self.files.shown, problem, f"add --task {self.tasks[0]}")
        if not self.split_files:
            yield from (self._record(its) for its in self.pictures if its.split == split)
        elif split in self.split_files:
            known = {its.id: its for its in self.pictures}
            named, place = self._named(split), Path(self.split_files[split]).name
            self.report.add("list-name-twice", place, named.num_twice)  # not where the list lay
            self.report.add("list-line-other", place, named.num_other)
            for id_ in named.ids:
                yield self._record(known.get(id_) or Indexed(id_, split, None, id_))

    def _record(self, its: Indexed) -> Record:
        document = annotation = None
        if its.document is not None and its.annotation is not None:
            document = self.spool.read(*its.document)
            annotation = FileSpan(its.annotation, 0, len(document))
        return Record(
            key=key_of(its.id),
            id=its.id,
            source=self.files.number,
            image=its.image,
            annotation=annotation,
            expected_image=its.id if its.image is None else its.image.name,
            expected_annotation=its.annotation,
            is_plain=False,
            document=document,
            shown_classes=its.classes,
            problem=its.problem,
        )

    def check_unlisted(self, task: str, splits: Sequence[str]) -> None:
        """Report the pictures that no list names, if there are lists."""
        del task, splits
        named = {id_ for split in self.split_files for id_ in self._named(split).ids}
        rest = [its for its in self.pictures if its.id not in named] if self.split_files else []
        if rest:
            self.report.add("in-no-list", self.files.place(rest[0].image or rest[0].id), len(rest))

    def _named(self, split: str) -> _Named:
        """What the list of a split names: ids, or the ends of paths that one id alone has.

        Raises:
            OptionError: It cannot be read, or names nothing.
            SourceError: It is not text.
        """
        path = self.split_files[split]
        ids = np.array([_encoded(its.id) for its in self.pictures], np.bytes_)
        none = np.zeros(len(ids), np.int64)
        index = PictureIndex(ids, none.astype(np.uint8), none, (), self.listing.table)
        lines = index.named(self.read_list(split, path), place=path)
        if not len(lines.ids):
            raise OptionError(f"--split-file {split}={path}", "names no picture")
        texts = [id_.decode("utf-8", "surrogateescape") for id_ in lines.ids.tolist()]
        ends = defaultdict[str, list[str]](list)
        for its in self.pictures:
            ends[posixpath.basename(its.id)].append(its.id)
        found = dict.fromkeys(_meant(text, ends) for text in texts)
        num_other = lines.num_other + sum(text not in found for text in texts)
        num_twice = lines.num_twice + len(texts) - len(found)
        return _Named(sorted(found, key=_encoded), num_other, num_twice)


class _Named(NamedTuple):
    """What a list says; as `picture_index.Named`."""

    ids: list[str]
    num_other: int
    num_twice: int


def _meant(text: str, ends: Mapping[str, Sequence[str]]) -> str:
    """The id that a line means; the line itself, where it means none or several."""
    name = slashed(text)
    stem, dot, suffix = name.rpartition(".")
    names = (name, stem) if KIND_OF_SUFFIX.get(f"{dot}{suffix.lower()}") == "picture" else (name,)
    for its in names:
        found = [id_ for id_ in ends.get(posixpath.basename(its), ()) if _ends(id_, its)]
        if len(found) == 1:
            return found[0]
    return text


def _ends(id_: str, with_: str) -> bool:
    return f"/{id_}".endswith(f"/{with_}")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def id_of(image: FileSpan) -> str:
    """The path of a picture below its source, without suffix.

    >>> id_of(FileSpan("train/a.b.jpg", 0, 1))
    'train/a.b'
    """
    return image.name.rpartition(".")[0]


def sorted_by_id(pictures: Sequence[Indexed]) -> tuple[Indexed, ...]:
    """In the order of ids, as bytes: that of records."""
    return tuple(sorted(pictures, key=lambda its: _encoded(its.id)))
