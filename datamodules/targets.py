"""From a sample's verified bytes to what a transform takes, and back from what it returns.

A sample is `(image, target)`: the image uint8 [3, H, W]; for detection the target is a dict (see
`detection_target`), for segmentation a mask [H, W]. Both are tv_tensors, so any
`torchvision.transforms.v2` works on them, and so does anything callable as
`(image, target) -> (image, target)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torchvision import tv_tensors

from datamodules.decode import decode_image, decode_mask
from datamodules.randomness import seeded_generators
from shard_tool.errors import SampleError
from shard_tool.sample import parse_sample

if TYPE_CHECKING:
    from datamodules.shards import RawSample
    from shard_tool.sample import Sample

Transform: TypeAlias = Callable[[Any, Any], Any]
"""(image, target) -> (image, target)."""

TASKS = ("detection", "segmentation")


@dataclass(frozen=True, slots=True)
class Item:
    """One sample ready for a batch."""

    image: torch.Tensor
    target: Any
    sample_id: int
    key: str
    orig_size: tuple[int, int]
    """(height, width) of the stored picture."""


class PerBox(torch.Tensor):
    """Labels that remember which of the sample's boxes they belong to.

    torchvision's `SanitizeBoundingBoxes` and `RandomIoUCrop` drop boxes and index the labels with
    them, but know nothing of our `difficult` flags. Indexed, these labels index `rows` as well, so
    that afterwards the flags can be picked; as the index of a table they hand `rows` on; every
    other operation gives a plain tensor.
    """

    rows: torch.Tensor

    @classmethod
    def of(cls, labels: torch.Tensor) -> PerBox:
        """Labels int64 [N] whose rows are 0 … N - 1."""
        return cls._tagged(labels, torch.arange(len(labels)))

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.__getitem__ and result.ndim:
            source, at = args
            if isinstance(source, cls):  # labels[kept]
                return cls._tagged(result, source.rows[at])
            if isinstance(at, cls):  # table[labels], as one merges classes
                return cls._tagged(result, at.rows)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> PerBox:
        return self._tagged(self.clone(), self.rows.clone())

    @classmethod
    def _tagged(cls, labels: torch.Tensor, rows: torch.Tensor) -> PerBox:
        tagged = labels.as_subclass(cls)
        tagged.rows = rows
        return tagged


def load_item(
    raw: RawSample,
    *,
    sample_id: int,
    task: str,
    transform: Transform | None,
    random_key: tuple[int | str, ...],
) -> Item:
    """Decode a sample and pass it through a user's transform.

    Raises:
        SampleError: The bytes do not decode, or the transform fails or returns what no batch can
            hold; names the sample.
    """
    for needed in ("jpg", "json", *(("class.png",) if task == "segmentation" else ())):
        if needed not in raw.members:
            raise SampleError(raw.place, f"has no {needed} member, which {task} needs")
    sample = parse_sample(bytes(raw.members["json"]), place=f"{raw.place}.json")
    image = tv_tensors.Image(decode_image(raw.members["jpg"], place=f"{raw.place}.jpg"))
    size_hw = (int(image.shape[1]), int(image.shape[2]))
    if size_hw != (sample.height, sample.width):
        problem = f"is {size_hw[1]} x {size_hw[0]} px, the JSON says"
        raise SampleError(f"{raw.place}.jpg", f"{problem} {sample.width} x {sample.height}")
    difficult = None
    if task == "detection":
        target: Any = detection_target(sample, sample_id)
        difficult = target["difficult"]
    else:
        target = tv_tensors.Mask(decode_mask(raw.members["class.png"], place=raw.place))
    if transform is not None:
        image, target = _transformed(transform, image, target, raw.place, random_key)
    image = _checked_image(image, raw.place)
    if task == "detection":
        target = _checked_detection(target, difficult, raw.place)
    else:
        target = _checked_mask(target, image, raw.place)
    return Item(image, target, sample_id, raw.key, size_hw)


def detection_target(sample: Sample, sample_id: int) -> dict[str, Any]:
    """The target of a picture: every object that has a box.

    Returns:
        boxes: tv_tensors.BoundingBoxes float32 [N, 4], xyxy pixels, half-open.
        labels: int64 [N], 1 … 20.
        difficult: bool [N]; False where the source says nothing.
        image_id: int64 [], the sample id.
        orig_size: int64 [2], (height, width).
        key: str.
    """
    objects = [item for item in sample.objects if item.bbox is not None]
    boxes = np.array([item.bbox for item in objects], np.float32).reshape(-1, 4)
    size_hw = (sample.height, sample.width)
    return {
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes), format="XYXY", canvas_size=size_hw
        ),
        "labels": torch.tensor([item.label for item in objects], dtype=torch.int64),
        "difficult": torch.tensor([bool(item.difficult) for item in objects], dtype=torch.bool),
        "image_id": torch.tensor(sample_id),
        "orig_size": torch.tensor(size_hw),
        "key": sample.key,
    }


def with_areas(target: dict[str, Any]) -> dict[str, Any]:
    """A detection target with `area` float32 [N] in pixels, and `iscrowd` int64 [N] of zeros.

    VOC has no crowds: `difficult` is its own notion.
    """
    boxes = target["boxes"]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return {**target, "area": area, "iscrowd": torch.zeros_like(target["labels"])}


def _transformed(
    transform: Transform, image: Any, target: Any, place: str, random_key: tuple[int | str, ...]
) -> tuple[Any, Any]:
    if isinstance(target, dict):
        target = {**target, "labels": PerBox.of(target["labels"])}
    name = getattr(transform, "__name__", type(transform).__name__)
    try:
        with seeded_generators(*random_key):
            result = transform(image, target)
    except Exception as exc:
        problem = f"transform {name!r} raised {type(exc).__name__}: {exc}"
        raise SampleError(place, problem) from exc
    if not (isinstance(result, tuple | list) and len(result) == 2):
        problem = f"transform {name!r} returned {type(result).__name__}, expected (image, target)"
        raise SampleError(place, problem)
    return result[0], result[1]


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory without its tv_tensor or `PerBox` type."""
    return tensor.as_subclass(torch.Tensor)


def _checked_image(image: object, place: str) -> torch.Tensor:
    if not isinstance(image, torch.Tensor) or image.ndim != 3 or image.shape[0] != 3:
        found = tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
        raise SampleError(place, f"the transform's image is {found}, expected a tensor [3, H, W]")
    if image.dtype != torch.uint8 and not image.dtype.is_floating_point:
        raise SampleError(place, f"the transform's image is {image.dtype}, expected uint8 or float")
    return _plain(image)


def _checked_detection(target: Any, difficult: torch.Tensor | None, place: str) -> dict[str, Any]:
    """The target's boxes and all that goes with them, in step and as plain tensors."""
    if not isinstance(target, dict) or not {"boxes", "labels"} <= target.keys():
        raise SampleError(place, "the transform's target has no 'boxes' and 'labels'")
    boxes, labels, flags = target["boxes"], target["labels"], target.get("difficult")
    for name, value in (("boxes", boxes), ("labels", labels), ("difficult", flags)):
        if not isinstance(value, torch.Tensor | None):
            problem = f"{name!r} is {type(value).__name__}, expected a tensor"
            raise SampleError(place, f"after the transform {problem}")
    if isinstance(boxes, tv_tensors.BoundingBoxes) and boxes.format.value != "XYXY":
        hint = "end with v2.ConvertBoundingBoxFormat('XYXY')"
        raise SampleError(place, f"the transform's boxes are {boxes.format.value}", hint)
    boxes = _plain(boxes).to(torch.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        problem = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)} are not in step"
        raise SampleError(place, f"after the transform {problem}")
    if isinstance(labels, PerBox) and difficult is not None:
        is_theirs = flags is not None and flags is not difficult and flags.shape == labels.shape
        flags = flags if is_theirs else difficult[labels.rows]
    if flags is None or flags.shape != labels.shape:
        hint = "index target['labels'] (or 'difficult') where you drop boxes"
        raise SampleError(place, "after the transform 'difficult' is not in step", hint)
    labels = _plain(labels).to(torch.int64)
    return {**target, "boxes": boxes, "labels": labels, "difficult": flags.to(torch.bool)}


def _checked_mask(mask: Any, image: torch.Tensor, place: str) -> torch.Tensor:
    found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
    if found != tuple(image.shape[1:]):
        size = tuple(image.shape[1:])
        raise SampleError(place, f"the transform's mask is {found}, its image {size}")
    return _plain(mask).to(torch.uint8)
