"""From a sample's verified bytes to what a transform takes, and back from what it returns.

A sample is `(image, target)`: the image uint8 [3, H, W]; for detection the target is a dict (see
`detection_target`), for segmentation a mask [H, W], for classification labels float32 [20], or as
many as the data has classes (see `picture_labels`). Pictures, boxes and masks are tv_tensors, so
any `torchvision.transforms.v2` works on them, and so does anything callable as
`(image, target) -> (image, target)`.

A generic sample is what webdataset yields before decoding, a dict; its transform takes that and
returns what it likes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torchvision import tv_tensors

from datamodules.pixels.decode import decode_image, decode_mask, picture_size
from datamodules.transforms.fused import FusedTransform
from datamodules.transforms.linked_labels import PerBox, in_step
from datamodules.transforms.seeding import seed_generators
from shard_tool.errors import SampleError
from shard_tool.format.sample import VOC_CLASSES, parse_sample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from datamodules.profiling.batch_cost import Cost
    from datamodules.reading.samples import RawSample
    from datamodules.transforms.device_work import Deferred
    from datamodules.transforms.fused import Planned
    from shard_tool.format.sample import Sample

Transform: TypeAlias = Callable[..., Any]
"""(image, target) -> (image, target); of generic samples, (sample) -> anything."""

VOC_LABELS = {name: label for label, name in enumerate(VOC_CLASSES, start=1)}
_LABEL_OF_NUMBER = {1: 1.0, 0: -1.0, -1: 0.0}
"""VOC's number in the list of a class to ours, in which 0 is what it is in a loss: absent."""


@dataclass(frozen=True, slots=True)
class Item:
    """One sample ready for a batch."""

    image: torch.Tensor
    target: Any
    sample_id: int
    key: str
    orig_size: tuple[int, int]
    """(height, width) of the stored picture."""
    deferred: Deferred | None = None
    """What is left to the device; then `image` is what it is left to do it to."""


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
        return self.boxes is None and self.labels is None


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
    return Annotated(raw, sample_id, (sample.height, sample.width), boxes, labels=labels)


def planned(sample: Annotated, *, transform: Transform | None, random_key: bytes) -> Annotated:
    """The sample with what a recipe does to it; as it is for any other transform.

    Apart from `load_item` for the same reason as `annotated`. May seed the global generators: call
    it inside `preserved_generators`.

    Raises:
        SampleError: Drawing failed.
    """
    if not isinstance(transform, FusedTransform):
        return sample
    boxes = sample.boxes.corners if sample.boxes else np.zeros((0, 4), np.float32)
    try:
        found = transform.planned(boxes, size_hw=sample.size_hw, random_key=random_key)
    except Exception as exc:
        raise _failed(transform, exc, sample.raw.place) from exc
    return replace(sample, planned=found)


def load_item(
    sample: Annotated, *, transform: Transform | None, random_key: bytes, cost: Cost
) -> Item:
    """Decode a sample and pass it through a user's transform; `cost` grows by what that took.

    May leave the global generators seeded by `random_key` (see `seed_generators`): call it inside
    `preserved_generators`.

    Raises:
        SampleError: The bytes do not decode, or the transform fails or returns what no batch can
            hold; names the sample.
    """
    raw = sample.raw
    if isinstance(transform, FusedTransform):
        if sample.planned is None:
            sample = planned(sample, transform=transform, random_key=random_key)
        return _fused_item(sample, transform, random_key, cost)
    begun = time.perf_counter()
    pixels = decode_image(raw.members["jpg"], place=f"{raw.place}.jpg")
    _check_size((pixels.shape[1], pixels.shape[2]), sample)
    image = tv_tensors.Image(pixels)
    given: Any
    if sample.boxes is not None:
        given = detection_target(sample)
    elif sample.labels is not None:
        given = torch.from_numpy(sample.labels)
    else:
        given = tv_tensors.Mask(
            decode_mask(raw.members["class.png"], place=f"{raw.place}.class.png")
        )
    decoded = time.perf_counter()
    cost.decode_s += decoded - begun
    result = (image, given)
    if transform is not None:
        result = _transformed(transform, image, given, raw.place, random_key)
    image, target = _checked(result, transform, sample)
    cost.transform_s += time.perf_counter() - decoded
    return Item(image, target, sample.sample_id, raw.key, sample.size_hw)


def load_generic(
    raw: RawSample, *, transform: Transform | None, random_key: bytes, cost: Cost
) -> Any:
    """A generic sample passed through a user's transform, or as it is.

    It is ``{"__key__": str, "__url__": str, extension: bytes, …}``, its own: a transform may change
    it. Seeds as `load_item` does.

    Raises:
        SampleError: The transform failed; names the sample.
    """
    sample: dict[str, Any] = {"__key__": raw.key, "__url__": raw.url}
    sample |= {extension: bytes(content) for extension, content in raw.members.items()}
    if transform is None:
        return sample
    begun = time.perf_counter()
    try:
        seed_generators(random_key)
        return transform(sample)
    except Exception as exc:
        raise _failed(transform, exc, raw.place) from exc
    finally:
        cost.transform_s += time.perf_counter() - begun


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


def detection_target(sample: Annotated) -> dict[str, Any]:
    """The target of a picture: every object that has a box.

    Returns:
        boxes: tv_tensors.BoundingBoxes float32 [N, 4], xyxy pixels, half-open.
        labels: int64 [N], 1 … 20.
        difficult: bool [N]; False where the source says nothing.
        image_id: int64 [], the sample id.
        orig_size: int64 [2], (height, width).
        key: str.
    """
    boxes = sample.boxes
    assert boxes is not None
    corners = tv_tensors.BoundingBoxes(
        torch.from_numpy(boxes.corners), format="XYXY", canvas_size=sample.size_hw
    )
    return _target(sample, corners, torch.from_numpy(boxes.labels), boxes.difficult)


def _target(
    sample: Annotated, corners: torch.Tensor, labels: torch.Tensor, difficult: NDArray[np.bool_]
) -> dict[str, Any]:
    return {
        "boxes": corners,
        "labels": labels,
        "difficult": torch.from_numpy(difficult),  # a third of torch.tensor's time
        "image_id": torch.tensor(sample.sample_id),
        "orig_size": torch.from_numpy(np.array(sample.size_hw, np.int64)),
        "key": sample.raw.key,
    }


def _planned_target(sample: Annotated, planned: Planned, *, is_final: bool) -> dict[str, Any]:
    """The target with its boxes moved; plain tensors where no transform comes after."""
    boxes, is_kept = sample.boxes, planned.is_kept
    assert boxes is not None
    corners = torch.from_numpy(planned.boxes)
    if is_final:
        labels = torch.from_numpy(boxes.labels[is_kept])
        return _target(sample, corners, labels, boxes.difficult[is_kept])
    size_hw = planned.drawn.plan.size_hw
    corners = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size_hw)
    target = _target(
        sample, corners, torch.from_numpy(boxes.labels[is_kept]), boxes.difficult[is_kept]
    )
    return {**target, "labels": PerBox.of(target["labels"], target["difficult"])}


def with_areas(target: dict[str, Any]) -> dict[str, Any]:
    """A detection target with `area` float32 [N] in pixels, and `iscrowd` int64 [N] of zeros.

    VOC has no crowds: `difficult` is its own notion.
    """
    boxes = target["boxes"]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return {**target, "area": area, "iscrowd": torch.zeros_like(target["labels"])}


def _transformed(
    transform: Transform, image: Any, target: Any, place: str, random_key: bytes
) -> Any:
    if isinstance(target, dict):
        target = {**target, "labels": PerBox.of(target["labels"], target["difficult"])}
    try:
        seed_generators(random_key)
        return transform(image, target)
    except Exception as exc:
        raise _failed(transform, exc, place) from exc


def _fused_item(
    sample: Annotated, transform: FusedTransform, random_key: bytes, cost: Cost
) -> Item:
    """An item by a recipe that is planned already."""
    begun = time.perf_counter()
    raw, planned = sample.raw, sample.planned
    assert planned is not None
    _check_size(picture_size(raw.members["jpg"], place=f"{raw.place}.jpg"), sample)
    mask = raw.members["class.png"] if sample.has_mask else None
    target: Any = None
    if sample.boxes is not None:
        target = _planned_target(sample, planned, is_final=not transform.after)
    elif sample.labels is not None:
        target = torch.from_numpy(sample.labels)
    try:
        decoded = transform.decoded(
            planned, raw.members["jpg"], mask, size_hw=sample.size_hw, place=raw.place
        )
        middle = time.perf_counter()
        image, target = transform.carried_out(planned, decoded, target, random_key=random_key)
    except SampleError:
        raise
    except Exception as exc:
        raise _failed(transform, exc, raw.place) from exc
    if transform.after:
        image, target = _checked((image, target), transform, sample)
    elif sample.boxes is None:
        target = _plain(target)
    deferred = transform.deferred(planned, decoded)
    cost.decode_s += middle - begun
    cost.transform_s += time.perf_counter() - middle
    return Item(image, target, sample.sample_id, raw.key, sample.size_hw, deferred)


def _check_size(size_hw: tuple[int, int], sample: Annotated) -> None:
    if size_hw != sample.size_hw:
        problem = f"is {size_hw[1]} x {size_hw[0]} px, the JSON says"
        expected = f"{sample.size_hw[1]} x {sample.size_hw[0]}"
        raise SampleError(f"{sample.raw.place}.jpg", f"{problem} {expected}")


def _name_of(transform: object) -> str:
    name: str = getattr(transform, "__name__", type(transform).__name__)
    return name


def _failed(transform: object, exc: Exception, place: str) -> SampleError:
    problem = f"transform {_name_of(transform)!r} raised {type(exc).__name__}: {exc}"
    return SampleError(place, problem)


def _checked(result: Any, transform: object, sample: Annotated) -> tuple[torch.Tensor, Any]:
    """What a transform returned, as plain tensors that a batch can hold."""
    place = sample.raw.place
    if not (isinstance(result, tuple | list) and len(result) == 2):
        found = type(result).__name__
        problem = f"transform {_name_of(transform)!r} returned {found}, expected (image, target)"
        raise SampleError(place, problem)
    place = place if transform is None else f"{place}, by transform {_name_of(transform)!r}"
    image, target = _checked_image(result[0], place), result[1]
    if sample.boxes is not None:
        return image, _checked_detection(target, place)
    if sample.labels is not None:
        return image, _checked_labels(target, sample.labels.shape, transform, sample.raw.place)
    return image, _checked_mask(target, image, place)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory without its tv_tensor or `PerBox` type."""
    return tensor.as_subclass(torch.Tensor)


def _checked_image(image: object, place: str) -> torch.Tensor:
    found = type(image).__name__
    if isinstance(image, torch.Tensor):
        image = _plain(image)  # before it is looked at, which takes longer on a subclass
        if image.dtype != torch.uint8 and not image.dtype.is_floating_point:
            problem = f"the transform's image is {image.dtype}, expected uint8 or float"
            raise SampleError(place, problem)
        if image.ndim == 3 and image.shape[0] == 3 and image.numel():
            return image
        found = str(tuple(image.shape))
    raise SampleError(place, f"the transform's image is {found}, expected a tensor [3, H, W]")


def _checked_detection(target: Any, place: str) -> dict[str, Any]:
    """The target's boxes and all that goes with them, in step and as plain tensors."""
    if not isinstance(target, dict) or not {"boxes", "labels"} <= target.keys():
        hint = "return the target's dict, also where no box is left ([0, 4] boxes, [0] labels)"
        raise SampleError(place, "the transform's target has no 'boxes' and 'labels'", hint)
    boxes, labels, flags = target["boxes"], target["labels"], target.get("difficult")
    for name, value in (("boxes", boxes), ("labels", labels), ("difficult", flags)):
        if not (isinstance(value, torch.Tensor) or (value is None and name == "difficult")):
            problem = f"{name!r} is {type(value).__name__}, expected a tensor"
            raise SampleError(place, f"after the transform {problem}")
    if isinstance(boxes, tv_tensors.BoundingBoxes) and boxes.format.value != "XYXY":
        hint = "end with v2.ConvertBoundingBoxFormat('XYXY')"
        raise SampleError(place, f"the transform's boxes are {boxes.format.value}", hint)
    if labels.is_floating_point():
        problem = f"after the transform labels are {labels.dtype}, expected integers"
        raise SampleError(place, problem, "leave target['labels'] as they are, or index them")
    flags = in_step(flags, labels)
    boxes, labels = _plain(boxes), _plain(labels)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        problem = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)} are not in step"
        raise SampleError(place, f"after the transform {problem}")
    if boxes.is_floating_point() and not bool((boxes[:, 2:] >= boxes[:, :2]).all()):
        hint = "corners are x0, y0, x1, y1"
        raise SampleError(place, "after the transform some box is inverted or not a number", hint)
    if flags is None or flags.shape != labels.shape:
        hint = "index target['labels'] (or 'difficult') where you drop boxes"
        raise SampleError(place, "after the transform 'difficult' is not in step", hint)
    boxes, labels, flags = (
        value if value.dtype == dtype else value.to(dtype)
        for value, dtype in ((boxes, torch.float32), (labels, torch.int64), (flags, torch.bool))
    )
    return {**target, "boxes": boxes, "labels": labels, "difficult": flags}


def _checked_labels(
    labels: Any, shape: tuple[int, ...], transform: object, place: str
) -> torch.Tensor:
    """A picture's labels as they were given, whatever the transform made of their values."""
    found = tuple(labels.shape) if isinstance(labels, torch.Tensor) else type(labels).__name__
    if found != shape:
        problem = f"transform {_name_of(transform)!r} returned labels {found}, expected {shape}"
        raise SampleError(place, problem)
    return _plain(labels).to(torch.float32)


def _checked_mask(mask: Any, image: torch.Tensor, place: str) -> torch.Tensor:
    found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
    if found != tuple(image.shape[1:]):
        size = tuple(image.shape[1:])
        raise SampleError(place, f"the transform's mask is {found}, its image {size}")
    return _plain(mask).to(torch.uint8)
