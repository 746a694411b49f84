"""Parses a sample's annotation, before its pictures are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datamodules.loading.outlines import UNMASKED, outlines_of
from datamodules.loading.tasks import BOXED
from datamodules.loading.truths import truth_of
from datamodules.pixels.decode import picture_size
from datamodules.pixels.upright import turned_size
from shard_tool.errors import SampleError
from shard_tool.format.sample import PICTURES, VOC_CLASSES, parse_sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from datamodules.evaluation.truth import Truth
    from datamodules.pixels.instances import Outlines
    from datamodules.reading.samples import RawSample
    from datamodules.transforms.fused import Planned
    from shard_tool.format.sample import Sample, SampleObject

VOC_LABELS = {name: label for label, name in enumerate(VOC_CLASSES, start=1)}
_LABEL_OF_NUMBER = {1: 1.0, 0: -1.0, -1: 0.0}
"""VOC's number in the list of a class, to our label: 1 shown, 0 absent, -1 only difficult."""
_HINT = "convert or index the data again, so that its manifest has all classes"


class Boxes(NamedTuple):
    """A picture's objects that have a box."""

    corners: NDArray[np.float32]
    """float32 [N, 4], xyxy pixels, half-open."""
    labels: NDArray[np.int64]
    """int64 [N], 1 … K."""
    difficult: NDArray[np.bool_]
    """bool [N]; False where the source says nothing."""
    iscrowd: NDArray[np.int64]
    """int64 [N]: 1 for a group of objects that nobody told apart, else 0."""

    @classmethod
    def of(
        cls,
        objects: Sequence[SampleObject],
        classes: Mapping[str, int],
        *,
        place: str,
        names_only: bool = False,
    ) -> Boxes:
        """The boxes of objects that have one.

        Raises:
            SampleError: One of them has no class: see `labels_of`.
        """
        labels = labels_of(objects, classes, place=place, names_only=names_only)
        return cls(
            np.array([item.bbox for item in objects], np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            np.array([bool(item.difficult) for item in objects], np.bool_),
            np.array([bool(item.crowd) for item in objects], np.int64),
        )


@dataclass(frozen=True, slots=True)
class Annotated:
    """A sample whose annotation is parsed and whose pictures are not decoded yet."""

    raw: RawSample
    sample_id: int
    task: str
    """What its target is for."""
    size_hw: tuple[int, int]
    """(height, width) of the upright picture, by the annotation if it says it."""
    boxes: Boxes | None
    """None but for detection and instances."""
    planned: Planned | None = None
    """What a recipe will do to it; None: nothing is drawn yet, or there is no recipe."""
    labels: NDArray[np.float32] | None = None
    """See `picture_labels`; None but for classification."""
    picture: str = "jpg"
    """Extension of its picture, one of `PICTURES`."""
    orientation: int = 1
    """EXIF orientation by which the stored picture has to be turned."""
    outlines: Outlines | None = None
    """Of the objects of `boxes`; None but for instances."""
    truth: Truth | None = None
    """What evaluation compares with; None: nobody asked for it."""

    @property
    def stored_hw(self) -> tuple[int, int]:
        """(height, width) of the picture as it is stored."""
        if self.orientation == 1:
            return self.size_hw
        return turned_size(self.size_hw, self.orientation)

    @property
    def has_mask(self) -> bool:
        """Whether its target is a mask of classes."""
        return self.task == "segmentation"


def annotated(
    raw: RawSample,
    *,
    sample_id: int,
    task: str,
    classes: Mapping[str, int] = VOC_LABELS,
    names_only: bool = False,
    unmasked: str = UNMASKED[0],
    categories: tuple[int | str, ...] | None = None,
) -> Annotated:
    """Parse a sample's annotation.

    Args:
        raw: The sample.
        sample_id: Its number.
        task: What its target is for.
        classes: Class to label, from 1; classification has a column for each.
        names_only: Whether labels in the JSON may mean other classes, as in joined datasets.
        unmasked: For instances, one of `UNMASKED`.
        categories: For evaluation of detectors: COCO's id of each class. None: no truth is kept.

    Raises:
        SampleError: A member the task needs is missing, the JSON is not a sample's, an object has
            a class that `classes` does not have, or for instances no outline.
    """
    picture = _picture_of(raw, task)
    for needed in ("json", "class.png") if task == "segmentation" else ("json",):
        if needed not in raw.members:
            raise SampleError(raw.place, f"has no {needed} member, which {task} needs")
    place = f"{raw.place}.json"
    sample = parse_sample(bytes(raw.members["json"]), place=place)
    size_hw = (sample.height, sample.width)
    if size_hw == (0, 0):
        stored_hw = picture_size(raw.members[picture], place=f"{raw.place}.{picture}")
        size_hw = turned_size(stored_hw, sample.orientation)
    boxes, labels, outlines, truth = None, None, None, None
    if task in BOXED:
        objects = [item for item in sample.objects if item.bbox is not None]
        if task == "instances":
            objects, outlines = outlines_of(raw, sample, size_hw, unmasked=unmasked)
        boxes = Boxes.of(objects, classes, place=place, names_only=names_only)
        if categories is not None:
            truth = truth_of(
                sample, objects, boxes.labels, key=raw.key, size_hw=size_hw, categories=categories
            )
    elif task == "classification":
        labels = picture_labels(sample, classes, place=place, names_only=names_only)
    return Annotated(
        raw,
        sample_id,
        task,
        size_hw,
        boxes,
        labels=labels,
        picture=picture,
        orientation=sample.orientation,
        outlines=outlines,
        truth=truth,
    )


def _picture_of(raw: RawSample, task: str) -> str:
    """Extension of a sample's one picture."""
    found = [extension for extension in PICTURES if extension in raw.members]
    if not found:
        raise SampleError(raw.place, f"has no jpg, png or webp member, which {task} needs")
    if len(found) > 1:
        raise SampleError(raw.place, f"has {len(found)} pictures: {', '.join(found)}, expected one")
    return found[0]


def labels_of(
    objects: Sequence[SampleObject],
    classes: Mapping[str, int],
    *,
    place: str,
    names_only: bool = False,
) -> list[int]:
    """Labels of objects: by their names, and by their own labels where they have no name.

    Args:
        objects: The objects.
        classes: Class to label, from 1.
        place: The JSON's name in messages.
        names_only: Whether their own labels may mean other classes.

    Raises:
        SampleError: No class has the name, or the label of an object without a name.
    """
    labels = [classes.get(item.name, 0) for item in objects]
    if 0 not in labels:
        return labels
    most = max(classes.values(), default=0)
    for at, item in enumerate(objects):
        if labels[at]:
            continue
        if item.name:
            problem = f"an object is {item.name!r}, none of the {len(classes)} classes of the data"
            raise SampleError(place, problem, _HINT)
        if not 1 <= item.label <= most:
            problem = f"an object without a name has label {item.label}, expected 1 … {most}"
            raise SampleError(place, problem, _HINT)
        if names_only:
            problem = f"an object has label {item.label} and no name, but joined datasets number"
            hint = "index the data again with the same --classes"
            raise SampleError(place, f"{problem} their classes differently", hint)
        labels[at] = item.label
    return labels


def picture_labels(
    sample: Sample, classes: Mapping[str, int], *, place: str, names_only: bool = False
) -> NDArray[np.float32]:
    """Which classes a picture shows: float32 [number of classes], 20 for VOC.

    Column k is about the class of label k + 1. 1: the picture shows it. 0: it does not. -1: it
    shows only difficult ones, which neither loss nor metric should count. The numbers come from the
    lists of a classification set if the sample has them, else from its objects.

    Raises:
        SampleError: The lists lack a class, or an object has none: see `labels_of`.
    """
    labels: NDArray[np.float32] = np.zeros(max(classes.values(), default=0), np.float32)
    if (numbers := sample.image_labels) is not None:
        if missing := [name for name in classes if name not in numbers]:
            raise SampleError(place, f"image_labels have no {', '.join(missing)}")
        if len(numbers) > len(classes):
            unknown = next(name for name in numbers if name not in classes)
            problem = f"image_labels have {unknown!r}, none of the {len(classes)} classes"
            raise SampleError(place, f"{problem} of the data", _HINT)
        for name, label in classes.items():
            labels[label - 1] = _LABEL_OF_NUMBER[numbers[name]]
        return labels
    found = labels_of(sample.objects, classes, place=place, names_only=names_only)
    for item, label in zip(sample.objects, found, strict=True):
        if not item.difficult:
            labels[label - 1] = 1
        elif labels[label - 1] == 0:
            labels[label - 1] = -1
    return labels
