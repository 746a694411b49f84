"""torchvision's v2 recipes on tv_tensors, after the decoder one chooses."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from benchmarks.augment import FILL, SEGMENTATION_PX, SSD_PX, is_installed
from benchmarks.work import decoded, objects_of, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.work import Prepared

SSD = v2.Compose(
    [
        v2.RandomPhotometricDistort(),
        v2.RandomZoomOut(fill={tv_tensors.Image: FILL, "others": 0}),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.Resize((SSD_PX, SSD_PX), antialias=True),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(),
    ]
)
SSDLITE = v2.Compose(
    [
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.Resize((320, 320), antialias=True),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(),
    ]
)
SEGMENTATION = v2.Compose(
    [
        v2.RandomResizedCrop((SEGMENTATION_PX, SEGMENTATION_PX), scale=(0.5, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
    ]
)


def by_torchvision(jpeg: bytes) -> torch.Tensor:
    """`torchvision.io.decode_jpeg`: uint8 [3, H, W]."""
    content = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
    picture: torch.Tensor = decode_jpeg(content, mode=ImageReadMode.RGB)
    return picture


def by_pillow(jpeg: bytes) -> torch.Tensor:
    """Pillow, as torchvision's own VOC datasets decode: uint8 [3, H, W]."""
    picture: torch.Tensor = v2.functional.pil_to_tensor(opened(jpeg))
    return picture


def opened(jpeg: bytes) -> Image.Image:
    """The picture as torchvision's VOC datasets give it."""
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def by_torchcodec(jpeg: bytes) -> torch.Tensor:
    """torchcodec, which torchvision says is to take its decoders' place: uint8 [3, H, W]."""
    from torchcodec.decoders import decode_image

    picture: torch.Tensor = decode_image(
        torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode="RGB"
    )
    return picture


def own_decoders() -> dict[str, Callable[[bytes], torch.Tensor]]:
    """What its documentation shows, what its datasets use, and the first one's successor."""
    found = {"decode_jpeg": by_torchvision, "Pillow": by_pillow}
    return {**found, "torchcodec": by_torchcodec} if is_installed("torchcodec") else found


def ssd(jpeg: bytes, text: bytes) -> Prepared:
    """By simplejpeg, which is the best decoder that a user of torchvision might take."""
    return ssd_of(tv_tensors.Image(decoded(jpeg)), text)


def ssd_of(image: Any, text: bytes) -> Prepared:
    """The recipe on a decoded picture: a tv_tensor, or Pillow's for the chain on Pillow's."""
    corners, labels = objects_of(text)
    size_hw = tuple(v2.functional.get_size(image))
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(corners), format="XYXY", canvas_size=size_hw)
    picture, target = SSD(image, {"boxes": boxes, "labels": torch.from_numpy(labels)})
    if isinstance(picture, Image.Image):
        picture = v2.functional.pil_to_tensor(picture)
    return plain(picture), {name: plain(value) for name, value in target.items()}


def segmentation_of(image: torch.Tensor, mask: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """The recipe on a decoded picture; the mask by Pillow, which keeps a palette's indices."""
    labels = torch.from_numpy(np.array(Image.open(io.BytesIO(mask))))
    picture, seen = SEGMENTATION(tv_tensors.Image(image), tv_tensors.Mask(labels))
    return plain(picture), plain(seen)
