"""Albumentations on NumPy arrays, decoded by simplejpeg.

Its users crop before they recolour, which is cheaper, so geometry comes first here. Zoom-out is
`CropAndPad`, with sides drawn one by one: the canvas is as large in the mean as SSD's. In place of
the IoU crop there is `RandomSizedBBoxSafeCrop`, which keeps every box whole. The four changes of
colour come together in half of the samples, where SSD makes each in half of them.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for a newer release

import albumentations as A  # noqa: N812  (its documentation's name)
import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image

from benchmarks.augment import FILL, SEGMENTATION_PX, SSD_PX
from benchmarks.work import objects_of

if TYPE_CHECKING:
    from benchmarks.work import Prepared

cv2.setNumThreads(0)  # as its documentation asks for in workers

SSD = A.Compose(
    [
        A.CropAndPad(percent=(0.0, 1.5), keep_size=False, fill=FILL, p=0.5),
        A.RandomSizedBBoxSafeCrop(SSD_PX, SSD_PX, p=1.0),
        A.HorizontalFlip(p=0.5),
        A.ColorJitter(
            brightness=(0.875, 1.125),
            contrast=(0.5, 1.5),
            saturation=(0.5, 1.5),
            hue=(-0.05, 0.05),
            p=0.5,
        ),
        A.ChannelShuffle(p=0.5),
    ],
    bbox_params=A.BboxParams(format="pascal_voc", label_fields=["labels"], clip=True),
)
SEGMENTATION = A.Compose(
    [
        A.RandomResizedCrop((SEGMENTATION_PX, SEGMENTATION_PX), scale=(0.5, 1.0), p=1.0),
        A.HorizontalFlip(p=0.5),
    ]
)


def ssd(jpeg: bytes, text: bytes) -> Prepared:
    """SSD's recipe, as near as it comes."""
    boxes, labels = objects_of(text)
    pixels = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
    made = SSD(image=pixels, bboxes=boxes, labels=labels)
    target = {
        "boxes": torch.from_numpy(np.asarray(made["bboxes"], np.float32).reshape(-1, 4)),
        "labels": torch.from_numpy(np.asarray(made["labels"], np.int64)),
    }
    return _as_tensor(made["image"]), target


def segmentation(jpeg: bytes, mask: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """Random resized crop and flip; masks by nearest neighbour."""
    pixels = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
    labels = np.array(Image.open(io.BytesIO(mask)))
    made = SEGMENTATION(image=pixels, mask=labels)
    return _as_tensor(made["image"]), torch.from_numpy(made["mask"])


def _as_tensor(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> torch.Tensor:
    """What its `ToTensorV2` does."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
