"""Plans a conversion: which records each shard holds, in which order, before anything is written.

The plan follows from the sources' lists, the sizes of their files and the options. So each shard is
a task of its own, any worker may write it, and its bytes do not depend on the worker. With several
sources, pictures of equal size are also read, to leave out duplicates. A plan takes tens of bytes a
record; `ConversionPlan.shard_task` makes the records of one shard when a worker needs them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from shard_tool.convert.duplicates import duplicates_of
from shard_tool.errors import OptionError, SourceError
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.format.tar import BLOCK
from shard_tool.keyed_random import permutation
from shard_tool.sources.archive import FileSpan
from shard_tool.sources.voc.devkit import SUFFIX_OF_FOLDER, Devkit
from shard_tool.sources.voc.imagesets import TASK_FOLDERS, sorted_ids
from shard_tool.sources.voc.record import Record
from shard_tool.sources.voc.split_lists import class_labels, listed_objects, lists_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_IMAGE, _XML = "JPEGImages", "Annotations"
_MASKS = ("SegmentationClass", "SegmentationObject")
_MOST_LISTS = 64
_NUMBERED_TASKS = ("layout", "action")


@dataclass(frozen=True, slots=True)
class ShardTask:
    """The records of one shard, in order."""

    split: str
    shard_name: str
    records: tuple[Record, ...]


@dataclass(slots=True)
class SplitPlan:
    """The records of one split, in the order of its shards."""

    split: str
    keys: NDArray[np.bytes_]
    """UTF-8 [records]."""
    sources: NDArray[np.int16]
    """[records]: number of the source."""
    sets: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """[records]: bit i is set if list i of `ConversionPlan.set_names` names the record."""
    labels: NDArray[np.int8] | None = None
    """Classification: -1, 0 or 1 [records, 20]."""
    listed: dict[tuple[int, str], tuple[int, ...]] = field(default_factory=dict)
    """Layout and action: (source, key) to the numbers of the objects that the lists name."""
    starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    """[shards + 1]: row of each shard's first record, then the number of records."""
    num_bytes: int = 0
    """Estimated size of its shards: counts the XML in place of the JSON made from it."""

    @property
    def num_shards(self) -> int:
        """Number of its shards."""
        return len(self.starts) - 1

    def keep(self, rows: NDArray[Any]) -> None:
        """Select and reorder rows."""
        self.keys, self.sources = self.keys[rows], self.sources[rows]
        if len(self.sets):
            self.sets = self.sets[rows]
        if self.labels is not None:
            self.labels = self.labels[rows]


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """All shards of a conversion."""

    devkits: tuple[Devkit, ...]
    task: str
    splits: tuple[SplitPlan, ...]
    set_names: tuple[str, ...]
    """Lists ('Main/train') in the order of the bits of `SplitPlan.sets`."""
    duplicates: tuple[dict[str, Any], ...] = ()
    """Pictures left out, since another source has the same bytes."""

    @property
    def num_shards(self) -> int:
        """Number of shards of all splits."""
        return sum(split.num_shards for split in self.splits)

    @property
    def num_records(self) -> int:
        """Number of records of all splits."""
        return sum(len(split.keys) for split in self.splits)

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
                rows = np.arange(split.starts[number], split.starts[number + 1])
                name = f"{split.split}-{number:06d}.tar"
                return ShardTask(split.split, name, tuple(self._records(split, rows)))
            number -= split.num_shards
        raise IndexError(number)

    def num_records_of(self, number: int) -> int:
        """Number of records of a shard; shards are numbered over all splits."""
        for split in self.splits:
            if number < split.num_shards:
                return int(split.starts[number + 1] - split.starts[number])
            number -= split.num_shards
        raise IndexError(number)

    def _records(self, split: SplitPlan, rows: NDArray[np.int64]) -> Iterator[Record]:
        keys, sources = split.keys[rows], split.sources[rows]
        spans = {folder: self._spans(folder, keys, sources) for folder in _folders(self.task)}
        missing = [None] * len(rows)
        for at, row in enumerate(rows.tolist()):
            key, source = keys[at].decode("utf-8", "surrogateescape"), int(sources[at])
            labels = split.labels
            yield Record(
                key=key,
                source=source,
                image=spans[_IMAGE][at],
                annotation=spans[_XML][at],
                class_mask=spans.get(_MASKS[0], missing)[at],
                object_mask=spans.get(_MASKS[1], missing)[at],
                image_sets=self._names(int(split.sets[row])),
                needs_mask=self.task == "segmentation",
                image_labels=None if labels is None else tuple(labels[row].tolist()),
                listed_objects=split.listed.get((source, key)),
            )

    def _spans(
        self, folder: str, keys: NDArray[np.bytes_], sources: NDArray[np.int16]
    ) -> list[FileSpan | None]:
        found: list[FileSpan | None] = [None] * len(keys)
        for source in np.unique(sources).tolist():
            files = self.devkits[source].files.folders.get(folder)
            if files is None:
                continue
            of_source = np.flatnonzero(sources == source)
            for at, row in zip(of_source, files.rows(keys[of_source]).tolist(), strict=True):
                if row >= 0:
                    stem = keys[at].decode("utf-8", "surrogateescape")
                    name = f"{folder}/{stem}{SUFFIX_OF_FOLDER[folder]}"
                    found[at] = FileSpan(name, *files.place(row))
        return found

    def _names(self, bits: int) -> tuple[str, ...]:
        return tuple(name for i, name in enumerate(self.set_names) if bits >> i & 1)


def plan_conversion(
    devkits: Sequence[Devkit], *, task: str, splits: Sequence[str], shard_bytes: int, seed: int
) -> ConversionPlan:
    """Merge the sources' splits and cut them into shards.

    A picture that several sources have is converted once. The records of a split are shuffled with
    (seed, split) as the key, so neighbours in a shard are not neighbours in the source; a shard
    ends before the record that would pass `shard_bytes`.

    Raises:
        SourceError: A split list is missing or empty, two splits share a picture, or two different
            pictures have one id.
    """
    plans = [_split_plan(devkits, task, split) for split in splits]
    duplicates: tuple[dict[str, Any], ...] = ()
    if len(devkits) > 1:
        duplicates = _without_duplicates(devkits, plans)
        _check_not_empty(devkits, plans)
    _check_keys(devkits, task, plans)
    set_names = _note_sets(devkits, plans, splits)
    for plan in plans:
        if task == "classification":
            plan.labels = _class_labels(devkits, plan)
        elif task in _NUMBERED_TASKS:
            plan.listed = {
                (devkit.source.number, key): numbers
                for devkit in devkits
                for key, numbers in listed_objects(devkit, task, plan.split).items()
            }
        plan.keep(permutation(len(plan.keys), ("convert", seed, plan.split)))
        _cut(devkits, task, plan, shard_bytes)
    return ConversionPlan(tuple(devkits), task, tuple(plans), set_names, duplicates)


def _folders(task: str) -> tuple[str, ...]:
    return (_IMAGE, _XML, *(_MASKS if task == "segmentation" else ()))


def _split_plan(devkits: Sequence[Devkit], task: str, split: str) -> SplitPlan:
    """The records of a split, sorted by id and source."""
    folder = TASK_FOLDERS[task]
    having = [d for d in devkits if d.names_pictures(folder, split)] or devkits[:1]
    ids = [devkit.split_ids(folder, split) for devkit in having]
    numbers = [np.full(len(of), d.source.number) for d, of in zip(having, ids, strict=True)]
    keys, sources = np.concatenate(ids), np.concatenate(numbers).astype(np.int16)
    plan = SplitPlan(split, keys, sources)
    if len(having) > 1:
        plan.keep(np.lexsort((sources, keys)))
    return plan


def _without_duplicates(
    devkits: Sequence[Devkit], plans: Sequence[SplitPlan]
) -> tuple[dict[str, Any], ...]:
    """Drop pictures that another source has as well, and describe them."""
    which = np.repeat(np.arange(len(plans)), [len(plan.keys) for plan in plans])
    keys = np.concatenate([plan.keys for plan in plans])
    sources = np.concatenate([plan.sources for plan in plans])
    # Test pictures stay, so a test set is complete and no training set shares its pictures.
    # Otherwise the picture of the first source stays.
    is_test = np.array([plan.split == "test" for plan in plans])[which]
    found = duplicates_of(devkits, keys, sources, rank=np.where(is_test, -1, sources))
    dropped = np.zeros(len(keys), np.bool_)
    dropped[[row for row, _ in found]] = True
    first = 0
    for plan in plans:
        plan.keep(np.flatnonzero(~dropped[first : first + len(plan.keys)]))
        first += int((which == plans.index(plan)).sum())

    def spelled(row: int) -> dict[str, Any]:
        split = plans[int(which[row])].split
        return {"key": keys[row].decode(), "split": split, "source": int(sources[row])}

    return tuple({**spelled(row), "same_as": spelled(kept)} for row, kept in found)


def _check_not_empty(devkits: Sequence[Devkit], plans: Sequence[SplitPlan]) -> None:
    """Refuse a split without pictures: all are in splits of other sources."""
    for plan in plans:
        if not len(plan.keys):
            places = ", ".join(devkit.source.shown for devkit in devkits)
            problem = f"every picture of split {plan.split!r} is in another source's split as well"
            raise SourceError(places, problem, "leave a source out, or name the splits")


def _check_keys(devkits: Sequence[Devkit], task: str, plans: Sequence[SplitPlan]) -> None:
    """Refuse a key of two pictures, or of two splits."""
    keys = np.concatenate([plan.keys for plan in plans])
    which = np.repeat(np.arange(len(plans)), [len(plan.keys) for plan in plans])
    sources = np.concatenate([plan.sources for plan in plans])
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if not len(again):
        return
    one, other = order[again[0]], order[again[0] + 1]
    key = keys[one].decode("utf-8", "surrogateescape")
    splits = [plans[int(which[row])].split for row in (one, other)]
    places = [devkits[int(sources[row])] for row in (one, other)]
    if sources[one] != sources[other]:
        first = places[0].place(f"JPEGImages/{key}.jpg")
        problem = f"another picture than {first}, under the same id"
        hint = "rename one of them; ids are keys"
        raise SourceError(places[1].place(f"JPEGImages/{key}.jpg"), problem, hint)
    place = places[1].place(f"ImageSets/{TASK_FOLDERS[task]}/{splits[1]}.txt")
    problem = f"picture {key!r} is in split {splits[0]!r} as well"
    raise SourceError(place, problem, "convert splits that share no picture")


def _note_sets(
    devkits: Sequence[Devkit], plans: Sequence[SplitPlan], splits: Sequence[str]
) -> tuple[str, ...]:
    """Note for each record which lists name it; returns the lists' names."""
    lists = {devkit.source.number: lists_of(devkit, splits) for devkit in devkits}
    names = tuple(sorted({name for of in lists.values() for name in of}))
    if len(names) > _MOST_LISTS:
        problem = f"with {len(splits)} splits there are {len(names)} lists (most: {_MOST_LISTS})"
        raise OptionError("--split", problem, "convert fewer splits at a time")
    for plan in plans:
        plan.sets = np.zeros(len(plan.keys), np.uint64)
    for devkit in devkits:
        for name, span in lists[devkit.source.number].items():
            ids = sorted_ids(devkit.read(span), place=devkit.place(span))
            if not len(ids):
                continue
            bit = np.uint64(1 << names.index(name))
            for plan in plans:
                at = np.minimum(np.searchsorted(ids, plan.keys), len(ids) - 1)
                is_in = (ids[at] == plan.keys) & (plan.sources == devkit.source.number)
                plan.sets[is_in] |= bit
    return names


def _class_labels(devkits: Sequence[Devkit], plan: SplitPlan) -> NDArray[np.int8]:
    """int8 [records, 20]."""
    labels = np.zeros((len(plan.keys), len(VOC_CLASSES)), np.int8)
    for devkit in devkits:
        rows = np.flatnonzero(plan.sources == devkit.source.number)
        labels[rows] = class_labels(devkit, plan.split, plan.keys[rows])
    return labels


def _cut(devkits: Sequence[Devkit], task: str, plan: SplitPlan, shard_bytes: int) -> None:
    """Set where shards begin: a record that would pass `shard_bytes` begins the next shard."""
    sizes = np.zeros(len(plan.keys), np.int64)
    for devkit in devkits:
        rows = np.flatnonzero(plan.sources == devkit.source.number)
        for folder in _folders(task):
            there = devkit.files.rows(folder, plan.keys[rows])
            size = devkit.files.sizes(folder, there)
            sizes[rows] += np.where(size < 0, 0, BLOCK + -(-size // BLOCK) * BLOCK)
    ends, starts = np.cumsum(sizes), [0]
    while starts[-1] < len(sizes):
        filled = int(ends[starts[-1] - 1]) if starts[-1] else 0
        stop = int(np.searchsorted(ends, filled + shard_bytes, side="right"))
        starts.append(max(stop, starts[-1] + 1))
    plan.starts, plan.num_bytes = np.array(starts, np.int64), int(sizes.sum())
