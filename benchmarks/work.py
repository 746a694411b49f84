"""Defines the work of every contender on a sample: the same calls on the same bytes.

A sample is a JPEG and its JSON. It becomes a uint8 picture [3, 300, 300] and its boxes, resized and
flipped together, by one `torchvision.transforms.v2` pipeline on tv_tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SIZE = 300
BATCH = 32
WORKERS = 2

Prepared = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""A picture uint8 [3, 300, 300], and {'boxes': float32 [N, 4], 'labels': int64 [N]}."""

Prepare = Callable[[bytes, bytes], Prepared]
"""Makes a sample of its JPEG and its JSON."""

TRANSFORM = v2.Compose([v2.Resize((SIZE, SIZE), antialias=True), v2.RandomHorizontalFlip()])
"""(image, target) -> (image, target)."""


def decoded(jpeg: bytes) -> torch.Tensor:
    """The picture as uint8 [3, H, W], by the fastest decoder at hand: a view of HWC pixels."""
    pixels = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
    return torch.from_numpy(pixels).permute(2, 0, 1)


def prepared(jpeg: bytes, text: bytes) -> Prepared:
    """Decode a sample, and resize and flip it with its boxes."""
    image = decoded(jpeg)
    return transformed(image, text)


def transformed(image: torch.Tensor, text: bytes) -> Prepared:
    """The same for a picture that is decoded already."""
    boxes, labels = objects_of(text)
    target: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes), format="XYXY", canvas_size=tuple(image.shape[1:])
        ),
        "labels": torch.from_numpy(labels),
    }
    picture, target = TRANSFORM(tv_tensors.Image(image), target)
    return plain(picture), {name: plain(value) for name, value in target.items()}


def objects_of(text: bytes) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A sample's boxes, float32 [N, 4] xyxy pixels, and labels, int64 [N]."""
    objects = json.loads(text)["objects"]
    boxes = np.array([item["bbox"] for item in objects], np.float32).reshape(-1, 4)
    return boxes, np.array([item["label"] for item in objects], np.int64)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory without its tv_tensor type."""
    result: torch.Tensor = tensor.as_subclass(torch.Tensor)
    return result


def pixels_only(jpeg: bytes) -> torch.Tensor:
    """Decode, resize, flip: the three calls alone, with no boxes and no tv_tensors."""
    image: torch.Tensor = v2.functional.resize(decoded(jpeg), [SIZE, SIZE], antialias=True)
    if torch.rand(1) < 0.5:
        image = v2.functional.horizontal_flip(image)
    return image


def collated(samples: Sequence[Prepared]) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """A batch: uint8 [B, 3, 300, 300] and a list of targets."""
    return torch.stack([image for image, _ in samples]), [target for _, target in samples]


class Passes:
    """What gives a new iterator, by calling a function, as often as it is iterated."""

    def __init__(self, start: Callable[[], Iterator[Any]]) -> None:
        self._start = start

    def __iter__(self) -> Iterator[Any]:
        return self._start()
