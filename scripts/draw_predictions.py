#!/usr/bin/env python
"""Draws the detections of a trained model beside the true objects.

    python scripts/draw_predictions.py CKPT DATA_DIR OUT.png --split val --samples 8

CKPT is a checkpoint of `scripts/train.py`, by path or URL. Each row shows a stored picture twice:
with its objects (difficult ones in red), then with the detections above a score.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torchvision.utils import draw_bounding_boxes, make_grid

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datamodules import ShardDataset
from datamodules.preview import PADDING, cell, class_text, legend
from scripts.scored import check_same_classes
from scripts.train import Detector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIDE = 320
"""Pixels of a cell, into which pictures are scaled keeping their aspect."""


def draw_predictions(
    model: Detector,
    dataset: ShardDataset,
    *,
    samples: int = 8,
    min_score: float = 0.5,
    columns: int = 2,
) -> Image.Image:
    """Draw a sheet of stored pictures: each with its true objects, and again with its detections.

    Args:
        model: Any detector; this sets its evaluation mode.
        dataset: Without a transform: models scale pictures themselves.
        samples: Number of pictures, evenly spread over the dataset.
        min_score: Detections below are left out.
        columns: Pairs of pictures side by side.

    Raises:
        OptionError: The model was trained on other classes than the dataset's.
    """
    model.eval()
    names = dataset.class_names
    check_same_classes(model.class_names or names, names)
    count = min(samples, dataset.num_samples)
    cells = []
    for row in range(count):
        image, target = dataset.read(dataset.sample_id_at(row * dataset.num_samples // count))
        found = found_in(model, image, min_score=min_score, class_names=names)
        cells += [cell(image, target, side=SIDE, class_names=names), found]
    grid = make_grid(torch.stack(cells), nrow=2 * columns, padding=PADDING, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


@torch.no_grad()
def found_in(
    model: Detector, image: Any, *, min_score: float, class_names: Sequence[str] | None = None
) -> torch.Tensor:
    """Draw one cell of the sheet: a picture with detections, each with its class and score.

    Args:
        model: In evaluation mode.
        image: uint8 [3, H, W].
        min_score: Detections below are left out.
        class_names: Names in the order of labels; None: numbers are drawn.
    """
    pixels = torch.as_tensor(image).as_subclass(torch.Tensor)
    (found,) = model([pixels.to(model.device).float() / 255])
    kept = {name: tensor[found["scores"] >= min_score].cpu() for name, tensor in found.items()}
    return labelled(pixels, kept, class_names)


def labelled(
    pixels: torch.Tensor,
    found: Mapping[str, torch.Tensor],
    class_names: Sequence[str] | None = None,
) -> torch.Tensor:
    """Draw a picture and its detections into a cell of the sheet: uint8 [3, SIDE, SIDE]."""
    blank = torch.empty(0, 4)
    empty = {"boxes": blank, "labels": torch.empty(0, dtype=torch.int64), "difficult": blank[:, 0]}
    sheet = cell(pixels, empty, side=SIDE)
    if not len(found["boxes"]):
        return sheet
    scale = SIDE / max(pixels.shape[1:])
    boxes = found["boxes"] * scale
    boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], 1)
    names = [
        f"{class_text(label, class_names)} {score:.2f}"
        for label, score in zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]
    drawn: torch.Tensor = draw_bounding_boxes(sheet, boxes, names, colors="lime", width=2)
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", metavar="CKPT", help="a checkpoint of scripts/train.py")
    parser.add_argument("data_dir", metavar="DATA_DIR", help="the dataset, a folder or a URL")
    parser.add_argument("out", type=Path, metavar="OUT.png", help="the picture to write")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--min-score", type=float, default=0.5, metavar="P", help="default: 0.5")
    options = parser.parse_args(arguments)
    model = Detector.load_from_checkpoint(options.checkpoint, map_location="cpu")
    dataset = ShardDataset(options.data_dir, options.split, shuffle=False)
    sheet = draw_predictions(model, dataset, samples=options.samples, min_score=options.min_score)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out)
    print(f"{options.out}: {min(options.samples, dataset.num_samples)} pictures")
    for text, name in legend(dataset.class_names).items():
        print(f"  {text} is {name!r}")


if __name__ == "__main__":
    main()
