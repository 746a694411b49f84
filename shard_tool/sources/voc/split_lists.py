"""Reads from the lists of devkits which splits there are and which labels their records have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.sources.voc.imagesets import CLASS_LABELS, LIST_FOLDERS, SPLITS, TASK_FOLDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.archive import FileSpan
    from shard_tool.sources.voc.devkit import Devkit


def resolve_splits(devkits: Sequence[Devkit], task: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Choose the splits to convert: the wanted ones, else train, val and test if not empty.

    `trainval` is chosen only if it is wanted or the only one.

    Raises:
        SourceError: No list of the task's folder names a picture, or a source has none of the
            splits.
    """
    folder = TASK_FOLDERS[task]
    there = [devkit.filled_splits(folder) for devkit in devkits]
    for devkit, splits in zip(devkits, there, strict=True):
        if not splits and not wanted:
            place = devkit.place(f"ImageSets/{folder}")
            raise SourceError(place, f"no list of {', '.join(SPLITS)} names a picture")
    if wanted:
        for split in wanted:
            if not any(devkit.names_pictures(folder, split) for devkit in devkits):
                devkits[0].split_ids(folder, split)  # raises, and names the lists there are
        chosen = tuple(wanted)
    else:
        defaults = [[split for split in of if split != "trainval"] or of for of in there]
        chosen = tuple(split for split in SPLITS if any(split in of for of in defaults))
        if "trainval" in chosen and len(devkits) > 1 and "train" in chosen:
            only = next(d for d, of in zip(devkits, defaults, strict=True) if "trainval" in of)
            problem = "has a list trainval and neither train nor val, as other sources do"
            place = only.place(f"ImageSets/{folder}")
            raise SourceError(place, problem, "name the splits: --split trainval")
    for devkit in devkits:
        if not any(devkit.names_pictures(folder, split) for split in chosen):
            place = devkit.place(f"ImageSets/{folder}")
            problem = f"no list of {', '.join(chosen)} names a picture"
            raise SourceError(place, problem, "leave this source out")
    return chosen


def lists_of(devkit: Devkit, splits: Sequence[str]) -> dict[str, FileSpan]:
    """Find the lists of pictures by name ('Main/train'), sorted."""
    spans = {
        f"{folder}/{split}": devkit.find(f"ImageSets/{folder}", split)
        for folder in sorted(LIST_FOLDERS)
        for split in sorted({*SPLITS, *splits})
    }
    return {name: span for name, span in spans.items() if span}


def numbered_lists_of(devkit: Devkit, task: str, splits: Sequence[str]) -> list[FileSpan]:
    """Find the lists with labels or object numbers that a conversion for this task reads."""
    if task == "classification":
        names = [f"{name}_{split}" for split in splits for name in VOC_CLASSES]
    elif task == "action":
        files = devkit.files.folders.get("ImageSets/Action")
        stems = [] if files is None else [stem.decode("utf-8", "replace") for stem in files.stems]
        names = [stem for stem in stems for split in splits if stem.endswith(f"_{split}")]
    else:
        names = []
    folder = f"ImageSets/{TASK_FOLDERS[task]}"
    found = [devkit.find(folder, name) for name in dict.fromkeys(names)]
    return [span for span in found if span]


def class_labels(devkit: Devkit, split: str, keys: NDArray[np.bytes_]) -> NDArray[np.int8]:
    """Read int8 [keys, 20] from the lists of the classes.

    Raises:
        SourceError: A class has no list, or its list does not give each record one number.
    """
    labels = np.zeros((len(keys), len(VOC_CLASSES)), np.int8)
    for column, name in enumerate(VOC_CLASSES if len(keys) else ()):
        ids, numbers = devkit.labels(f"{name}_{split}") or (keys[:0], np.zeros(0, int))
        at = np.minimum(np.searchsorted(ids, keys), max(len(ids) - 1, 0))
        is_said = (ids[at] == keys) & np.isin(numbers[at], CLASS_LABELS) if len(ids) else False
        if not np.all(is_said):
            raise _no_label(devkit, f"{name}_{split}", keys)
        labels[:, column] = numbers[at]
    return labels


def _no_label(devkit: Devkit, name: str, keys: NDArray[np.bytes_]) -> SourceError:
    """The error for the list of a class: missing, or wrong about one of these keys."""
    place = devkit.place(f"ImageSets/Main/{name}.txt")
    found = devkit.numbers("Main", name)
    if found is None:
        hint = "classification needs one for each class; is the task another?"
        return SourceError(place, "there is no such list", hint)
    for key in (key.decode("utf-8", "surrogateescape") for key in keys.tolist()):
        numbers = found.get(key, ())
        if len(numbers) != 1 or numbers[0] not in CLASS_LABELS:
            said = " and ".join(map(str, numbers)) or "nothing"
            problem = f"says {said} of picture {key!r}, expected one of -1, 0, 1"
            return SourceError(place, problem)
    return SourceError(place, "names a picture twice")


def listed_objects(devkit: Devkit, task: str, split: str) -> dict[str, tuple[int, ...]]:
    """Map each key to the numbers of the objects that the lists of a split name."""
    found = dict[str, set[int]]()
    spans = numbered_lists_of(devkit, task, [split])
    names = [split, *(span.name.rpartition("/")[2].removesuffix(".txt") for span in spans)]
    for name in names:
        for key, numbers in (devkit.numbers(TASK_FOLDERS[task], name) or {}).items():
            found.setdefault(key, set()).update(numbers)
    return {key: tuple(sorted(numbers)) for key, numbers in found.items()}
