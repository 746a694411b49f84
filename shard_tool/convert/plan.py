"""Plans a conversion: which records each shard holds, in which order, before anything is written.

The plan follows from the sources' lists, the sizes of their files and the options. So each shard is
a task of its own, any worker may write it, and its bytes do not depend on the worker. With several
sources, pictures of equal size are also read, to leave out duplicates. A plan takes tens of bytes a
record; the records lie in a `Spool`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from shard_tool.convert.duplicates import duplicates_of
from shard_tool.convert.packed import Read, unpacked
from shard_tool.errors import SourceError
from shard_tool.keyed_random import permutation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from shard_tool.convert.rules import Rules
    from shard_tool.convert.survey import Columns, Surveyed
    from shard_tool.errors import DataError
    from shard_tool.sources.files.spool import Spool
    from shard_tool.sources.report import Report
    from shard_tool.sources.source import Source


@dataclass(frozen=True, slots=True)
class ShardTask:
    """The records of one shard, in order."""

    split: str
    shard_name: str
    records: tuple[bytes, ...]
    """Each a packed `Read`."""
    labels: tuple[tuple[int, ...], ...] | None = None
    """Classification: -1, 0 or 1 for each class, of each record; None: no list says it."""

    def reads(self) -> list[Read]:
        """The records with their parsed annotations."""
        return [unpacked(blob) for blob in self.records]


@dataclass(slots=True)
class SplitPlan:
    """The records of one split, in the order of its shards."""

    split: str
    columns: Columns
    labels: NDArray[np.int8] | None = None
    """Classification: -1, 0 or 1 [records, classes]."""
    starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    """[shards + 1]: row of each shard's first record, then the number of records."""

    @property
    def num_records(self) -> int:
        """Number of its records."""
        return len(self.columns.ids)

    @property
    def num_shards(self) -> int:
        """Number of its shards."""
        return len(self.starts) - 1

    @property
    def num_bytes(self) -> int:
        """Estimated size of its shards: counts the annotation in place of the JSON made from it."""
        return int(self.columns.sizes.sum())

    def keep(self, rows: NDArray[Any]) -> None:
        """Select and reorder rows."""
        self.columns = type(self.columns)(*(column[rows] for column in self.columns))
        if self.labels is not None:
            self.labels = self.labels[rows]


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """All shards of a conversion."""

    sources: tuple[Source, ...]
    rules: Rules
    splits: tuple[SplitPlan, ...]
    surveyed: Surveyed
    spool: Spool
    duplicates: tuple[dict[str, Any], ...] = ()
    """Pictures left out, since another source has the same bytes."""
    questions: tuple[DataError, ...] = ()
    """What the user has to decide before the sources can be converted."""

    @property
    def num_shards(self) -> int:
        """Number of shards of all splits."""
        return sum(split.num_shards for split in self.splits)

    @property
    def num_records(self) -> int:
        """Number of records of all splits."""
        return sum(split.num_records for split in self.splits)

    @property
    def num_bytes(self) -> int:
        """Estimated size of all shards."""
        return sum(split.num_bytes for split in self.splits)

    def shard_names(self) -> Iterator[tuple[str, str]]:
        """Yield (split, name) of each shard, in order."""
        for split in self.splits:
            for number in range(split.num_shards):
                yield split.split, f"{split.split}-{number:06d}.tar"

    def shard_task(self, number: int) -> ShardTask:
        """Make the task of a shard; shards are numbered over all splits."""
        for split in self.splits:
            if number < split.num_shards:
                rows = slice(int(split.starts[number]), int(split.starts[number + 1]))
                its = split.columns
                spans = zip(its.offsets[rows].tolist(), its.lengths[rows].tolist(), strict=True)
                labels = None if split.labels is None else split.labels[rows].tolist()
                return ShardTask(
                    split.split,
                    f"{split.split}-{number:06d}.tar",
                    tuple(self.spool.read(*span) for span in spans),
                    None if labels is None else tuple(map(tuple, labels)),
                )
            number -= split.num_shards
        raise IndexError(number)

    def chunks(self, at_a_time: int) -> Iterator[ShardTask]:
        """Yield all records, in the order of shards and not more at a time; without labels."""
        for split in self.splits:
            its = split.columns
            for first in range(0, split.num_records, at_a_time):
                rows = slice(first, first + at_a_time)
                spans = zip(its.offsets[rows].tolist(), its.lengths[rows].tolist(), strict=True)
                yield ShardTask(split.split, "", tuple(self.spool.read(*span) for span in spans))

    def num_records_of(self, number: int) -> int:
        """Number of records of a shard; shards are numbered over all splits."""
        for split in self.splits:
            if number < split.num_shards:
                return int(split.starts[number + 1] - split.starts[number])
            number -= split.num_shards
        raise IndexError(number)


def plan_splits(
    sources: Sequence[Source],
    splits: Sequence[str],
    columns: Sequence[Columns],
    spool: Spool,
    *,
    rules: Rules,
    shard_bytes: int,
    seed: int,
    report: Report,
    problems: list[DataError] | None = None,
) -> tuple[tuple[SplitPlan, ...], tuple[dict[str, Any], ...]]:
    """Merge the sources' splits and cut them into shards.

    A picture that several sources have is converted once. The records of a split are shuffled with
    (seed, split) as the key, so neighbours in a shard are not neighbours in the source; a shard
    ends before the record that would pass `shard_bytes`.

    Args:
        sources: The sources, by number.
        splits: Names of the splits.
        columns: The records of each split.
        spool: Holds the records.
        rules: What was decided.
        report: Gets what is left out.
        shard_bytes: Largest size of a shard.
        seed: Of the order.
        problems: Gets what is wrong with splits and ids, in place of an error.

    Returns:
        The splits, and a description of the pictures that are left out.

    Raises:
        SourceError: A split has no picture, two splits share one, or two different pictures have
            one id.
    """
    plans = [SplitPlan(split, its) for split, its in zip(splits, columns, strict=True)]
    for plan in plans:
        plan.keep(np.lexsort((plan.columns.sources, plan.columns.ids)))
    duplicates: tuple[dict[str, Any], ...] = ()
    if len(sources) > 1:
        duplicates = _without_duplicates(sources, plans, spool, report)
    empty = _empty_splits(sources, plans, rules.task, is_filtered=bool(duplicates))
    for problem in chain(empty, _shared_ids(sources, plans, spool, rules.task)):
        if problems is None:
            raise problem
        problems.append(problem)
    for plan in plans:
        if rules.task == "classification":
            plan.labels = _class_labels(sources, plan, rules)
        plan.keep(permutation(plan.num_records, ("convert", seed, plan.split)))
        _cut(plan, shard_bytes)
    return tuple(plans), duplicates


def _without_duplicates(
    sources: Sequence[Source], plans: Sequence[SplitPlan], spool: Spool, report: Report
) -> tuple[dict[str, Any], ...]:
    """Drop pictures that another source has as well, and describe them; note lost objects."""
    which = np.repeat(np.arange(len(plans)), [plan.num_records for plan in plans])
    ids, numbers, sizes, offsets, lengths = (
        np.concatenate([getattr(plan.columns, name) for plan in plans])
        for name in ("ids", "sources", "picture_sizes", "offsets", "lengths")
    )
    # Test pictures stay, so a test set is complete and no training set shares its pictures.
    # Otherwise the picture of the first source stays.
    is_test = np.array([plan.split == "test" for plan in plans])[which]

    def read(row: int) -> Read:
        return _read(spool, int(offsets[row]), int(lengths[row]))

    def image_of(row: int) -> Any:
        return read(row).record.image

    files = [source.files for source in sources]
    rank = np.where(is_test, -1, numbers)
    found = duplicates_of(files, sizes, numbers, image_of, rank=rank)
    dropped = np.zeros(len(ids), np.bool_)
    dropped[[row for row, _ in found]] = True
    first = 0
    for number, plan in enumerate(plans):
        plan.keep(np.flatnonzero(~dropped[first : first + plan.num_records]))
        first += int((which == number).sum())

    def spelled(row: int) -> dict[str, Any]:
        key = read(row).record.key
        return {"key": key, "split": plans[int(which[row])].split, "source": int(numbers[row])}

    for row, kept in found:
        if _objects_of(read(row)) - _objects_of(read(kept)):
            image = image_of(row)
            report.add("duplicate-objects-lost", files[int(numbers[row])].place(image))
    return tuple({**spelled(row), "same_as": spelled(kept)} for row, kept in found)


def _objects_of(read: Read) -> set[tuple[str, Any]]:
    """Name and corners of each object, as written, and classes of the whole picture."""
    objects = () if read.annotation is None else read.annotation.objects
    shown = ((name, None) for name in read.record.shown_classes or ())
    return {(item.name, item.corners) for item in objects}.union(shown)


def _read(spool: Spool, offset: int, length: int) -> Read:
    return unpacked(spool.read(offset, length))


def _empty_splits(
    sources: Sequence[Source], plans: Sequence[SplitPlan], task: str, *, is_filtered: bool
) -> Iterator[SourceError]:
    """Yield an error for each split without pictures."""
    others = " ".join(f"--split {plan.split}" for plan in plans if plan.num_records)
    ways = [f"leave the split out by {others}"] if others else []
    if task == "segmentation":
        what, ways = (
            "a mask",
            ways or ["put masks into SegmentationClass, or choose another --task"],
        )
    else:
        what, ways = "an annotation", ["take them by --unlabelled background", *ways]
    for plan in plans:
        if not plan.num_records:
            places = ", ".join(dict.fromkeys(source.files.shown for source in sources))
            if is_filtered:
                problem = f"every picture of split {plan.split!r} is in another source's split"
                yield SourceError(places, f"{problem} as well", "leave a source out")
                continue
            problem = f"no picture of split {plan.split!r} has {what}"
            yield SourceError(places, problem, ", or ".join(ways))


def _shared_ids(
    sources: Sequence[Source], plans: Sequence[SplitPlan], spool: Spool, task: str
) -> Iterator[SourceError]:
    """Yield an error if ids are of two pictures, or of two splits; it names the first."""
    ids, numbers, offsets, lengths = (
        np.concatenate([getattr(plan.columns, name) for plan in plans])
        for name in ("ids", "sources", "offsets", "lengths")
    )
    which = np.repeat(np.arange(len(plans)), [plan.num_records for plan in plans])
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if not len(again):
        return
    rows = [int(order[again[0]]), int(order[again[0] + 1])]
    records = [_read(spool, int(offsets[row]), int(lengths[row])).record for row in rows]
    its = [sources[int(numbers[row])] for row in rows]
    places = [
        source.files.place(record.image or record.expected_image)
        for source, record in zip(its, records, strict=True)
    ]
    more = f" (and {len(again) - 1} more)" if len(again) > 1 else ""
    if its[0] is not its[1]:
        problem = f"another picture than {places[0]}, under the same id{more}"
        yield SourceError(places[1], problem, "rename one of them; ids are keys")
        return
    splits = [plans[int(which[row])].split for row in rows]
    place = its[1].split_place(task, splits[1])
    problem = f"picture {records[0].id!r} is in split {splits[0]!r} as well{more}"
    yield SourceError(place, problem, "convert splits that share no picture")


def _class_labels(
    sources: Sequence[Source], plan: SplitPlan, rules: Rules
) -> NDArray[np.int8] | None:
    """int8 [records, classes]; None where no list says which pictures show a class.

    Raises:
        SourceError: A source has such lists and another one has none.
    """
    labels = np.zeros((plan.num_records, len(rules.classes.names)), np.int8)
    silent = []
    for number, source in enumerate(sources):
        rows = np.flatnonzero(plan.columns.sources == number)
        found = source.class_labels(plan.split, plan.columns.ids[rows], rules.classes.names)
        if found is None and len(rows):
            silent.append(source)
        elif found is not None:
            labels[rows] = found
    if not silent:
        return labels
    if len(silent) < len(sources):
        problem = "has no lists of classes, and another source has them"
        raise SourceError(silent[0].files.shown, problem, "convert them apart")
    return None


def _cut(plan: SplitPlan, shard_bytes: int) -> None:
    """Set where shards begin: a record that would pass `shard_bytes` begins the next shard."""
    ends, starts = np.cumsum(plan.columns.sizes), [0]
    while starts[-1] < len(ends):
        filled = int(ends[starts[-1] - 1]) if starts[-1] else 0
        stop = int(np.searchsorted(ends, filled + shard_bytes, side="right"))
        starts.append(max(stop, starts[-1] + 1))
    plan.starts = np.array(starts, np.int64)
