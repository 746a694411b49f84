"""Draws a batch as a model gets it, augmented and with boxes or masks, into a PNG file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torchvision.utils import make_grid

from datamodules.preview import marked

if TYPE_CHECKING:
    from pathlib import Path

    from datamodules import Batch


def contact_sheet(batch: Batch, path: Path, *, columns: int = 6) -> None:
    """Draw a batch of equally sized uint8 pictures; difficult objects have a red box."""
    images, targets = batch
    drawn = [marked(image, target) for image, target in zip(images, targets, strict=True)]
    sheet = make_grid(torch.stack(drawn), nrow=columns, padding=4, pad_value=255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(path)
