"""Draws sheets of samples to look at: as they are stored, and after a transform in each epoch."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw
from torchvision.transforms.v2 import functional
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from datamodules.loading.dataset import ShardDataset

PADDING = 4
"""White pixels between two pictures."""
_MOST_CHARACTERS = 24
"""Characters of a name that are drawn."""
_VOID = 255


def preview(
    stored: ShardDataset, transformed: ShardDataset, *, samples: int = 6, epochs: int = 4, side: int
) -> Image.Image:
    """A sheet with one row for each sample: as it is stored, then as training gets it each epoch.

    Args:
        stored: The dataset without a transform.
        transformed: The same dataset with a transform.
        samples: Number of rows; the samples are spread evenly over the splits.
        epochs: Number of epochs, from 0 on.
        side: Side of a cell in pixels, at least 2. Pictures are scaled into it, aspect kept.
    """
    count = min(samples, stored.num_samples)
    names = stored.class_names
    cells = []
    for row in range(count):
        sample_id = stored.sample_id_at(row * stored.num_samples // count)
        cells.append(cell(*stored.read(sample_id), side=side, class_names=names))
        drawn = (transformed.read(sample_id, epoch=epoch) for epoch in range(epochs))
        cells += [cell(*sample, side=side, class_names=names) for sample in drawn]
    return _grid(cells, columns=1 + epochs)


def sheet(
    samples: Iterable[tuple[torch.Tensor, Any]],
    *,
    side: int,
    class_names: Sequence[str] | None = None,
) -> Image.Image:
    """A sheet of samples, drawn by `cell`, with about as many rows as columns."""
    cells = [cell(*sample, side=side, class_names=class_names) for sample in samples]
    return _grid(cells, columns=math.ceil(math.sqrt(len(cells))))


def _grid(cells: list[torch.Tensor], *, columns: int) -> Image.Image:
    grid = make_grid(torch.stack(cells), nrow=columns, padding=PADDING, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def cell(
    image: torch.Tensor, target: Any, *, side: int, class_names: Sequence[str] | None = None
) -> torch.Tensor:
    """One sample with its target drawn on it: uint8 [3, side, side].

    Args:
        image: uint8 [3, H, W], or float in [0, 1].
        target: A target with boxes and perhaps masks, a mask [H, W], or a label for each class.
        side: Side of the cell in pixels.
        class_names: Names in the order of labels, as `ShardDataset.class_names`. None: numbers are
            drawn.
    """
    image = torch.as_tensor(image).as_subclass(torch.Tensor)
    if image.dtype != torch.uint8:
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    height, width = image.shape[1:]
    scale = side / max(height, width)
    size = [max(2, round(height * scale)), max(2, round(width * scale))]  # torch fails at 1
    image = functional.resize(image.contiguous(), size, antialias=True)
    if isinstance(target, dict):
        boxes = target["boxes"] * torch.tensor([size[1] / width, size[0] / height] * 2)
        target = {**target, "boxes": boxes}
        if "masks" in target:
            target["masks"] = _resized(target["masks"], size)
        image = marked(image, target, class_names)
    elif target.ndim == 1:
        image = named(image, target, class_names)
    else:
        image = marked(image, _resized(target[None], size)[0])
    sheet: torch.Tensor = functional.pad(image, [0, 0, side - size[1], side - size[0]], fill=[255])
    return sheet


def _resized(masks: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Masks [N, H, W] at another size, as plain tensors."""
    if not len(masks):
        return torch.zeros(0, *size, dtype=torch.uint8)
    plain = torch.as_tensor(masks).as_subclass(torch.Tensor)
    found: torch.Tensor = functional.resize(plain, size, functional.InterpolationMode.NEAREST)
    return found


def marked(
    image: torch.Tensor, target: Any, class_names: Sequence[str] | None = None
) -> torch.Tensor:
    """Draw boxes, with the masks of their objects if there are any, or a mask on a uint8 picture.

    Each box has its `class_text`; those of difficult objects and of crowds are red. Each mask of an
    object, and each label of a mask of classes, has a colour of its own.
    """
    if not isinstance(target, dict):
        labels = [label for label in target.unique().tolist() if label not in (0, _VOID)]
        if not labels:
            return image
        masks = torch.stack([target == label for label in labels])
        found: torch.Tensor = draw_segmentation_masks(
            image, masks, alpha=0.6, colors=[_color(label) for label in labels]
        )
        return found
    boxes: torch.Tensor = target["boxes"].as_subclass(torch.Tensor)
    if not len(boxes):
        return image
    if "masks" in target:
        palette = [_color(number) for number in range(1, 1 + len(boxes))]
        image = draw_segmentation_masks(image, target["masks"].bool(), alpha=0.5, colors=palette)
    # torchvision refuses boxes thinner than a pixel.
    boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], 1)
    names = [class_text(label, class_names) for label in target["labels"].tolist()]
    is_apart = (
        target["difficult"] | target.get("iscrowd", torch.zeros_like(target["labels"])).bool()
    )
    colors = ["red" if apart else "yellow" for apart in is_apart.tolist()]
    drawn: torch.Tensor = draw_bounding_boxes(image, boxes, names, colors=colors, width=2)
    return drawn


def named(
    image: torch.Tensor, labels: torch.Tensor, class_names: Sequence[str] | None = None
) -> torch.Tensor:
    """Write the names of a picture's classes on it; in red those of difficult objects only."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    draw, at = ImageDraw.Draw(picture), (2, 2)
    for number, label in enumerate(labels.tolist(), start=1):
        if label:
            name = class_text(number, class_names)
            draw.rectangle(draw.textbbox(at, name), fill="black")
            draw.text(at, name, fill="yellow" if label > 0 else "red")
            at = (2, at[1] + 12)
    drawn: torch.Tensor = functional.pil_to_tensor(picture)
    return drawn


def class_text(label: int, class_names: Sequence[str] | None = None) -> str:
    """What is drawn for a class: its name, if that can be drawn whole.

    Pillow's own font has the characters of ASCII and few others, and draws boxes for the rest. So
    of a name that has others, or more than 24, the label is drawn and what can be drawn of it.

    Args:
        label: From 1 on.
        class_names: Names in the order of labels; None: the label is drawn.

    >>> [class_text(label, ["red fox", "Bär", "狼"]) for label in (1, 2, 3, 4)]
    ['red fox', '#2 Bar', '#3', '4']
    """
    if class_names is None or not 1 <= label <= len(class_names):
        return str(label)
    name = class_names[label - 1]
    letters = unicodedata.normalize("NFKD", name)
    text = "".join(letter for letter in letters if not unicodedata.combining(letter)).strip()
    if not (text and text.isascii() and text.isprintable()):
        return f"#{label}"
    if len(text) > _MOST_CHARACTERS:
        text = text[: _MOST_CHARACTERS - 1].rstrip() + "…"
    return name if text == name else f"#{label} {text}"


def legend(class_names: Sequence[str]) -> dict[str, str]:
    """What is drawn for a class, to its name, where the two differ."""
    drawn = {class_text(label, class_names): name for label, name in enumerate(class_names, 1)}
    return {text: name for text, name in drawn.items() if text != name}


def _color(label: int) -> tuple[int, int, int]:
    """VOC's colour of a class: the bits of its number, spread over the channels, highest first."""
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (label >> channel & 1) << (7 - bit)
        label >>= 3
    return color[0], color[1], color[2]
