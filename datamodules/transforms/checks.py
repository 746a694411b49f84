"""Checks a user's transform: that it can be called, and what it returned."""

from __future__ import annotations

from typing import Any

import torch
from torchvision import tv_tensors

from datamodules.transforms.fused import FusedTransform
from datamodules.transforms.linked_labels import linked_flags, linked_masks
from datamodules.transforms.multi_scale import MultiScale
from shard_tool.errors import OptionError, SampleError


def check_callable(transform: Any, *, is_generic: bool) -> None:
    """Refuse a transform that the samples of a dataset cannot be given to.

    Args:
        transform: The transform or `MultiScale`; None: there is none.
        is_generic: Whether samples are generic.

    Raises:
        OptionError: It is not callable, or is a recipe for generic samples.
    """
    signature = "(sample)" if is_generic else "(image, target)"
    given = transform.transforms if isinstance(transform, MultiScale) else [transform]
    for one in given if transform is not None else ():
        if not callable(one):
            raise OptionError("transform", f"{type(one).__name__} is not callable as {signature}")
        if is_generic and isinstance(one, FusedTransform):
            problem = f"recipe {one.__name__!r} is for pictures with boxes, a mask or labels"
            hint = f"generic samples take a callable as {signature}"
            raise OptionError("transform", problem, hint)


def name_of(transform: object) -> str:
    """A transform's name in messages."""
    name: str = getattr(transform, "__name__", type(transform).__name__)
    return name


def checked(
    result: Any, transform: object, *, task: str, num_labels: int, place: str
) -> tuple[torch.Tensor, Any]:
    """Check what a transform returned, and make plain tensors of it.

    Args:
        result: What the transform returned, `(image, target)`.
        transform: The transform, for messages; None: the sample is the stored one.
        task: What the target is for.
        num_labels: Labels of a picture; for classification.
        place: The sample's name in messages.

    Raises:
        SampleError: A batch cannot hold it.
    """
    of_sample = place
    if not (isinstance(result, tuple | list) and len(result) == 2):
        found = type(result).__name__
        problem = f"transform {name_of(transform)!r} returned {found}, expected (image, target)"
        raise SampleError(place, problem)
    place = place if transform is None else f"{place}, by transform {name_of(transform)!r}"
    image, target = _checked_image(result[0], place), result[1]
    if task == "detection":
        return image, _checked_detection(target, place)
    if task == "instances":
        detected = _checked_detection(target, place)
        return image, {**detected, "masks": _checked_masks(target, image, place)}
    if task == "classification":
        return image, _checked_labels(target, (num_labels,), transform, of_sample)
    return image, _checked_mask(target, image, place)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a plain tensor, without a tv_tensor's or `LinkedLabels`' type."""
    return tensor.as_subclass(torch.Tensor)


def _checked_image(image: object, place: str) -> torch.Tensor:
    found = type(image).__name__
    if isinstance(image, torch.Tensor):
        image = _plain(image)  # first: looking at a subclass takes longer
        if image.dtype != torch.uint8 and not image.dtype.is_floating_point:
            problem = f"the transform's image is {image.dtype}, expected uint8 or float"
            raise SampleError(place, problem)
        if image.ndim == 3 and image.shape[0] == 3 and image.numel():
            return image
        found = str(tuple(image.shape))
    raise SampleError(place, f"the transform's image is {found}, expected a tensor [3, H, W]")


def _checked_detection(target: Any, place: str) -> dict[str, Any]:
    """A detection target whose boxes, labels and flags agree in number, as plain tensors."""
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
    flags, crowds = linked_flags(flags, labels), _checked_crowds(target, place)
    boxes, labels = _plain(boxes), _plain(labels)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        problem = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)} do not match"
        raise SampleError(place, f"after the transform {problem}")
    if boxes.is_floating_point() and not bool((boxes[:, 2:] >= boxes[:, :2]).all()):
        hint = "corners are x0, y0, x1, y1"
        raise SampleError(place, "after the transform some box is inverted or not a number", hint)
    if flags is None or flags.shape != labels.shape:
        hint = "index target['labels'] (or 'difficult') where you drop boxes"
        raise SampleError(place, "after the transform 'difficult' does not match the labels", hint)
    boxes, labels, flags = (
        value if value.dtype == dtype else value.to(dtype)
        for value, dtype in ((boxes, torch.float32), (labels, torch.int64), (flags, torch.bool))
    )
    return {**target, "boxes": boxes, "labels": labels, "difficult": flags, "iscrowd": crowds}


def _checked_crowds(target: dict[str, Any], place: str) -> torch.Tensor:
    """Which labels are crowds, int64 [N]; none where a transform that makes labels says nothing."""
    labels = target["labels"]
    crowds = linked_flags(target.get("iscrowd"), labels, "iscrowd")
    if crowds is None or (crowds.shape != labels.shape and not crowds.any()):
        return torch.zeros_like(_plain(labels), dtype=torch.int64)
    if crowds.shape != labels.shape:
        hint = "index target['labels'] (or 'iscrowd') where you drop boxes"
        raise SampleError(place, "after the transform 'iscrowd' does not match the labels", hint)
    return crowds.to(torch.int64)


def _checked_masks(target: dict[str, Any], image: torch.Tensor, place: str) -> torch.Tensor:
    """A mask for each label, uint8 [N, H, W]."""
    masks, labels = target.get("masks"), target["labels"]
    expected, found = (len(labels), *image.shape[1:]), type(masks).__name__
    if isinstance(masks, torch.Tensor):
        masks = _plain(linked_masks(masks, labels) if masks.ndim else masks)
        if tuple(masks.shape) == expected:
            return masks.to(torch.uint8)
        found = str(tuple(masks.shape))
    hint = "index target['labels'] (or 'masks') where you drop boxes"
    raise SampleError(place, f"after the transform 'masks' are {found}, not {expected}", hint)


def _checked_labels(
    labels: Any, shape: tuple[int, ...], transform: object, place: str
) -> torch.Tensor:
    """A picture's labels, in the shape that they were given in."""
    found = tuple(labels.shape) if isinstance(labels, torch.Tensor) else type(labels).__name__
    if found != shape:
        problem = f"transform {name_of(transform)!r} returned labels {found}, expected {shape}"
        raise SampleError(place, problem)
    return _plain(labels).to(torch.float32)


def _checked_mask(mask: Any, image: torch.Tensor, place: str) -> torch.Tensor:
    found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
    if found != tuple(image.shape[1:]):
        size = tuple(image.shape[1:])
        raise SampleError(place, f"the transform's mask is {found}, its image {size}")
    return _plain(mask).to(torch.uint8)
