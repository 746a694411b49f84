"""Parses a sample's annotation, before its pictures are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shard_tool.errors import SampleError
from shard_tool.format.sample import VOC_CLASSES, parse_sample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from datamodules.reading.samples import RawSample
    from datamodules.transforms.fused import Planned
    from shard_tool.format.sample import Sample

VOC_LABELS = {name: label for label, name in enumerate(VOC_CLASSES, start=1)}
_LABEL_OF_NUMBER = {1: 1.0, 0: -1.0, -1: 0.0}
"""VOC's number in the list of a class to ours, in which 0 is what it is in a loss: absent."""


class Boxes(NamedTuple):
    """A picture's objects that have a box."""

    corners: NDArray[np.float32]
    """float32 [N, 4], xyxy pixels, half-open."""
    labels: NDArray[np.int64]
    """int64 [N], 1 … 20."""
    difficult: NDArray[np.bool_]
    """bool [N]; False where the source says nothing."""

    @classmethod
    def of(cls, sample: Sample) -> Boxes:
        """A sample's."""
        objects = [item for item in sample.objects if item.bbox is not None]
        return cls(
            np.array([item.bbox for item in objects], np.float32).reshape(-1, 4),
            np.array([item.label for item in objects], np.int64),
            np.array([bool(item.difficult) for item in objects], np.bool_),
        )


@dataclass(frozen=True, slots=True)
class Annotated:
    """A sample whose annotation is parsed, and whose pictures are not decoded yet."""

    raw: RawSample
    sample_id: int
    task: str
    """What its target is for."""
    size_hw: tuple[int, int]
    """Of the picture, as the annotation says."""
    boxes: Boxes | None
    """For detection alone."""
    planned: Planned | None = None
    """What a recipe does to it, once that is drawn."""
    labels: NDArray[np.float32] | None = None
    """For classification alone: see `picture_labels`."""

    @property
    def has_mask(self) -> bool:
        """Whether its target is a picture too, as for segmentation."""
        return self.task == "segmentation"


def annotated(
    raw: RawSample, *, sample_id: int, task: str, classes: Mapping[str, int] = VOC_LABELS
) -> Annotated:
    """Parse a sample's annotation.

    Apart from `load_item` because parsing is twice as fast for many samples one after the other as
    between two pictures, which leave nothing of it in the processor's caches.

    Args:
        raw: The sample.
        sample_id: Its number.
        task: What it becomes a target for.
        classes: Class to label, from 1; what classification has a column for.

    Raises:
        SampleError: A member the task needs is missing, or the JSON is not a sample's.
    """
    for needed in ("jpg", "json", *(("class.png",) if task == "segmentation" else ())):
        if needed not in raw.members:
            raise SampleError(raw.place, f"has no {needed} member, which {task} needs")
    sample = parse_sample(bytes(raw.members["json"]), place=f"{raw.place}.json")
    boxes = Boxes.of(sample) if task == "detection" else None
    labels = None
    if task == "classification":
        labels = picture_labels(sample, classes, place=f"{raw.place}.json")
    return Annotated(raw, sample_id, task, (sample.height, sample.width), boxes, labels=labels)


def picture_labels(
    sample: Sample, classes: Mapping[str, int], *, place: str
) -> NDArray[np.float32]:
    """Which classes a picture shows: float32 [20] of VOC, column k for the class of label k + 1.

    1: it shows one. 0: none. -1: only difficult ones, which neither loss nor metric should count.
    By the lists of a classification set where the sample has their numbers, else by its objects.

    Raises:
        SampleError: The lists lack a class, or an object's label is none of the classes'.
    """
    labels: NDArray[np.float32] = np.zeros(max(classes.values(), default=0), np.float32)
    if (numbers := sample.image_labels) is not None:
        if missing := [name for name in classes if name not in numbers]:
            raise SampleError(place, f"image_labels have no {', '.join(missing)}")
        for name, label in classes.items():
            labels[label - 1] = _LABEL_OF_NUMBER[numbers[name]]
        return labels
    for item in sample.objects:
        if not 1 <= item.label <= len(labels):
            raise SampleError(
                place, f"an object has label {item.label}, expected 1 … {len(labels)}"
            )
        if not item.difficult:
            labels[item.label - 1] = 1
        elif labels[item.label - 1] == 0:
            labels[item.label - 1] = -1
    return labels
