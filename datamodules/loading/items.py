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
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torchvision import tv_tensors

from datamodules.loading.targets import detection_target, planned_target
from datamodules.pixels.decode import decode_image, decode_mask, picture_size
from datamodules.transforms.checks import checked, name_of, plain
from datamodules.transforms.fused import FusedTransform
from datamodules.transforms.linked_labels import PerBox
from datamodules.transforms.seeding import seed_generators
from shard_tool.errors import SampleError

if TYPE_CHECKING:
    from datamodules.loading.annotated import Annotated
    from datamodules.profiling.batch_cost import Cost
    from datamodules.reading.samples import RawSample
    from datamodules.transforms.device_work import Deferred

Transform: TypeAlias = Callable[..., Any]
"""(image, target) -> (image, target); of generic samples, (sample) -> anything."""


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
        target = planned_target(sample, planned, is_final=not transform.after)
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
        target = plain(target)
    deferred = transform.deferred(planned, decoded)
    cost.decode_s += middle - begun
    cost.transform_s += time.perf_counter() - middle
    return Item(image, target, sample.sample_id, raw.key, sample.size_hw, deferred)


def _check_size(size_hw: tuple[int, int], sample: Annotated) -> None:
    if size_hw != sample.size_hw:
        problem = f"is {size_hw[1]} x {size_hw[0]} px, the JSON says"
        expected = f"{sample.size_hw[1]} x {sample.size_hw[0]}"
        raise SampleError(f"{sample.raw.place}.jpg", f"{problem} {expected}")


def _checked(result: Any, transform: object, sample: Annotated) -> tuple[torch.Tensor, Any]:
    num_labels = 0 if sample.labels is None else len(sample.labels)
    return checked(
        result, transform, task=sample.task, num_labels=num_labels, place=sample.raw.place
    )


def _failed(transform: object, exc: Exception, place: str) -> SampleError:
    problem = f"transform {name_of(transform)!r} raised {type(exc).__name__}: {exc}"
    return SampleError(place, problem)
