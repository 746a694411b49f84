"""Reads one shard in a worker, checks its samples and publishes its index."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.dataset.sample_rules import check_class_mask, checked_sample
from shard_tool.dataset.scan import ScannedShard, scan_stored
from shard_tool.dataset.shard_urls import locate_shard
from shard_tool.errors import DataError, ObjectMissing, ShardError
from shard_tool.format.manifest import GENERIC
from shard_tool.format.sample import PICTURES
from shard_tool.format.tar import INDEX_SUFFIX
from shard_tool.storage.ranges import ObjectReplacedError

if TYPE_CHECKING:
    from collections.abc import Collection

    from shard_tool.dataset.journal import Journal
    from shard_tool.storage.location import Folder, StoredObject

NEEDED = {
    GENERIC: (),
    "detection": ("json",),
    "segmentation": ("json", "class.png"),
}
"""Extensions that every sample of a task must have, beside its picture's."""

_TIMES = 3
"""How many times a shard is read that changes while it is read."""
_MAX_PROBLEMS_OF_SHARD = 5
"""How many bad samples of one shard are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexTask:
    """A shard to read."""

    name: str
    """Its name in the manifest."""
    url: str
    kind: str
    """The task of its samples: a key of `NEEDED`."""
    classes: tuple[str, ...] = ()
    """Names in label order; empty: those that the samples hold."""
    known: dict[str, Any] | None = None
    """The record of an earlier run; None: there is none."""


def index_shard(task: IndexTask, journal: Journal) -> dict[str, Any]:
    """Read one shard and publish its index; runs in a worker.

    Returns:
            The record of the shard, or ``{"problems": [text, …]}`` if it cannot be indexed.
    """
    folder, name = locate_shard(task.url, journal.folder)
    shard = folder.object(name)
    checks = _Checks(task.kind, task.classes, shard.place)
    try:
        size = shard.num_bytes()
        version: list[int | str] = [size, *shard.version()]  # asked before a byte is read
        if task.known is not None and _is_as_recorded(task, version, journal.folder):
            return task.known
        scanned = _scanned(shard, size, checks)
    except (ShardError, ObjectMissing) as exc:
        return {"problems": [str(exc)]}
    if checks.problems:
        return {"problems": checks.shown_problems}
    report = _published(task, scanned, journal) | checks.counts | {"version": version}
    if report["num_samples"]:  # otherwise a later run has nothing to go on with
        journal.record(task.name, report)
    return report


def _is_as_recorded(task: IndexTask, version: list[int | str], dest: Folder) -> bool:
    """Tell whether a shard is still that of its record, and on a disk also its index."""
    known = task.known or {}
    if known.get("version") != version:
        return False
    if dest.local is None:
        return True
    index_sha256: str = known["index_sha256"]
    return hashlib.sha256(dest.read(task.name + INDEX_SUFFIX)).hexdigest() == index_sha256


def _published(task: IndexTask, scanned: ScannedShard, journal: Journal) -> dict[str, Any]:
    index, name = scanned.index.to_bytes(), task.name + INDEX_SUFFIX
    num_samples = len(scanned.index)
    if num_samples:
        journal.put(name, index)
    return {
        "sizes": {name: len(index)} if num_samples else {},
        "num_samples": num_samples,
        "num_bytes": scanned.num_bytes,
        "sha256": scanned.sha256,
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "members": scanned.members,
        "num_repeated": scanned.num_repeated,
        "has_more": scanned.has_more,
    }


def _scanned(shard: StoredObject, size: int, checks: _Checks) -> ScannedShard:
    for _ in range(_TIMES - 1):
        try:
            return scan_stored(shard, size, on_sample=checks.check, keep=checks.kept)
        except ObjectReplacedError:
            checks.begin_again()
            size = shard.num_bytes()
    try:
        return scan_stored(shard, size, on_sample=checks.check, keep=checks.kept)
    except ObjectReplacedError as exc:
        raise ShardError(exc.place, f"{exc.problem}, {_TIMES} times") from exc


class _Checks:
    """Checks the samples of one shard against a task, and counts their objects."""

    def __init__(self, task: str, classes: tuple[str, ...], place: str) -> None:
        self._task, self._place = task, place
        self._classes = {name: label for label, name in enumerate(classes, start=1)} or None
        self.kept = ("json", *PICTURES) if task != GENERIC else ()
        if task == "segmentation":
            self.kept += ("class.png",)
        """Extensions whose contents `check` needs."""
        self.begin_again()

    def begin_again(self) -> None:
        """Forget all samples so far."""
        self.problems: list[str] = []
        self._labels: dict[str, int] = {}
        self._objects, self._difficult = Counter[str](), Counter[str]()
        self._highest_id = 0

    @property
    def shown_problems(self) -> list[str]:
        """The first few problems."""
        shown = self.problems[:_MAX_PROBLEMS_OF_SHARD]
        more = len(self.problems) - len(shown)
        return shown + ([f"{self._place}: and {more} more samples"] if more else [])

    @property
    def counts(self) -> dict[str, Any]:
        """Counts of objects, and the highest class id of masks; empty for generic samples."""
        if self._task == GENERIC:
            return {}
        return {
            "labels": self._labels,
            "objects": dict(self._objects),
            "difficult": dict(self._difficult),
            "highest_id": self._highest_id,
        }

    def check(self, key: str, extensions: Collection[str], kept: dict[str, bytes]) -> None:
        """Check one sample; a problem is added to `problems`."""
        if self._task == GENERIC:
            return
        place = f"{self._place}: sample {key!r}"
        try:
            self._check(key, extensions, kept, place)
        except DataError as exc:
            self.problems.append(str(exc))

    def _check(
        self, key: str, extensions: Collection[str], kept: dict[str, bytes], place: str
    ) -> None:
        if missing := [name for name in NEEDED[self._task] if name not in extensions]:
            raise DataError(place, f"has no {missing[0]} member, which {self._task} needs")
        sample = checked_sample(key, kept, self._classes, place)
        if (mask := kept.get("class.png")) is not None:
            its_id = check_class_mask(sample, mask, self._classes, f"{place}.class.png")
            self._highest_id = max(self._highest_id, its_id)
        for item in sample.objects:
            if not item.name:
                problem = f"an object has label {item.label} and no name"
                raise DataError(f"{place}.json", problem, "give the names by --classes")
            if self._labels.setdefault(item.name, item.label) != item.label and not self._classes:
                labels = f"{item.label} and {self._labels[item.name]}"
                raise DataError(f"{place}.json", f"class {item.name!r} has labels {labels}")
            self._objects[item.name] += 1
            self._difficult[item.name] += bool(item.difficult)
