"""A batch, packed flat: a handful of tensors, however many pictures and boxes it holds.

Pictures of any size lie end to end in one tensor, boxes in another. Only the pixels cross from
worker to parent through shared memory; the small tensors travel inside the message, which costs
less than a file descriptor each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from shard_tool.errors import SampleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datamodules.targets import Item

_SMALL_BYTES = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one rank's part of a global batch. Unpacks: ``images, targets = batch``.

    Detection: images is a list of [3, H, W] (views of one tensor), targets a list of dicts.
    Segmentation: images [B, 3, H, W], masks int64 [B, H, W], 255 = void.
    """

    task: str
    pixels: torch.Tensor
    """uint8 (or float, after scaling) [sum of 3·H·W]: all pictures, CHW, one after another."""
    sizes: torch.Tensor
    """int64 [B, 2]: (height, width) of each picture."""
    masks: torch.Tensor
    """uint8 [sum of H·W]; empty for detection."""
    boxes: torch.Tensor
    """float32 [sum of N, 4]: xyxy pixels; empty for segmentation, as are the next two."""
    labels: torch.Tensor
    """int64 [sum of N]."""
    difficult: torch.Tensor
    """bool [sum of N]."""
    num_boxes: torch.Tensor
    """int64 [B]."""
    sample_ids: torch.Tensor
    """int64 [B]."""
    orig_sizes: torch.Tensor
    """int64 [B, 2]: (height, width) of each stored picture."""
    keys: tuple[str, ...]
    epoch: int
    start: int
    """First position of the global batch in its epoch."""
    stop: int
    """Position after the global batch's last."""

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Any]:
        yield self.images
        yield self.targets

    def __getstate__(self) -> dict[str, Any]:
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _shrunk(value) for name, value in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, _grown(value))

    @property
    def images(self) -> Any:
        """Detection: list of [3, H, W]; segmentation: [B, 3, H, W]. Views, no copies."""
        sizes = self.sizes.tolist()
        if self.task == "segmentation":
            return self.pixels.view(len(self), 3, *self._common_size(sizes))
        flat = torch.split(self.pixels, [3 * height * width for height, width in sizes])
        return [
            pixels.view(3, height, width)
            for pixels, (height, width) in zip(flat, sizes, strict=True)
        ]

    @property
    def targets(self) -> Any:
        """Detection: list of dicts; segmentation: masks int64 [B, H, W]."""
        if self.task == "segmentation":
            height, width = self._common_size(self.sizes.tolist())
            return self.masks.view(len(self), height, width).to(torch.int64)
        counts = self.num_boxes.tolist()
        columns = [torch.split(x, counts) for x in (self.boxes, self.labels, self.difficult)]
        return [
            {
                "boxes": boxes,
                "labels": labels,
                "difficult": difficult,
                "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
                "iscrowd": torch.zeros_like(labels),
                "image_id": self.sample_ids[i],
                "orig_size": self.orig_sizes[i],
                "key": self.keys[i],
            }
            for i, (boxes, labels, difficult) in enumerate(zip(*columns, strict=True))
        ]

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(torch.Tensor.pin_memory)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def with_pixels(self, pixels: torch.Tensor) -> Batch:
        """The same batch with other pixel values, same layout."""
        return replace(self, pixels=pixels)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: change(value) for name, value in values.items() if torch.is_tensor(value)
        }
        return replace(self, **changed)

    def _common_size(self, sizes: list[list[int]]) -> tuple[int, int]:
        odd = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
        if odd is not None:
            (h0, w0), (h1, w1) = sizes[0], sizes[odd]
            problem = f"{w0} x {h0} px, sample {self.keys[odd]!r} {w1} x {h1}: they do not stack"
            hint = "end the transform with a resize or crop to one size"
            raise SampleError(f"sample {self.keys[0]!r}", f"is {problem}", hint)
        return sizes[0][0], sizes[0][1]


def collate(items: list[Item], *, task: str, epoch: int, start: int, stop: int) -> Batch:
    """Pack samples into a `Batch`.

    Raises:
        SampleError: Pictures of one batch have different dtypes.
    """
    dtypes = {item.image.dtype for item in items}
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise SampleError(f"sample {items[0].key!r}", f"one batch holds pictures of {names}")
    is_detection = task == "detection"
    boxes = [item.target["boxes"] for item in items] if is_detection else []
    labels = [item.target["labels"] for item in items] if is_detection else []
    difficult = [item.target["difficult"] for item in items] if is_detection else []
    masks = [] if is_detection else [item.target.reshape(-1) for item in items]
    return Batch(
        task=task,
        pixels=torch.cat([item.image.reshape(-1) for item in items]),
        sizes=torch.tensor([item.image.shape[1:] for item in items], dtype=torch.int64),
        masks=torch.cat(masks) if masks else torch.empty(0, dtype=torch.uint8),
        boxes=torch.cat(boxes) if boxes else torch.empty(0, 4),
        labels=torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64),
        difficult=torch.cat(difficult) if difficult else torch.empty(0, dtype=torch.bool),
        num_boxes=torch.tensor([len(part) for part in boxes], dtype=torch.int64),
        sample_ids=torch.tensor([item.sample_id for item in items], dtype=torch.int64),
        orig_sizes=torch.tensor([item.orig_size for item in items], dtype=torch.int64),
        keys=tuple(item.key for item in items),
        epoch=epoch,
        start=start,
        stop=stop,
    )


def _shrunk(value: Any) -> Any:
    """A small CPU tensor as a NumPy array, which pickles into the message itself."""
    if not torch.is_tensor(value) or value.nbytes > _SMALL_BYTES:
        return value
    if value.device.type != "cpu" or value.dtype == torch.bfloat16:  # NumPy has neither
        return value
    return value.numpy()


def _grown(value: Any) -> Any:
    return torch.from_numpy(value) if type(value).__module__ == "numpy" else value
