"""Draws a batch as a model gets it, augmented and with boxes or masks, into a PNG file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torchvision.utils import make_grid

from datamodules.preview import marked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from datamodules import Batch


def contact_sheet(
    batch: Batch, path: Path, *, columns: int = 6, class_names: Sequence[str] | None = None
) -> None:
    """Draw a batch of equally sized uint8 pictures; difficult objects have a red box.

    Args:
        batch: The batch.
        path: The PNG file to write.
        columns: Pictures of a row.
        class_names: Names in the order of labels, as of the dataset; None: numbers are drawn.
    """
    images, targets = batch
    pairs = zip(images, targets, strict=True)
    drawn = [marked(image, target, class_names) for image, target in pairs]
    sheet = make_grid(torch.stack(drawn), nrow=columns, padding=4, pad_value=255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(path)
