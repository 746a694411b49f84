"""Reads VOC-like data: pictures, VOC's XML or masks beside them, and perhaps lists of splits.

Covers the formats `voc` (a devkit, or folders of pictures and XML), `voc-flat` (XML beside the
pictures, splits by folders) and `masks` (pictures and masks, no XML).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import OptionError, SourceError
from shard_tool.sources.boxes import CORNERS, DEVKIT
from shard_tool.sources.files.file_table import stems_of
from shard_tool.sources.keys import key_of
from shard_tool.sources.report import Report
from shard_tool.sources.source import Record
from shard_tool.sources.voc.annotation import parse_annotation
from shard_tool.sources.voc.imagesets import (
    LIST_FOLDERS,
    NAMES_OF_SPLIT,
    SPLITS,
    TASK_FOLDERS,
    labelled_names,
    names_any,
)
from shard_tool.sources.voc.picture_index import Named, PictureIndex
from shard_tool.sources.voc.split_lists import class_labels, listed_objects, numbered_lists

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from shard_tool.pictures.masks import Color
    from shard_tool.sources.annotation import Annotation
    from shard_tool.sources.files.archive import FileSpan, SourceFiles
    from shard_tool.sources.files.file_table import FileTable
    from shard_tool.sources.voc.labelmap import LabelMap
    from shard_tool.sources.voc.layout import Layout

_MAX_LIST_BYTES = 1 << 30


@dataclass(frozen=True, slots=False, kw_only=True)
class VocSource:
    """One devkit, or one tree of pictures with XML or masks."""

    files: SourceFiles
    table: FileTable = field(repr=False)
    layout: Layout
    num_bytes: int | None = None
    sha256: str | None = None
    stamp: str = ""
    """Digest of the times of change of a folder's files."""
    labelmap: LabelMap | None = None
    """What a file says of the colours in masks."""
    split_files: Mapping[str, str] = field(default_factory=dict)
    """Split to the path of a local list, which then is the only one of the split."""
    report: Report = field(default_factory=Report, repr=False)
    _known_lists: dict[FileSpan, Named] = field(default_factory=dict, repr=False)
    _known_rows: dict[str, dict[str, int]] = field(default_factory=dict, repr=False)

    @property
    def format(self) -> str:
        """'voc', 'voc-flat' or 'masks'."""
        return self.layout.format

    @property
    def evidence(self) -> str:
        """What tells the format."""
        return self.layout.evidence

    @property
    def year(self) -> str:
        """The year in the name of a devkit's folder: '2007' … '2012', or 'unknown'."""
        folder = self.layout.root or ("" if self.files.is_archive else self.files.where)
        match = re.fullmatch(r"VOC(\d{4})", folder.rpartition("/")[2])
        return match[1] if match else "unknown"

    @property
    def is_listed(self) -> bool:
        """Whether there are lists."""
        return bool(self.layout.lists or self.split_files)

    @property
    def colors(self) -> tuple[tuple[str, Color], ...]:
        """Class and colour in masks, in the order that a file says; empty where none does."""
        return () if self.labelmap is None else self.labelmap.colors

    @property
    def void_colors(self) -> tuple[Color, ...]:
        """Colours of what is not judged, as a file says it."""
        return () if self.labelmap is None else self.labelmap.void

    @property
    def parser(self) -> Callable[[bytes, str], Annotation]:
        """Parses VOC's XML."""
        return parse_xml

    @property
    def conventions(self) -> tuple[str, ...]:
        """VOC's XML does not say which of the two it follows."""
        return (DEVKIT, CORNERS)

    @property
    def class_ids(self) -> Mapping[str, int]:
        """None: XML has names alone."""
        return {}

    @cached_property
    def index(self) -> PictureIndex:
        """Where pictures and what annotates them lie, by id."""
        return PictureIndex.of(self.table, self.layout)

    # Splits ---------------------------------------------------------------------------------------

    def splits(self, task: str) -> tuple[str, ...]:
        """The splits that have pictures: lists of the task, or folders, or all as 'train'."""
        if self.split_files:
            return tuple(self.split_files)
        if not self.layout.lists:
            found = {part.split or "train" for part in self.layout.parts}
            return tuple(split for split in SPLITS if split in found)
        return tuple(split for split in SPLITS if self._names_pictures(task, split))

    def check_split(self, task: str, split: str) -> None:
        """Check that a split has pictures.

        Raises:
            SourceError: There is no such list or it is empty (names the lists with pictures), or it
                is the list of a class, whose second column says which pictures show the class.
        """
        if split in self.splits(task):
            return
        if not (self.layout.lists and len(self._named(task, split)[0].ids)):
            self._no_split(task, split, ", ".join(self.splits(task)) or "none")

    def _no_split(self, task: str, split: str, there: str) -> None:
        if not self.layout.lists:
            problem = f"has no split {split!r}"
            raise SourceError(self.files.shown, problem, f"splits by folders: {there}")
        span, place = self.list_of(TASK_FOLDERS[task], split), self.split_place(task, split)
        problem = "the split list is empty" if span else "there is no such split list"
        raise SourceError(place, problem, f"lists with pictures in them: {there}")

    def split_place(self, task: str, split: str) -> str:
        """What names the pictures of a split, for messages: its list, or its folders."""
        if split in self.split_files:
            return self.split_files[split]
        if not self.layout.lists:
            return self.files.shown
        span = self.list_of(TASK_FOLDERS[task], split)
        spans = [span] if span else self._lists_of_classes(task, split)
        return self.place(spans[0] if spans else f"{self.lists_folder(task)}/{split}.txt")

    def _names_pictures(self, task: str, split: str) -> bool:
        span = self.list_of(TASK_FOLDERS[task], split)
        if span is None:
            return bool(len(self._named(task, split)[0].ids))
        # A picture called '#1' looks like a comment as long as nobody knows the pictures.
        named = names_any(self.read(span), place=self.place(span))
        return named or bool(len(self._named_in(span).ids))

    def list_of(self, folder: str, name: str) -> FileSpan | None:
        """Where the list ``ImageSets/<folder>/<name>.txt`` lies, in any usual spelling and case."""
        path = self.layout.lists.get(folder)
        files = None if path is None else self.table.files.get((path, "list"))
        if path is None or files is None:
            return None
        usual = NAMES_OF_SPLIT.get(name, (name,))
        if span := next((span for its in usual if (span := files.find(its))), None):
            return span
        rows = self._list_rows(path)
        row = next((rows[folded] for its in usual if (folded := its.casefold()) in rows), None)
        return None if row is None else files.span(row)

    def _list_rows(self, path: str) -> dict[str, int]:
        """Name in lower case to its row, of each list in a folder."""
        if path not in self._known_rows:
            stems = [*stems_of(self.table.files[path, "list"])]
            rows = {stem.casefold(): row for row, stem in reversed([*enumerate(stems)])}
            self._known_rows[path] = rows
        return self._known_rows[path]

    def _lists_of_classes(self, task: str, split: str) -> list[FileSpan]:
        """The lists of classes that say the pictures of a split where no list of pictures does.

        VoTT writes no others. Each of them names all pictures of its split.
        """
        path = self.layout.lists.get("Main")
        if path is None or TASK_FOLDERS[task] != "Main":
            return []
        if any(self.list_of("Main", its) for its in (*SPLITS, split)):
            return []
        files = self.table.files[path, "list"]
        rows = [row for name, row in self._list_rows(path).items() if name.endswith(f"_{split}")]
        return [files.span(row) for row in sorted(rows)]

    def lists_folder(self, task: str) -> str:
        """Path of a task's folder of lists, also of one that is missing."""
        folder = TASK_FOLDERS[task]
        known = self.layout.lists.get(folder)
        return known or f"{self.layout.root}/ImageSets/{folder}".lstrip("/")

    def lists(self, task: str, splits: Sequence[str]) -> list[FileSpan]:
        """The lists that decide what a conversion takes, sorted."""
        found = {span for _, span in self._plain_lists(splits)}
        found.update(*(self._lists_of_classes(task, split) for split in splits))
        return sorted({*found, *numbered_lists(self, task, splits)})

    def _plain_lists(self, splits: Sequence[str]) -> list[tuple[str, FileSpan]]:
        """The lists of pictures by name ('Main/train'), sorted."""
        return [
            (f"{folder}/{split}", span)
            for folder in sorted(LIST_FOLDERS)
            for split in sorted({*SPLITS, *splits})
            if (span := self.list_of(folder, split))
        ]

    def read(self, span: FileSpan) -> bytes:
        """Read a list.

        Raises:
            SourceError: As `SourceFiles.opened`; or the list is absurdly long.
        """
        if span.size > _MAX_LIST_BYTES:
            problem = f"{span.size} bytes are too many for a list (most: {_MAX_LIST_BYTES})"
            raise SourceError(self.place(span), problem)
        return self.files.read(span)

    def place(self, span: FileSpan | str) -> str:
        """Name of a file in messages."""
        return self.files.place(span)

    # Records --------------------------------------------------------------------------------------

    def records(self, task: str, split: str) -> Iterator[Record]:
        """The records of a split, sorted by id; empty if it has no such split."""
        has_xml = any(part.annotations is not None for part in self.layout.parts)
        if task != "segmentation" and not has_xml and not numbered_lists(self, task, [split]):
            problem = f"has no annotations for {task}: found {self.evidence}"
            raise SourceError(self.files.shown, problem, "add --task segmentation")
        ids, bits = self._ids(task, split)
        if not len(ids):
            return
        numbers = listed_objects(self, task, split) if task in ("layout", "action") else {}
        names = [name for name, _ in self._plain_lists([split])]

        @cache
        def sets_of(bit: int) -> tuple[str, ...]:
            return tuple(name for at, name in enumerate(names) if bit >> at & 1)

        for found, bit in zip(self.index.found(ids), bits.tolist(), strict=True):
            key = key_of(found.id)
            yield Record(
                key=key,
                id=found.id,
                source=self.files.number,
                image=found.image,
                annotation=found.annotation,
                class_mask=found.class_mask if task == "segmentation" else None,
                object_mask=found.object_mask if task == "segmentation" else None,
                expected_image=found.expected_image,
                expected_annotation=found.expected_annotation,
                expected_mask=found.expected_mask,
                image_sets=sets_of(bit),
                listed_objects=numbers.get(found.id),
                is_plain=found.image is None or found.image.name.endswith(f"/{key}.jpg"),
            )

    def _ids(self, task: str, split: str) -> tuple[NDArray[np.bytes_], NDArray[np.uint64]]:
        """The ids of a split, sorted, and which plain lists name each, as bits; notes odd lines."""
        if split not in self.split_files and not self.layout.lists:
            ids = self.index.ids_of_split(split)
            return ids, np.zeros(len(ids), np.uint64)
        named, place = self._named(task, split)
        if split in self.split_files:  # the manifest must not say where it lay
            place = Path(place).name
        if TASK_FOLDERS[task] in ("Main", "Segmentation"):  # others name a picture several times
            self.report.add("list-name-twice", place, named.num_twice)
            self.report.add("list-line-other", place, named.num_other)
            for span in () if split in self.split_files else self._lists_of_classes(task, split):
                self.report.add("split-of-classes", self.place(span))
        ids = named.ids
        bits = np.zeros(len(ids), np.uint64)
        for at, (_, span) in enumerate(self._plain_lists([split])):
            bits[np.isin(ids, self._named_in(span).ids)] |= np.uint64(1 << at)
        return ids, bits

    def _named(self, task: str, split: str) -> tuple[Named, str]:
        """What the list of a split names, and the list's place."""
        if split in self.split_files:
            return self._named_in_file(split), self.split_files[split]
        span = self.list_of(TASK_FOLDERS[task], split)
        if span is None:
            return self._named_by_classes(task, split)
        named, place = self._named_in(span), self.place(span)
        if named.has_labels and TASK_FOLDERS[task] in ("Main", "Segmentation"):
            problem = "is a list of a class, with labels: its pictures are those of its split"
            raise SourceError(place, problem, "name a list of ids, such as train")
        return named, place

    def _named_by_classes(self, task: str, split: str) -> tuple[Named, str]:
        """All that the lists of classes of a split name; nothing if one has lines without label."""
        names: dict[str, None] = {}
        spans = self._lists_of_classes(task, split)
        for span in spans:
            its = labelled_names(self.read(span), place=self.place(span))
            if its is None:
                return Named(np.zeros(0, "S1"), 0, 0, has_labels=False), ""
            names.update(dict.fromkeys(its))
        place = self.place(spans[0]) if spans else ""
        named = self.index.named("\n".join(names).encode(), place=place)
        return named._replace(num_other=0, num_twice=0), place

    def _named_in(self, span: FileSpan) -> Named:
        if span not in self._known_lists:
            named = self.index.named(self.read(span), place=self.place(span))
            self._known_lists[span] = named
        return self._known_lists[span]

    def _named_in_file(self, split: str) -> Named:
        path = Path(self.split_files[split])
        try:
            content = path.read_bytes()
        except OSError as exc:
            problem = f"cannot be read: {exc.strerror or exc}"
            raise OptionError(f"--split-file {split}={path}", problem) from exc
        named = self.index.named(content, place=str(path))
        if not len(named.ids):
            raise OptionError(f"--split-file {split}={path}", "names no picture")
        return named

    def class_labels(
        self, split: str, ids: NDArray[np.bytes_], classes: Sequence[str]
    ) -> NDArray[np.int8] | None:
        """For classification: int8 [ids, classes], VOC's -1, 0 or 1; None: no list says it."""
        return class_labels(self, split, ids, classes)

    def other_splits(self, task: str) -> tuple[str, ...]:
        """Names of lists beside those of the usual splits; no lists of classes."""
        usual = {span.name for split in SPLITS if (span := self.list_of(TASK_FOLDERS[task], split))}
        path = self.layout.lists.get(TASK_FOLDERS[task])
        spans = [span for folder, span in self._lists_of_pictures() if folder == path]
        return tuple(Path(span.name).stem for span in spans if span.name not in usual)

    def _lists_of_pictures(self) -> Iterator[tuple[str, FileSpan]]:
        """(folder, list) of each list but those of classes."""
        for path in self.layout.lists.values():
            files = self.table.files[path, "list"]
            for span in map(files.span, range(len(files))):
                if "_" not in Path(span.name).stem:
                    yield path, span

    def check_unlisted(self, task: str, splits: Sequence[str]) -> None:
        """Note what is left out whatever splits are converted.

        That are pictures that no list names or lists of other names alone, and XML, or masks for
        segmentation, that belong to no picture.
        """
        apart = [(folder, self.table.files[folder, "picture"]) for folder in self.layout.apart]
        for _, files in apart:
            self.report.add("picture-apart", self.place(files.span(0)), len(files))
        known = {span.name for _, span in self._plain_lists(splits)}
        usual, others = [np.zeros(0, "S1")], [np.zeros(0, "S1")]
        if self.split_files:
            usual += [self._named_in_file(split).ids for split in self.split_files]
        else:
            usual += [self._named_by_classes(task, split)[0].ids for split in splits]
            for _, span in self._lists_of_pictures():
                (usual if span.name in known else others).append(self._named_in(span).ids)
        named = np.concatenate(usual)
        for span, count in self.index.without_picture(self.layout.unpaired, named):
            self.report.add("annotation-without-picture", self.place(span), count)
        for span, count in self.index.masks_without_picture(named):
            if task == "segmentation":
                self.report.add("mask-without-picture", self.place(span), count)
        if not self.is_listed:
            return
        is_usual = np.isin(self.index.ids, named)
        is_other = np.isin(self.index.ids, np.concatenate(others))
        self._note_rows("in-no-list", ~(is_usual | is_other))
        self._note_rows("in-other-list", is_other & ~is_usual)

    def _note_rows(self, code: str, is_left_out: NDArray[np.bool_]) -> None:
        rows = np.flatnonzero(is_left_out)
        if len(rows):
            self.report.add(code, self.place(self.index.span_at(int(rows[0]))), len(rows))

    def identity_sha256(self) -> str:
        """Digest that tells on this machine whether the source is the same; reads no content.

        It covers names, offsets and sizes, and what shows a change of content: the SHA-256 of a
        remote archive, the times of change of local files.
        """
        changed = self.sha256 or self.files.state or self.stamp
        lists = sorted(self.split_files.items())
        its = f"{self.table.sha256()} {changed} {self.layout.root}"
        for _, path in lists:
            its += sha256(Path(path).read_bytes()).hexdigest()
        return sha256(its.encode()).hexdigest()


def parse_xml(content: bytes, place: str) -> Annotation:
    """Parse an annotation: what `VocSource.parser` is."""
    return parse_annotation(content, place=place)
