"""A batch, packed flat: a handful of tensors, however many pictures and boxes it holds.

Pictures of any size lie end to end in one tensor, boxes in another. Only the pixels cross from
worker to parent through shared memory; the small tensors travel inside the message, which costs
less than a file descriptor each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from datamodules.targets import with_areas
from shard_tool.errors import SampleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datamodules.targets import Item

_SMALL_BYTES = 1 << 14


class Batch:
    """Samples of one rank's part of a global batch. Unpacks: ``images, targets = batch``.

    Detection: images is a list of [3, H, W] (views of one tensor), targets a list of dicts.
    Segmentation: images [B, 3, H, W], masks int64 [B, H, W], 255 = void.

    Not a dataclass on purpose: Lightning looks into those, and under ``bf16-true`` would round the
    boxes to 8 bits of mantissa.

    Attributes:
        task: 'detection' or 'segmentation'.
        pixels: uint8 (or float, after scaling) [sum of 3·H·W]: all pictures, CHW, end to end.
        sizes: int64 [B, 2]: (height, width) of each picture.
        masks: uint8 [sum of H·W]; empty for detection.
        boxes: float32 [sum of N, 4]: xyxy pixels; empty for segmentation, as are the next two.
        labels: int64 [sum of N].
        difficult: bool [sum of N].
        num_boxes: int64 [B].
        sample_ids: int64 [B].
        orig_sizes: int64 [B, 2]: (height, width) of each stored picture.
        keys: The samples' keys.
        epoch: Epoch the batch belongs to.
        start: First position of the global batch in its epoch.
        stop: Position after the global batch's last.
    """

    def __init__(
        self,
        *,
        task: str,
        pixels: torch.Tensor,
        sizes: torch.Tensor,
        masks: torch.Tensor,
        boxes: torch.Tensor,
        labels: torch.Tensor,
        difficult: torch.Tensor,
        num_boxes: torch.Tensor,
        sample_ids: torch.Tensor,
        orig_sizes: torch.Tensor,
        keys: tuple[str, ...],
        epoch: int,
        start: int,
        stop: int,
    ) -> None:
        self.task, self.pixels, self.sizes, self.masks = task, pixels, sizes, masks
        self.boxes, self.labels, self.difficult = boxes, labels, difficult
        self.num_boxes, self.sample_ids, self.orig_sizes = num_boxes, sample_ids, orig_sizes
        self.keys, self.epoch, self.start, self.stop = keys, epoch, start, stop

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Any]:
        yield self.images
        yield self.targets

    def __getstate__(self) -> dict[str, Any]:
        return {name: _shrunk(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: _grown(value) for name, value in state.items()})

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
            with_areas(
                {
                    "boxes": boxes,
                    "labels": labels,
                    "difficult": difficult,
                    "image_id": self.sample_ids[i],
                    "orig_size": self.orig_sizes[i],
                    "key": self.keys[i],
                }
            )
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
        return Batch(**{**vars(self), "pixels": pixels})

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        changed: dict[str, Any] = {
            name: change(value) if torch.is_tensor(value) else value
            for name, value in vars(self).items()
        }
        return Batch(**changed)

    def _common_size(self, sizes: list[list[int]]) -> tuple[int, int]:
        odd = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
        if odd is not None:
            (h0, w0), (h1, w1) = sizes[0], sizes[odd]
            problem = f"{w0} x {h0} px beside {w1} x {h1} px do not stack"
            hint = "end the transform with a resize or crop to one size"
            raise SampleError(f"samples {self.keys[0]!r} and {self.keys[odd]!r}", problem, hint)
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
