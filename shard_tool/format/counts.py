"""Counts objects and more, sample by sample, for the entry of a split in the manifest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from shard_tool.format.sample import VOC_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shard_tool.format.sample import Sample


class SplitCounts:
    """Counts of the samples of one task.

    Every task counts objects. Classification also counts the pictures that show a class, and those
    that show only difficult objects of it. Layout counts parts. Action counts the actions that are
    done, and the objects that have a point and no box.

    Args:
        task: Name of the task; any other name counts objects alone.
        classes: Names that come first, in this order; the others follow, sorted.
    """

    def __init__(self, task: str, classes: Sequence[str] = VOC_CLASSES) -> None:
        self._task, self._classes = task, classes
        self.objects: Counter[str] = Counter()
        self.difficult: Counter[str] = Counter()
        self.counts: dict[str, Counter[str]] = {}

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        for item in sample.objects:
            self.objects[item.name] += 1
            if item.difficult:
                self.difficult[item.name] += 1
        for what, name in self._of_task(sample):
            self.counts.setdefault(what, Counter())[name] += 1

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add the counts of another `as_json`."""
        self.objects.update(other["objects"])
        self.difficult.update(other["difficult"])
        for what, counted in other["counts"].items():
            self.counts.setdefault(what, Counter()).update(counted)

    def as_json(self) -> dict[str, Any]:
        """The counts as plain values: the classes in their order, then other names sorted."""
        return {
            "objects": self._in_order(self.objects),
            "difficult": self._in_order(self.difficult),
            "counts": {what: self._in_order(self.counts[what]) for what in sorted(self.counts)},
        }

    def _in_order(self, counted: Counter[str]) -> dict[str, int]:
        names = [name for name in self._classes if name in counted]
        return {name: counted[name] for name in [*names, *sorted(counted.keys() - {*names})]}

    def _of_task(self, sample: Sample) -> Iterator[tuple[str, str]]:
        if self._task == "classification":
            for name, label in (sample.image_labels or {}).items():
                if label >= 0:
                    yield ("pictures" if label else "only_difficult"), name
        elif self._task == "layout":
            for item in sample.objects:
                yield from (("parts", part.name) for part in item.parts or ())
        elif self._task == "action":
            for item in sample.objects:
                if item.bbox is None:
                    yield "points", item.name
                done = [name for name, is_done in (item.actions or {}).items() if is_done]
                yield from (("actions", name) for name in done)
