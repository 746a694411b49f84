"""Makes the items of a batch from samples' bytes, in three steps.

`annotated_samples` parses annotations, `planned_samples` draws what recipes do, and `load_item`
decodes, renders or transforms, and checks the result (`transforms.checks`). The first two take many
samples at once: that is twice as fast as between two pictures, which push their data out of the
processor's caches.

A transform takes `(image, target)`: the image uint8 [3, H, W]; for detection the target is a dict,
for instances also with masks [N, H, W], for segmentation a mask [H, W], for classification labels
float32 [K] (see `targets`). Pictures, boxes and masks are tv_tensors, so any
`torchvision.transforms.v2` works on them, and so does anything callable as
`(image, target) -> (image, target)`.

A generic sample is a dict, as webdataset yields it before decoding. Its transform takes that dict
and may return anything: its result is not checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torchvision import tv_tensors

from datamodules.loading.annotated import Annotated, annotated
from datamodules.loading.outlines import UNMASKED
from datamodules.loading.targets import for_transform, target_of
from datamodules.loading.truths import seen_by_plan, seen_by_transform
from datamodules.pixels.decode import decode_mask, decode_scaled, picture_size
from datamodules.pixels.upright import upright
from datamodules.reading.samples import RawSample
from datamodules.transforms.checks import checked, name_of
from datamodules.transforms.fused import FusedTransform
from datamodules.transforms.seeding import seed_generators
from shard_tool.errors import SampleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datamodules.profiling.batch_cost import Cost
    from datamodules.transforms.device_work import DeviceWork

Transform: TypeAlias = Callable[..., Any]
"""(image, target) -> (image, target); of generic samples, (sample) -> anything."""

Prepared: TypeAlias = Annotated | RawSample | SampleError
"""A sample before its pictures are decoded: annotated; or generic; or bad, then the error that
`load_item` raises."""


@dataclass(frozen=True, slots=True)
class Item:
    """One sample ready for a batch."""

    image: torch.Tensor
    target: Any
    sample_id: int
    key: str
    orig_size: tuple[int, int]
    """(height, width) of the upright picture, before any transform."""
    device_work: DeviceWork | None = None
    """What is left to the device, and then `image` is what the device gets; None: nothing."""


# Many samples at once ---------------------------------------------------------------------------


def annotated_samples(
    raws: Sequence[RawSample],
    sample_ids: Sequence[int],
    *,
    task: str,
    classes: Mapping[str, int],
    cost: Cost,
    names_only: bool = False,
    unmasked: str = UNMASKED[0],
    categories: tuple[int | str, ...] | None = None,
) -> list[Prepared]:
    """Parse the annotation of each sample (see `annotated`); the time is added to `cost`."""
    options: dict[str, Any] = {
        "names_only": names_only,
        "unmasked": unmasked,
        "categories": categories,
    }
    begun, found = time.perf_counter(), list[Prepared]()
    for raw, sample_id in zip(raws, sample_ids, strict=True):
        try:
            found.append(annotated(raw, sample_id=sample_id, task=task, classes=classes, **options))
        except SampleError as exc:
            found.append(exc)
    cost.decode_s += time.perf_counter() - begun
    return found


def planned_samples(
    samples: Sequence[Prepared],
    transforms: Sequence[Transform | None],
    random_keys: Sequence[bytes],
    *,
    cost: Cost,
) -> list[Prepared]:
    """Draw what recipes do to each sample; the time is added to `cost`.

    May seed the global generators: call it inside `preserved_generators`.
    """
    begun, found = time.perf_counter(), list[Prepared]()
    for sample, transform, random_key in zip(samples, transforms, random_keys, strict=True):
        if isinstance(sample, Annotated):
            try:
                found.append(planned(sample, transform=transform, random_key=random_key))
            except SampleError as exc:
                found.append(exc)
        else:
            found.append(sample)
    cost.transform_s += time.perf_counter() - begun
    return found


def planned(sample: Annotated, *, transform: Transform | None, random_key: bytes) -> Annotated:
    """The sample with what a recipe will do to it; unchanged for any other transform.

    May seed the global generators: call it inside `preserved_generators`.

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


# One sample -------------------------------------------------------------------------------------


def load_item(
    sample: Prepared, *, transform: Transform | None, random_key: bytes, cost: Cost
) -> Any:
    """Decode a sample, apply its transform and check the result.

    May leave the global generators seeded by `random_key` (see `seed_generators`): call it inside
    `preserved_generators`.

    Args:
        sample: The sample. A recipe plans it here if it is not planned yet.
        transform: The transform, or None.
        random_key: The key by which the transform draws, 32 bytes.
        cost: The time is added to it.

    Returns:
        An `Item`. Of a generic sample, what its transform returned, else its dict
        ``{"__key__": str, "__url__": str, extension: bytes, …}``.

    Raises:
        SampleError: The bytes do not decode, or the transform fails or returns what no batch can
            hold; names the sample.
    """
    if isinstance(sample, SampleError):
        raise sample
    if isinstance(sample, RawSample):
        return _generic(sample, transform, random_key, cost)
    if isinstance(transform, FusedTransform):
        if sample.planned is None:
            sample = planned(sample, transform=transform, random_key=random_key)
        return _by_recipe(sample, transform, random_key, cost)
    return _by_transform(sample, transform, random_key, cost)


def _by_recipe(sample: Annotated, recipe: FusedTransform, random_key: bytes, cost: Cost) -> Item:
    """Decode as much as the plan needs, render it, and apply the transforms after the recipe."""
    begun, plan, place = time.perf_counter(), sample.planned, sample.raw.place
    assert plan is not None
    size_hw, orientation = sample.size_hw, sample.orientation
    picture, name = _checked_picture(sample)
    try:
        pixels = recipe.decoded(plan, picture, size_hw=size_hw, place=name, orientation=orientation)
        mask = _stored_mask(sample)
        decoded = time.perf_counter()
        image, mask, device_work = recipe.rendered(
            plan, pixels, mask, size_hw=size_hw, orientation=orientation
        )
        if sample.outlines is not None:
            mask = sample.outlines.masks(size_hw, plan.drawn.plan, plan.is_kept)
        target = target_of(sample, mask)
        if recipe.after:
            given = for_transform(target, plan.drawn.plan.size_hw)
            seed_generators(random_key)
            returned = recipe.apply_after(tv_tensors.Image(image), given)
    except SampleError:
        raise
    except Exception as exc:
        raise _failed(recipe, exc, place) from exc
    if recipe.after:
        image, target = _checked(returned, recipe, sample)
    if sample.truth is not None:
        target |= {
            "truth": seen_by_transform(sample.truth, target, (image.shape[1], image.shape[2]))
            if recipe.after
            else seen_by_plan(sample.truth, plan.drawn.plan)
        }
    cost.decode_s += decoded - begun
    cost.transform_s += time.perf_counter() - decoded
    return Item(image, target, sample.sample_id, sample.raw.key, size_hw, device_work)


def _by_transform(
    sample: Annotated, transform: Transform | None, random_key: bytes, cost: Cost
) -> Item:
    """Decode the whole picture, and apply the transform."""
    begun, place = time.perf_counter(), sample.raw.place
    picture, name = _checked_picture(sample)
    pixels = decode_scaled(picture, 1, place=name, size_hw=sample.stored_hw)
    if sample.orientation != 1:
        pixels = upright(pixels, sample.orientation)
    mask = _stored_mask(sample)
    if sample.outlines is not None:
        mask = sample.outlines.masks(sample.size_hw)
    decoded = time.perf_counter()
    cost.decode_s += decoded - begun
    image, target = torch.from_numpy(pixels).permute(2, 0, 1), target_of(sample, mask)
    returned = (image, target)
    if transform is not None:
        given = for_transform(target, sample.size_hw)
        try:
            seed_generators(random_key)
            returned = transform(tv_tensors.Image(image), given)
        except Exception as exc:
            raise _failed(transform, exc, place) from exc
    image, target = _checked(returned, transform, sample)
    if sample.truth is not None:
        size_hw = (image.shape[1], image.shape[2])
        target |= {"truth": seen_by_transform(sample.truth, target, size_hw)}
    cost.transform_s += time.perf_counter() - decoded
    return Item(image, target, sample.sample_id, sample.raw.key, sample.size_hw)


def _generic(raw: RawSample, transform: Transform | None, random_key: bytes, cost: Cost) -> Any:
    """The dict of a generic sample, new each time, so that a transform may change it."""
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


def _checked_picture(sample: Annotated) -> tuple[memoryview, str]:
    """The picture's bytes, whose header agrees with the annotation, and its name in messages."""
    picture, name = sample.raw.members[sample.picture], f"{sample.raw.place}.{sample.picture}"
    height, width = picture_size(picture, place=name)
    if (height, width) != sample.stored_hw:
        expected = f"{sample.stored_hw[1]} x {sample.stored_hw[0]}"
        turned = f" before turning by orientation {sample.orientation}" * (sample.orientation != 1)
        raise SampleError(name, f"is {width} x {height} px, the JSON says {expected}{turned}")
    return picture, name


def _stored_mask(sample: Annotated) -> torch.Tensor | None:
    """The mask, uint8 [H, W], as large as the upright picture; None but for segmentation."""
    if not sample.has_mask:
        return None
    place = f"{sample.raw.place}.class.png"
    mask = decode_mask(sample.raw.members["class.png"], place=place)
    height, width = mask.shape
    if (height, width) != sample.size_hw:
        expected = f"{sample.size_hw[1]} x {sample.size_hw[0]}"
        raise SampleError(place, f"is {width} x {height} px, its picture {expected}")
    return mask


def _checked(returned: Any, transform: object, sample: Annotated) -> tuple[torch.Tensor, Any]:
    num_labels = 0 if sample.labels is None else len(sample.labels)
    place = sample.raw.place
    return checked(returned, transform, task=sample.task, num_labels=num_labels, place=place)


def _failed(transform: object, exc: Exception, place: str) -> SampleError:
    problem = f"transform {name_of(transform)!r} raised {type(exc).__name__}: {exc}"
    return SampleError(place, problem)
