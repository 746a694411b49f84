"""Packs samples into a `Batch` of a few flat tensors, however many pictures and boxes there are.

Pictures of any size lie end to end in one tensor, boxes in another. Only pixels and masks go from
worker to parent through shared memory. Small tensors travel inside the message, which is cheaper
than a file descriptor for each.

Pictures are channels last, as decoders give them, so packing a picture is a plain copy, made while
it is still in the processor's caches.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from datamodules.loading.targets import with_areas
from datamodules.loading.tasks import BOXED
from datamodules.profiling.batch_cost import Cost
from shard_tool.errors import OptionError, SampleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datamodules.evaluation.truth import Truth
    from datamodules.loading.items import Item
    from datamodules.transforms.device_work import DeviceWork

_SMALL_BYTES = 1 << 14
_PER_BOX = ("boxes", "labels", "difficult", "iscrowd")
"""Fields of a target that have a row for each box, as tensors of a batch have for all boxes."""


class Batch:
    """One rank's samples of a global batch. Unpacks: ``images, targets = batch``.

    Detection and instances: images is a list of [3, H, W] (views of one tensor), targets a list of
    dicts; those of instances have masks uint8 [N, H, W] (views, too).
    Segmentation: images [B, 3, H, W], masks int64 [B, H, W], 255 = void. Classification: images
    [B, 3, H, W], labels float32 [B, classes]: 1 where the picture shows the class of label k + 1
    in column k, 0 where not, -1 where only difficult ones. Images are channels last in memory.

    Not a dataclass: Lightning converts the tensors of dataclasses, and under ``bf16-true`` would
    round boxes to 8 bits of mantissa.

    Attributes:
        task: One of `tasks.TASKS`.
        pixels: uint8 (or float, after scaling) [sum of H·W·3]: all pictures, each [H, W, 3], end
            to end.
        sizes: int64 [B, 2]: (height, width) of each picture.
        masks: uint8: for segmentation [sum of H·W], for instances [sum of N·H·W], else empty.
        boxes: float32 [sum of N, 4]: xyxy pixels; empty but for detection and instances.
        labels: int64 [sum of N]; float32 [B, classes] for classification; empty for segmentation.
        difficult: bool [sum of N]; empty but for detection and instances.
        iscrowd: int64 [sum of N], 0 or 1; empty but for detection and instances.
        num_boxes: int64 [B]; empty but for detection and instances.
        sample_ids: int64 [B].
        orig_sizes: int64 [B, 2]: (height, width) of each upright picture, before transforms.
        keys: The samples' keys.
        epoch: The epoch.
        start: First position of the global batch in its epoch.
        stop: Position after the global batch's last.
        cost: What the batch cost.
        bad_samples: Sample id to reason, of bad samples; the batch has substitutes for them.
        device_work: What `datamodules.finish` has to do to each picture on the device. The batch
            unpacks only when this is empty.
        truths: What evaluation of detectors compares with, for each sample; empty in training.
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
        iscrowd: torch.Tensor,
        num_boxes: torch.Tensor,
        sample_ids: torch.Tensor,
        orig_sizes: torch.Tensor,
        keys: tuple[str, ...],
        epoch: int,
        start: int,
        stop: int,
        cost: Cost | None = None,
        bad_samples: dict[int, str] | None = None,
        device_work: tuple[DeviceWork, ...] = (),
        truths: tuple[Truth, ...] = (),
    ) -> None:
        self.task, self.pixels, self.sizes, self.masks = task, pixels, sizes, masks
        self.boxes, self.labels = boxes, labels
        self.difficult, self.iscrowd = difficult, iscrowd
        self.num_boxes, self.sample_ids, self.orig_sizes = num_boxes, sample_ids, orig_sizes
        self.keys, self.epoch, self.start, self.stop = keys, epoch, start, stop
        self.cost, self.bad_samples = cost or Cost(), bad_samples or {}
        self.device_work, self.truths = device_work, truths

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Any]:
        yield self.images
        yield self.targets

    def __getstate__(self) -> dict[str, Any]:
        return {name: _pickled(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: _unpickled(value) for name, value in state.items()})

    @property
    def device(self) -> torch.device:
        """The device that the batch is on."""
        return self.sample_ids.device

    @property
    def is_encoded(self) -> bool:
        """Whether pictures still have to be decoded or scaled."""
        return any(work.sent is not None for work in self.device_work)

    @property
    def images(self) -> Any:
        """List of [3, H, W] where targets have boxes; else [B, 3, H, W]. Views, no copies.

        Raises:
            OptionError: `device_work` is not done yet.
        """
        if self.device_work:
            what = "decoded" if self.is_encoded else "recoloured"
            hint = "call datamodules.finish(batch) first, as VOCDataModule does"
            raise OptionError("batch", f"its pictures are not {what} yet", hint)
        sizes = self.sizes.tolist()
        if self.task not in BOXED:
            rows = self.pixels.view(len(self), *self._common_size(sizes), 3)
            return rows.permute(0, 3, 1, 2)
        flat = torch.split(self.pixels, [3 * height * width for height, width in sizes])
        return [
            pixels.view(height, width, 3).permute(2, 0, 1)
            for pixels, (height, width) in zip(flat, sizes, strict=True)
        ]

    @property
    def targets(self) -> Any:
        """Dicts; masks int64 [B, H, W] for segmentation, labels for classification."""
        if self.task == "classification":
            return self.labels
        if self.task == "segmentation":
            height, width = self._common_size(self.sizes.tolist())
            return self.masks.view(len(self), height, width).to(torch.int64)
        counts = self.num_boxes.tolist()
        columns = {name: torch.split(getattr(self, name), counts) for name in _PER_BOX}
        if self.task == "instances":
            columns["masks"] = self._instance_masks(counts)
        return [
            with_areas(
                {
                    **{name: column[i] for name, column in columns.items()},
                    "image_id": self.sample_ids[i],
                    "orig_size": self.orig_sizes[i],
                    "key": self.keys[i],
                    **({"truth": self.truths[i]} if self.truths else {}),
                }
            )
            for i in range(len(self))
        ]

    def _instance_masks(self, counts: list[int]) -> tuple[torch.Tensor, ...]:
        """uint8 [N, H, W] for each picture."""
        shapes = [(count, *size) for count, size in zip(counts, self.sizes.tolist(), strict=True)]
        flat = torch.split(self.masks, [math.prod(shape) for shape in shapes])
        return tuple(masks.view(shape) for masks, shape in zip(flat, shapes, strict=True))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(torch.Tensor.pin_memory)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch on another device, except for what the CPU reads.

        `sizes` and `num_boxes` stay on the CPU: they cut the tensors into pictures and targets, and
        reading them from a GPU would wait for all its work. So do pictures not decoded yet.
        """
        stay = {"sizes": self.sizes, "num_boxes": self.num_boxes}
        if self.is_encoded:
            stay["pixels"] = self.pixels
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        return Batch(**{**vars(moved), **stay})

    def with_pixels(self, pixels: torch.Tensor, *, masks: torch.Tensor | None = None) -> Batch:
        """The same batch with other pixels, and other masks if given, in the same layout."""
        masks = self.masks if masks is None else masks
        return Batch(**{**vars(self), "pixels": pixels, "masks": masks})

    def finished(self, pixels: torch.Tensor) -> Batch:
        """The same batch with these pixels and no device work."""
        return Batch(**{**vars(self), "pixels": pixels, "device_work": ()})

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


class Packing:
    """Packs a batch, one sample after the other.

    Args:
        num_samples: Samples of the batch.
        task: One of `tasks.TASKS`.
        memory: `(num_bytes) -> uint8 [at least num_bytes]`, memory for the pixels and, behind them,
            the masks; called again if that is too small. None: memory of this process, just enough.
        usual_bytes: Bytes of it that the batch before took, as a first guess.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        task: str,
        memory: Callable[[int], torch.Tensor] | None = None,
        usual_bytes: int = 0,
    ) -> None:
        self._num_samples, self._task = num_samples, task
        self._memory, self._usual_bytes = memory, usual_bytes
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._mask_bytes = 0
        self._masks: list[torch.Tensor] = []
        self._dtype: torch.dtype | None = None
        self._sizes: list[tuple[int, int]] = []
        self._targets: list[Any] = []
        self._names: list[tuple[int, str, tuple[int, int]]] = []
        self._device_work: list[DeviceWork] = []
        self.seconds = 0.0
        """Seconds spent so far."""

    def add(self, item: Item) -> None:
        """Pack one more sample.

        Raises:
            SampleError: Its picture's dtype differs from that of the pictures before.
        """
        begun = time.perf_counter()
        image = item.image
        self._dtype = self._dtype or image.dtype
        if image.dtype != self._dtype:
            problem = f"one batch holds pictures of {self._dtype} and {image.dtype}"
            raise SampleError(f"sample {item.key!r}", problem)
        masks = _masks_of(item.target)
        if masks is not None:
            self._masks.append(masks.reshape(-1))
            self._mask_bytes += masks.nbytes
        stop = self._used + image.nbytes
        if stop + (self._mask_bytes if self._memory else 0) > len(self._buffer):
            self._grow(image.nbytes)
        place = self._buffer[self._used : stop].view(self._dtype)
        work = item.device_work
        if work is not None:
            self._device_work.append(work)
        if work is not None and work.sent is not None:
            height, width = work.size_hw
            place.copy_(image.reshape(-1))
        else:
            _, height, width = image.shape
            place.view(height, width, 3).permute(2, 0, 1).copy_(image)
        self._used = stop
        self._sizes.append((height, width))
        self._targets.append(item.target)  # not the item: it holds the picture
        self._names.append((item.sample_id, item.key, item.orig_size))
        self.seconds += time.perf_counter() - begun

    def batch(self, *, epoch: int, start: int, stop: int) -> Batch:
        """The packed batch of positions `start` to `stop`; nothing can be added afterwards."""
        begun, targets = time.perf_counter(), self._targets
        sample_ids, keys, orig_sizes = zip(*self._names, strict=True)
        boxes, labels, difficult, iscrowd = (
            [target[name] for target in targets] if self._task in BOXED else [] for name in _PER_BOX
        )
        if self._task == "classification":
            labels = [torch.stack(targets)]
        pixels = self._buffer[: self._used]
        if self._memory is None and len(self._buffer) > self._used:
            pixels = pixels.clone()  # pickling a view would pickle the whole buffer
        batch = Batch(
            task=self._task,
            pixels=pixels.view(self._dtype or torch.uint8),
            sizes=torch.tensor(self._sizes, dtype=torch.int64),
            masks=self._packed_masks(),
            boxes=torch.cat(boxes) if boxes else torch.empty(0, 4),
            labels=torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64),
            difficult=torch.cat(difficult) if difficult else torch.empty(0, dtype=torch.bool),
            iscrowd=torch.cat(iscrowd) if iscrowd else torch.empty(0, dtype=torch.int64),
            num_boxes=torch.tensor([len(part) for part in boxes], dtype=torch.int64),
            sample_ids=torch.tensor(sample_ids, dtype=torch.int64),
            orig_sizes=torch.tensor(orig_sizes, dtype=torch.int64),
            keys=keys,
            epoch=epoch,
            start=start,
            stop=stop,
            device_work=tuple(self._device_work),
            truths=tuple(
                [its["truth"] for its in targets if isinstance(its, dict) and "truth" in its]
            ),
        )
        batch.cost.collate_s = self.seconds + time.perf_counter() - begun
        return batch

    def _packed_masks(self) -> torch.Tensor:
        """The masks of all samples, behind the pixels if their memory is shared."""
        if not self._masks:
            return torch.empty(0, dtype=torch.uint8)
        if self._memory is None:
            return torch.cat(self._masks)
        packed = self._buffer[self._used : self._used + self._mask_bytes]
        return torch.cat(self._masks, out=packed)

    def _grow(self, num_bytes: int) -> None:
        """Take a larger buffer: for one more picture, and for the rest at the mean size so far.

        At most twice what is used, or the usual size: one large picture says little about the
        others, and containers have little shared memory.
        """
        used, count = self._used + num_bytes, len(self._sizes) + 1
        used += self._mask_bytes if self._memory else 0
        expected = used * self._num_samples // count
        size = max(used, min(expected, max(2 * used, self._usual_bytes)))
        buffer = self._memory(size) if self._memory else torch.empty(size, dtype=torch.uint8)
        buffer[: self._used].copy_(self._buffer[: self._used])
        self._buffer = buffer


def _masks_of(target: Any) -> torch.Tensor | None:
    """What a target has of masks: of classes uint8 [H, W], of objects [N, H, W]."""
    if isinstance(target, dict):
        return target.get("masks")
    return target if target.dtype == torch.uint8 else None


def _pickled(value: Any) -> Any:
    """A small CPU tensor as a NumPy array, whose bytes travel inside the message."""
    if not torch.is_tensor(value) or value.nbytes > _SMALL_BYTES:
        return value
    if value.device.type != "cpu" or value.dtype == torch.bfloat16:  # NumPy has neither
        return value
    return value.numpy()


def _unpickled(value: Any) -> Any:
    return torch.from_numpy(value) if type(value).__module__ == "numpy" else value
