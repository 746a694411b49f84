"""Recipes for training and evaluation, short enough to read and to copy.

Each recipe draws a view of the picture and a plan for it (`geometry`), and perhaps a change of
colours (`color`). `FusedTransform` does all of it at once. To write another recipe, copy one. To
add `torchvision.transforms.v2`, put them after it with `.then(…)`, or before it in a `v2.Compose`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from datamodules.pixels import geometry
from datamodules.pixels.color import photometric_distortion
from datamodules.pixels.geometry import (
    View,
    center_crop,
    flip,
    iou_crop,
    resized_crop,
    scaled_crop,
    short_side,
    stretch,
    zoom_out,
)
from datamodules.transforms.fused import Drawn, FusedTransform
from datamodules.transforms.multi_scale import MultiScale
from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])
"""RGB mean of ImageNet in [0, 1], which torchvision's classification backbones expect."""
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])
"""RGB standard deviation of ImageNet in [0, 1]."""
_MEAN_RGB = (123, 117, 104)
"""The same mean in 0 … 255: SSD's fill beyond a picture."""
_GREY = (114, 114, 114)
"""YOLO's fill beyond a picture."""
_SHOWN = 224 / 256
"""Share of the shorter side in ImageNet's centre crop for evaluation."""


def checked_size(size: object) -> int:
    """Check that a size is one number of pixels; a pair would be taken for a height and a width.

    Raises:
        OptionError: It is not a whole number from 1.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise OptionError("size", f"{size!r} is not a number of pixels from 1")
    return size


def _checked_range(scale: tuple[float, float], most: float) -> tuple[float, float]:
    low, high = scale
    if not 0 < low <= high <= most:
        raise OptionError("scale", f"{scale!r} is not a range within 0 … {most:g}")
    return scale


def ssd(size: int = 300) -> FusedTransform:
    """SSD's recipe: colours, zoom-out, IoU crop, flip, resize to size x size.

    Source: Liu et al., "SSD: Single Shot MultiBox Detector", 2016, sections 2.2 and 3.6.
    """
    return FusedTransform(partial(_ssd, checked_size(size)), fill=_MEAN_RGB)


def _ssd(
    size: int, size_hw: tuple[int, int], boxes: NDArray[np.float32], generator: np.random.Generator
) -> Drawn:
    change = photometric_distortion(generator)
    view = zoom_out(View.whole(size_hw), generator)
    view, is_held = iou_crop(view, boxes, generator)
    return Drawn(flip(stretch(view, (size, size)), generator), change, is_held)


def ssdlite(size: int = 320) -> FusedTransform:
    """IoU crop, flip, resize to size x size: SSD's recipe without zoom-out and colours.

    Source: torchvision's recipe for ssdlite320_mobilenet_v3_large.
    """
    return FusedTransform(partial(_ssdlite, checked_size(size)))


def _ssdlite(
    size: int, size_hw: tuple[int, int], boxes: NDArray[np.float32], generator: np.random.Generator
) -> Drawn:
    view, is_held = iou_crop(View.whole(size_hw), boxes, generator)
    return Drawn(flip(stretch(view, (size, size)), generator), is_kept=is_held)


def retinanet(short: int = 800, longest: int | None = None) -> FusedTransform:
    """Flip; the shorter side to `short` pixels unless the longer side passes `longest`.

    None: 1333 pixels for a `short` of 800, and in proportion.

    Source: Lin et al., "Focal loss for dense object detection", 2017, sections 4 and 5.
    """
    return FusedTransform(partial(_retinanet, checked_size(short), longest or _longest(short)))


def retinanet_eval(short: int = 800, longest: int | None = None) -> FusedTransform:
    """`retinanet` without the flip; every box is kept."""
    sides = (checked_size(short), longest or _longest(short))
    return FusedTransform(partial(_short_side, *sides), min_size=0)


def _longest(short: int) -> int:
    """Longest side for a shorter side, in the proportion of 1333 to 800."""
    return short * 1333 // 800


def _short_side(
    short: int,
    longest: int,
    size_hw: tuple[int, int],
    boxes: NDArray[np.float32],  # noqa: ARG001
    generator: np.random.Generator,  # noqa: ARG001
) -> Drawn:
    return Drawn(short_side(View.whole(size_hw), short, longest))


def _retinanet(
    short: int,
    longest: int,
    size_hw: tuple[int, int],
    boxes: NDArray[np.float32],  # noqa: ARG001
    generator: np.random.Generator,
) -> Drawn:
    return Drawn(flip(short_side(View.whole(size_hw), short, longest), generator))


def resize(size: int) -> FusedTransform:
    """Resize to size x size; every box is kept."""
    return FusedTransform(partial(_resize, checked_size(size)), min_size=0)


def _resize(
    size: int,
    size_hw: tuple[int, int],
    boxes: NDArray[np.float32],  # noqa: ARG001
    generator: np.random.Generator,  # noqa: ARG001
) -> Drawn:
    return Drawn(stretch(View.whole(size_hw), (size, size)))


def random_resized_crop(size: int = 256, scale: tuple[float, float] = (0.5, 1.0)) -> FusedTransform:
    """Crop a share of the picture's area within `scale`, flip, resize to size x size."""
    return FusedTransform(
        partial(_random_resized_crop, checked_size(size), _checked_range(scale, 1))
    )


def _random_resized_crop(
    size: int,
    scale: tuple[float, float],
    size_hw: tuple[int, int],
    boxes: NDArray[np.float32],  # noqa: ARG001
    generator: np.random.Generator,
) -> Drawn:
    view = resized_crop(View.whole(size_hw), generator, scale=scale)
    return Drawn(flip(stretch(view, (size, size)), generator))


def random_scale_crop(size: int = 480, scale: tuple[float, float] = (0.5, 2.0)) -> FusedTransform:
    """Scale, crop to size x size, flip. Keeps the aspect; masks are void beyond the picture.

    The shorter side becomes 13/12 of `size` (520 for 480) times a factor within `scale`.

    Source: torchvision's reference recipe for segmentation, with its 520, 480 and ranges.
    """
    base = checked_size(size) * 520 // 480
    _checked_range(scale, 100)
    shorter = (max(1, int(base * scale[0])), max(1, int(base * scale[1])))
    return FusedTransform(partial(_random_scale_crop, size, shorter))


def _random_scale_crop(
    size: int,
    shorter: tuple[int, int],
    size_hw: tuple[int, int],
    boxes: NDArray[np.float32],  # noqa: ARG001
    generator: np.random.Generator,
) -> Drawn:
    view = scaled_crop(View.whole(size_hw), generator, size=size, shorter=shorter)
    return Drawn(flip(stretch(view, (size, size)), generator))


def letterbox(size: int = 640) -> FusedTransform:
    """Scale into size x size with the aspect kept, and flip; the rest is grey, void in masks.

    Source: YOLOX (Ge et al., "YOLOX: Exceeding YOLO series in 2021"), which puts pictures into the
    upper left corner; YOLO's grey.
    """
    return FusedTransform(partial(_letterbox, checked_size(size), 0.5), fill=_GREY)


def letterbox_eval(size: int = 640) -> FusedTransform:
    """`letterbox` without the flip; every box is kept."""
    return FusedTransform(partial(_letterbox, checked_size(size), 0.0), fill=_GREY, min_size=0)


def _letterbox(
    size: int,
    flipped: float,
    size_hw: tuple[int, int],
    boxes: NDArray[np.float32],  # noqa: ARG001
    generator: np.random.Generator,
) -> Drawn:
    plan = geometry.letterbox(View.whole(size_hw), size)
    return Drawn(flip(plan, generator, probability=flipped))


def _center_crop(
    size: int,
    size_hw: tuple[int, int],
    boxes: NDArray[np.float32],  # noqa: ARG001
    generator: np.random.Generator,  # noqa: ARG001
) -> Drawn:
    return Drawn(stretch(center_crop(View.whole(size_hw), _SHOWN), (size, size)))


def detection_train(size: int = 300) -> FusedTransform:
    """The default for training detectors: `ssdlite`."""
    return ssdlite(size)


def detection_eval(size: int = 300) -> FusedTransform:
    """Resize to size x size; every box is kept."""
    return resize(size)


def instances_train(short: int = 800) -> FusedTransform:
    """The default for training on masks of objects: `retinanet`.

    Source: He et al., "Mask R-CNN", 2017, section 3.1, which has the same sides.
    """
    return retinanet(short)


def instances_eval(short: int = 800) -> FusedTransform:
    """`instances_train` without the flip; every box is kept."""
    return retinanet_eval(short)


def segmentation_train(size: int = 256) -> FusedTransform:
    """Crop 0.5 to 1 of the picture's area, flip, resize; masks by nearest neighbour."""
    return random_resized_crop(size)


def segmentation_eval(size: int = 256) -> FusedTransform:
    """Resize to size x size; masks by nearest neighbour."""
    return resize(size)


def classification_train(size: int = 224) -> FusedTransform:
    """Crop 0.08 to 1 of the picture's area, flip, resize to size x size.

    Source: Szegedy et al., "Going deeper with convolutions", 2015, section 6; torchvision's
    reference recipe for classification.
    """
    return random_resized_crop(size, scale=(0.08, 1.0))


def classification_eval(size: int = 224) -> FusedTransform:
    """Scale the shorter side to 256/224 of `size`, then crop size x size in the centre.

    The crop is made of whole pixels of the stored picture, so its edges are within one pixel of
    torchvision's, which crops after resizing.

    Source: torchvision's reference recipe for classification.
    """
    return FusedTransform(partial(_center_crop, checked_size(size)))


def multi_scale(make: Callable[[int], Callable[..., Any]], sizes: Sequence[int]) -> MultiScale:
    """One transform at several sizes; each batch gets one of them, all equally likely.

    The draw depends on the seed, the epoch and the first position of the global batch. So it is the
    same on all ranks and for any number of workers, and in a resumed run with the same global batch
    size. Where a dataset is iterated by itself, each sample is a batch of its own.

    Args:
        make: Makes the transform for a size in pixels: a recipe, or a function of your own. It is
            called here, so it may be a lambda.
        sizes: The sizes in pixels.

    Raises:
        OptionError: There is no size.
    """
    return MultiScale(tuple(make(size) for size in sizes))


@dataclass(frozen=True)
class Recipe:
    """A recipe for training and the one for evaluation that goes with it."""

    train: Callable[[int], FusedTransform]
    """Makes the transform for training from a size in pixels."""
    evaluation: Callable[[int], FusedTransform]
    """Makes the transform for evaluation from a size in pixels."""
    size: int
    """The usual size in pixels."""
    tasks: tuple[str, ...] = ("detection", "instances")


_ALL = ("detection", "segmentation", "classification", "instances")

RECIPES = {
    "ssd": Recipe(ssd, resize, 300),
    "ssdlite": Recipe(ssdlite, resize, 320),
    "retinanet": Recipe(retinanet, retinanet_eval, 800),
    "letterbox": Recipe(letterbox, letterbox_eval, 640, _ALL),
    "random_resized_crop": Recipe(random_resized_crop, resize, 256, _ALL),
    "random_scale_crop": Recipe(random_scale_crop, letterbox_eval, 480, ("segmentation",)),
    "imagenet": Recipe(classification_train, classification_eval, 224, ("classification",)),
}
"""Recipes by name, as `VOCDataModule(transforms=…)` takes them."""
DEFAULT_RECIPES = {
    "detection": "ssdlite",
    "segmentation": "random_resized_crop",
    "classification": "imagenet",
    "instances": "retinanet",
}
"""Each task's default, by name."""


def recipe_by_name(
    name: str | None, task: str, *, size: int | None = None, train: bool = True
) -> FusedTransform:
    """A transform of `RECIPES`.

    Args:
        name: Its name; None: the task's default.
        task: The task of the data.
        size: Size in pixels; None: the recipe's usual size.
        train: Whether it is for training or for evaluation.

    Raises:
        OptionError: There is no such recipe, or it is not for this task.
    """
    known = [other for other, found in RECIPES.items() if task in found.tasks]
    name = name or DEFAULT_RECIPES[task]
    if name not in RECIPES:
        raise OptionError("transforms", f"{name!r} is not one of {', '.join(known)}")
    recipe = RECIPES[name]
    if task not in recipe.tasks:
        problem = f"{name!r} is for {' and '.join(recipe.tasks)}, the data is for {task}"
        raise OptionError("transforms", problem, f"take {' or '.join(known)}")
    return (recipe.train if train else recipe.evaluation)(size or recipe.size)
