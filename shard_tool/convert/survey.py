"""Reads all annotations of the sources before anything is planned or written.

The names found decide the classes, the numbers found tell the box convention, and every annotation
that cannot be read is known at once. Records go on to the plan with their annotation parsed, so no
annotation is read twice. Many processes share the work.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shard_tool.convert.files_needed import check_files
from shard_tool.convert.packed import Read, packed
from shard_tool.convert.source_digests import ReadFiles
from shard_tool.errors import DataError
from shard_tool.format.tar import BLOCK
from shard_tool.sources.report import Report
from shard_tool.tasks.engines import LOCAL
from shard_tool.tasks.pool import in_order, open_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from shard_tool.convert.rules import Unlabelled
    from shard_tool.sources.annotation import Annotation
    from shard_tool.sources.files.archive import SourceFiles
    from shard_tool.sources.files.spool import Spool
    from shard_tool.sources.source import Record, Source

_AT_A_TIME = 512
"""Records of one task."""
_FEW = 1500
"""So many records are read in this process: another one takes longer to start."""
_MAX_ANNOTATION_BYTES = 1 << 22
_MOST_ERRORS = 1000
"""How many errors are kept; the rest is counted."""


@dataclass(slots=True)
class Evidence:
    """What the numbers of boxes tell of their convention."""

    num_boxes: int = 0
    num_zero: int = 0
    """Boxes with a 0 or less for xmin or ymin, which the devkit's rule cannot hold."""
    num_fractions: int = 0
    first_zero: str = ""
    names: Counter[str] = field(default_factory=Counter)
    """Name of a class to its number of objects, in this source."""

    def add(self, other: Evidence) -> None:
        """Add the counts of other boxes."""
        self.names.update(other.names)
        self.num_boxes += other.num_boxes
        self.num_zero += other.num_zero
        self.num_fractions += other.num_fractions
        self.first_zero = self.first_zero or other.first_zero


@dataclass(slots=True)
class Surveyed:
    """What the annotations of all records told."""

    names: Counter[str] = field(default_factory=Counter)
    """Name of a class to its number of objects."""
    evidence: dict[int, Evidence] = field(default_factory=dict)
    """By number of the source."""
    report: Report = field(default_factory=Report)
    errors: list[DataError] = field(default_factory=list)
    """Why records cannot become samples: the first ones, in the order of records."""
    num_errors: int = 0
    files: ReadFiles = field(default_factory=ReadFiles)
    """Annotations read of folders."""


class Columns(NamedTuple):
    """The records of one split, in the order of sources and ids."""

    ids: NDArray[np.bytes_]
    """UTF-8 [records]."""
    sources: NDArray[np.int16]
    sizes: NDArray[np.int64]
    """[records]: estimated bytes in a shard: counts the annotation in place of the JSON."""
    picture_sizes: NDArray[np.int64]
    """[records]: bytes of the picture; -1 for a missing one."""
    offsets: NDArray[np.int64]
    """[records]: where each `Read` lies in the spool, packed."""
    lengths: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Reader:
    """What the tasks of a survey share; pickled, it goes to workers."""

    sources: tuple[SourceFiles, ...]
    parsers: tuple[Callable[[bytes, str], Annotation], ...]
    task: str
    unlabelled: tuple[Unlabelled, ...]
    """Of each source: what becomes of pictures without annotation."""


def survey(
    sources: Sequence[Source],
    splits: Sequence[str],
    *,
    task: str,
    unlabelled: Unlabelled,
    spool: Spool,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[list[Columns], Surveyed]:
    """Read all annotations of some splits.

    Args:
        sources: The sources, by number.
        splits: The splits.
        task: What the dataset is for.
        unlabelled: What becomes of pictures without annotation.
        spool: Gets the records.
        workers: Most processes to use.
        on_progress: Called with the number of records read.

    Raises:
        SourceError: A list or a file cannot be read.
    """
    reader = Reader(
        tuple(source.files for source in sources),
        tuple(source.parser for source in sources),
        task,
        tuple(_unlabelled(source, unlabelled) for source in sources),
    )
    found, columns = Surveyed(), list[Columns]()
    with ExitStack() as stack:
        run = _runner(stack, workers)
        done = 0
        for split in splits:
            growing = _Growing()
            records = (r for source in sources for r in source.records(task, split))
            for part in run(reader, records):
                growing.add(part, spool)
                _merge(found, part)
                done += len(part.blobs)
                if on_progress:
                    on_progress(done)
            columns.append(growing.columns())
    for source in sources:
        found.report.merge(source.report.as_json())
    return columns, found


def _unlabelled(source: Source, choice: Unlabelled) -> Unlabelled:
    if choice != "auto":
        return choice
    return "fail" if source.is_listed else "drop"


def _runner(
    stack: ExitStack, workers: int
) -> Callable[[Reader, Iterator[Record]], Iterator[_Part]]:
    """A function that reads records in this process, or in others if there are many."""
    pool = None

    def run(reader: Reader, records: Iterator[Record]) -> Iterator[_Part]:
        nonlocal pool
        first = list(islice(records, _FEW))
        if len(first) < _FEW or workers == 1:
            yield from (read_records(reader, some) for some in _chunks(iter(first)))
            yield from (read_records(reader, some) for some in _chunks(records))
            return
        if pool is None:
            pool = stack.enter_context(open_pool(LOCAL, min(workers, len(os.sched_getaffinity(0)))))
        tasks = ((reader, some) for of in (iter(first), records) for some in _chunks(of))
        yield from in_order(pool.run(read_records, tasks))

    return run


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    while some := list(islice(records, _AT_A_TIME)):
        yield some


# In a worker --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Part:
    """What one task read; the columns are those of `Columns`."""

    blobs: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    picture_sizes: list[int] = field(default_factory=list)
    evidence: dict[int, Evidence] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    errors: list[DataError] = field(default_factory=list)
    files: dict[str, Any] = field(default_factory=dict)
    """Annotations read of folders: the result of `ReadFiles.as_json`."""


def read_records(reader: Reader, records: Sequence[Record]) -> _Part:
    """Read and parse the annotations of some records; runs in a worker."""
    part, report, files = _Part(), Report(), ReadFiles()
    contents = _contents(reader, records)
    for record, content in zip(records, contents, strict=True):
        source = reader.sources[record.source]
        if content is not None and record.annotation is not None and not source.is_archive:
            files.add(source, [record.annotation], [content])
        read = _read(reader, record, content, report)
        if read is None:
            continue
        _add(part, read)
        if read.error is not None:
            part.errors.append(read.error)
        if read.annotation is not None:
            report.note(read.annotation.notes)
            _count(part, read)
        if record.shown_classes is not None:
            part.evidence.setdefault(record.source, Evidence()).names.update(record.shown_classes)
    part.report, part.files = report.as_json(), files.as_json()
    return part


def _contents(reader: Reader, records: Sequence[Record]) -> list[bytes | None]:
    """The bytes of each record's annotation; requests those of a source together."""
    found = [record.document for record in records]
    for number, source in enumerate(reader.sources):
        wanted = [
            at
            for at, record in enumerate(records)
            if record.source == number
            and record.annotation is not None
            and record.document is None
            and record.annotation.size <= _MAX_ANNOTATION_BYTES
        ]
        if not wanted:
            continue
        with source.opened() as read:
            spans = [span for at in wanted if (span := records[at].annotation)]
            for at, content in zip(wanted, read(spans), strict=True):
                found[at] = content
    return found


def _read(reader: Reader, record: Record, content: bytes | None, report: Report) -> Read | None:
    """Parse a record's annotation; None for a picture that is left out."""
    source = reader.sources[record.source]
    if record.problem is not None:
        return Read(record._replace(document=None, problem=None), None, record.problem)
    choice = reader.unlabelled[record.source]
    lacks_mask = reader.task == "segmentation" and record.class_mask is None
    lacks_annotation = record.annotation is None and record.expected_annotation is not None
    if record.image is not None and (lacks_mask or lacks_annotation):
        place = source.place(record.image)
        if choice == "drop":
            report.add("unlabelled", f"{place}: no mask" if lacks_mask else place)
            return None
    if record.document is not None:
        record = record._replace(document=None)
    is_background = choice == "background" and lacks_annotation and not lacks_mask
    checked = record._replace(expected_annotation=None) if is_background else record
    try:
        check_files(source, checked, reader.task)
        if record.annotation is None:
            return Read(record, None)
        place = source.place(record.annotation)
        if content is not None:
            return Read(record, reader.parsers[record.source](content, place))
    except DataError as exc:
        exc.__cause__ = exc.__context__ = None  # their frames would keep the chunk in memory
        return Read(record, None, exc.with_traceback(None))
    problem = f"{record.annotation.size} bytes are too many (most: {_MAX_ANNOTATION_BYTES})"
    return Read(record, None, DataError(place, problem))


def _add(part: _Part, read: Read) -> None:
    record = read.record
    part.blobs.append(packed(read))
    part.ids.append(record.id.encode("utf-8", "surrogateescape"))
    part.sources.append(record.source)
    size = 0
    for span in (record.image, record.annotation, record.class_mask, record.object_mask):
        if span is not None:
            size += BLOCK + -(-span.size // BLOCK) * BLOCK
    part.sizes.append(size)
    part.picture_sizes.append(-1 if record.image is None else record.image.size)


def _count(part: _Part, read: Read) -> None:
    assert read.annotation is not None
    evidence = part.evidence.setdefault(read.record.source, Evidence())
    for item in read.annotation.objects:
        evidence.names[item.name] += 1
        if item.corners is None:
            continue
        evidence.num_boxes += 1
        xmin, ymin, xmax, ymax = item.corners
        if xmin <= 0 or ymin <= 0:
            evidence.num_zero += 1
            if not evidence.first_zero:
                assert read.record.annotation is not None
                evidence.first_zero = f"{read.record.annotation.name}: {item.name} {item.corners}"
        if xmin % 1 or ymin % 1 or xmax % 1 or ymax % 1:
            evidence.num_fractions += 1


# In the coordinator -------------------------------------------------------------------------------


class _Growing:
    """Columns that grow part by part."""

    def __init__(self) -> None:
        self._parts: list[Columns] = []

    def add(self, part: _Part, spool: Spool) -> None:
        offsets = [spool.add(blob) for blob in part.blobs]
        if offsets:
            self._parts.append(
                Columns(
                    np.array(part.ids, np.bytes_),
                    np.array(part.sources, np.int16),
                    np.array(part.sizes, np.int64),
                    np.array(part.picture_sizes, np.int64),
                    np.array(offsets, np.int64),
                    np.array([len(blob) for blob in part.blobs], np.int32),
                )
            )

    def columns(self) -> Columns:
        if not self._parts:
            none = np.zeros(0, np.int64)
            return Columns(
                np.zeros(0, "S1"), none.astype(np.int16), none, none, none, none.astype(np.int32)
            )
        return Columns(*(np.concatenate(column) for column in zip(*self._parts, strict=True)))


def _merge(found: Surveyed, part: _Part) -> None:
    for evidence in part.evidence.values():
        found.names.update(evidence.names)
    for source, evidence in part.evidence.items():
        found.evidence.setdefault(source, Evidence()).add(evidence)
    found.report.merge(part.report)
    found.files.merge(part.files)
    found.num_errors += len(part.errors)
    found.errors += part.errors[: _MOST_ERRORS - len(found.errors)]
