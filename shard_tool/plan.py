"""What a conversion will do, decided before anything is written; reads lists, nothing else.

Which records a split has, in which shard each one goes and in which order, follows from the
source's lists, the sizes of its files and the options alone: so every shard is a task of its own,
any worker may write any of them, and the bytes do not depend on who did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shard_tool.errors import SourceError
from shard_tool.keyed import permutation
from shard_tool.voc.imagesets import LIST_FOLDERS, SPLITS, TASK_FOLDERS, parse_ids
from shard_tool.voc.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shard_tool.voc.devkit import Devkit, FileSpan


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One unit of work: the records of one shard, in their order."""

    split: str
    shard_name: str
    records: tuple[Record, ...]


def resolve_splits(devkit: Devkit, task: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """The splits to convert: the wanted ones, else train, val and test where they have pictures.

    `trainval` is taken only where it is asked for, or where it is all there is.

    Raises:
        SourceError: No list of the task's folder holds a picture.
    """
    if wanted:
        return tuple(wanted)
    filled = devkit.filled_splits(TASK_FOLDERS[task])
    splits = tuple(split for split in filled if split != "trainval") or tuple(filled)
    if not splits:
        place = devkit.place(f"ImageSets/{TASK_FOLDERS[task]}")
        raise SourceError(place, f"no list of {', '.join(SPLITS)} names a picture")
    return splits


def lists_of(devkit: Devkit, splits: Sequence[str]) -> dict[str, FileSpan]:
    """The lists that decide what a conversion writes, by name ('Main/train'), sorted."""
    spans = {
        f"{folder}/{split}": devkit.find(f"ImageSets/{folder}", split)
        for folder in sorted(LIST_FOLDERS)
        for split in sorted({*SPLITS, *splits})
    }
    return {name: span for name, span in spans.items() if span}


def plan_conversion(
    devkit: Devkit, *, task: str, splits: Sequence[str], shard_bytes: int, seed: int
) -> list[ShardTask]:
    """Cut the splits into shards.

    Each split's records are put in a random order keyed by (seed, split), so that neighbours in a
    shard are not neighbours in the source, then cut where the next one would pass `shard_bytes`.

    Raises:
        SourceError: A split list is missing or empty, or two splits share a picture.
    """
    membership = _image_sets(devkit, splits)
    owner: dict[str, str] = {}
    tasks: list[ShardTask] = []
    for split in splits:
        ids = sorted(devkit.split_ids(TASK_FOLDERS[task], split))
        for key in ids:
            if key in owner:
                place = devkit.place(f"ImageSets/{TASK_FOLDERS[task]}/{split}.txt")
                problem = f"picture {key!r} is in split {owner[key]!r} as well"
                raise SourceError(place, problem, "convert splits that share no picture")
            owner[key] = split
        order = permutation(len(ids), ("convert", seed, split))
        records = [_record(devkit, task, ids[i], membership.get(ids[i], ())) for i in order]
        shards = _cut(records, shard_bytes)
        tasks += [ShardTask(split, f"{split}-{i:06d}.tar", r) for i, r in enumerate(shards)]
    return tasks


def _record(devkit: Devkit, task: str, key: str, image_sets: tuple[str, ...]) -> Record:
    has_masks = task == "segmentation"
    return Record(
        key=key,
        image=devkit.find("JPEGImages", key),
        annotation=devkit.find("Annotations", key),
        class_mask=devkit.find("SegmentationClass", key) if has_masks else None,
        object_mask=devkit.find("SegmentationObject", key) if has_masks else None,
        image_sets=image_sets,
        needs_mask=has_masks,
    )


def _cut(records: list[Record], shard_bytes: int) -> list[tuple[Record, ...]]:
    shards: list[tuple[Record, ...]] = []
    current: list[Record] = []
    filled = 0
    for record in records:
        if current and filled + record.num_bytes > shard_bytes:
            shards.append(tuple(current))
            current, filled = [], 0
        current.append(record)
        filled += record.num_bytes
    return [*shards, tuple(current)] if current else shards


def _image_sets(devkit: Devkit, splits: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each id the lists it stands in: the four usual ones of each folder, and the wanted."""
    sets: dict[str, list[str]] = {}
    for name, span in lists_of(devkit, splits).items():
        for key in parse_ids(devkit.read(span), place=devkit.place(span)):
            sets.setdefault(key, []).append(name)
    return {key: tuple(names) for key, names in sets.items()}
