"""Finishes batches on their device: the rest of a recipe, scaling to [0, 1], normalising.

The same code runs on every device, also on the CPU. Pixels are floats from the decoder on and are
never rounded. A worker rounds twice as it scales, so before colours change the two differ by 1.1
levels at most.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from datamodules.pixels.decode import decode_on_device, nvjpeg
from datamodules.pixels.resample import resample_by_torch
from datamodules.presets import IMAGENET_MEAN, IMAGENET_STD
from shard_tool.errors import SampleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datamodules.loading.batch import Batch
    from datamodules.transforms.device_work import DeviceWork

_SAME_COLORS = np.eye(3, 6, dtype=np.float32)


def finish(batch: Batch, *, normalize: bool = False) -> Batch:
    """A batch as a model takes it: pixels float32 in [0, 1], and no device work.

    It does what workers left to the device (recipes with `decode="cuda"` or `recolor_on="device"`),
    on the device that the batch is on. Pixels that are floats already, by a user's transform, are
    taken as scaled.

    Args:
        batch: The batch; it does not change.
        normalize: Subtract ImageNet's mean and divide by its standard deviation.

    Raises:
        SampleError: A picture does not decode; names its sample.
    """
    with torch.autocast(batch.device.type, enabled=False):  # 8 bits of mantissa are too few
        scaling = _Scaling.of(batch.device, normalize=normalize)
        if batch.device_work:
            return batch.finished(_finished(batch, scaling))
        pixels = batch.pixels
        if pixels.dtype == torch.uint8:
            pixels = pixels.to(torch.float32).div_(255)
        if normalize:
            pixels = ((pixels.view(-1, 3) - scaling.mean) / scaling.std).view(-1)
        return batch.finished(pixels)


def check_decoder(device: torch.device) -> None:
    """Check whether a device can decode, before anything is read.

    Warns if it is not a CUDA device: then the training process decodes, on the CPU.

    Raises:
        OptionError: It is a CUDA device, and there is no nvJPEG.
    """
    if device.type == "cuda":
        nvjpeg()
        return
    text = f"decode='cuda' on {device.type}: the training process decodes, one picture at a time"
    warnings.warn(f"{text}; decode='exact' leaves it to the workers", stacklevel=2)


class _Scaling(NamedTuple):
    """Mean and standard deviation for pixels in [0, 1], float32 [3] each."""

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, device: torch.device, *, normalize: bool) -> _Scaling:
        if normalize:
            return cls(IMAGENET_MEAN.to(device), IMAGENET_STD.to(device))
        nothing = IMAGENET_MEAN.new_zeros(3, device=device)
        return cls(nothing, nothing + 1)

    @property
    def factor(self) -> torch.Tensor:
        return 1 / (255 * self.std)

    @property
    def offset(self) -> torch.Tensor:
        return -self.mean / self.std

    @property
    def high(self) -> torch.Tensor:
        """The value that 255 becomes; 0 becomes `offset`."""
        return (1 - self.mean) / self.std


def _finished(batch: Batch, scaling: _Scaling) -> torch.Tensor:
    """Pixels after the batch's device work: float32 [sum of H·W·3]."""
    todo = batch.device_work
    pixels = _rendered(batch) if batch.is_encoded else batch.pixels.to(torch.float32)
    sizes = [work.size_hw for work in todo]
    if len(set(sizes)) == 1:
        return _recolored(pixels.view(len(todo), *sizes[0], 3), todo, scaling).view(-1)
    flat = torch.split(pixels, [3 * height * width for height, width in sizes])
    parts = [
        _recolored(part.view(1, *size, 3), [work], scaling).view(-1)
        for part, size, work in zip(flat, sizes, todo, strict=True)
    ]
    return torch.cat(parts)


# Colours ----------------------------------------------------------------------------------------


def _recolored(pixels: torch.Tensor, todo: Sequence[DeviceWork], scaling: _Scaling) -> torch.Tensor:
    """Change the colours of what is seen of each picture, and scale all, by one matrix product.

    Args:
        pixels: float32 [B, H, W, 3] in 0 … 255.
        todo: The device work of each picture.
        scaling: How levels are scaled.

    Returns:
        float32 [B, H, W, 3], contiguous.
    """
    if all(work.colors is None for work in todo):
        return pixels * scaling.factor + scaling.offset
    count, height, width, _ = pixels.shape
    device = pixels.device
    rows = _marked(height, [work.seen[0] for work in todo], device)
    columns = _marked(width, [work.seen[1] for work in todo], device)
    known = [_SAME_COLORS if work.colors is None else work.colors for work in todo]
    colors = torch.from_numpy(np.stack(known)).to(device)

    sums = (rows[:, None] @ pixels.view(count, height, -1)).view(count, width, 3)
    area = (rows.sum(1) * columns.sum(1)).clamp(min=1)
    mean = (columns[:, None] @ sums)[:, 0] / area[:, None]
    matrix = scaling.factor[:, None] * colors[:, :, :3]
    offset = (colors[:, :, 3:] @ mean[:, :, None])[:, :, 0]
    offset = scaling.factor * offset + scaling.offset
    changed = torch.baddbmm(offset[:, None], pixels.view(count, -1, 3), matrix.transpose(1, 2))
    changed = torch.clamp(changed, scaling.offset, scaling.high).view_as(pixels)
    is_seen = (rows[:, :, None] * columns[:, None]).bool()[..., None]
    fill = _fills(todo, device)
    return torch.where(is_seen, changed, (fill * scaling.factor + scaling.offset)[:, None, None])


def _marked(length: int, spans: Sequence[slice], device: torch.device) -> torch.Tensor:
    """float32 [B, length]: 1 inside each span, 0 outside."""
    bounds = torch.tensor([(span.start, span.stop) for span in spans], device=device)
    places = torch.arange(length, device=device)
    return ((places >= bounds[:, :1]) & (places < bounds[:, 1:])).to(torch.float32)


def _fills(todo: Sequence[DeviceWork], device: torch.device) -> torch.Tensor:
    """float32 [B, 3]: the fill of each picture."""
    return torch.tensor([work.fill for work in todo], dtype=torch.float32, device=device)


# Geometry ---------------------------------------------------------------------------------------


def _rendered(batch: Batch) -> torch.Tensor:
    """Decode and render all pictures: float32 [sum of H·W·3] in 0 … 255."""
    pictures, device = _decoded(batch), batch.device
    sizes = [3 * work.size_hw[0] * work.size_hw[1] for work in batch.device_work]
    flat = torch.empty(sum(sizes), dtype=torch.float32, device=device)
    fills = _fills(batch.device_work, device)
    outputs = torch.split(flat, sizes)
    for work, output, picture, fill in zip(
        batch.device_work, outputs, pictures, fills, strict=True
    ):
        output = output.view(*work.size_hw, 3)
        output.copy_(fill)
        if picture is not None and (rendering := work.rendering) is not None:
            seen = output[work.seen]
            resample_by_torch(
                picture.permute(1, 2, 0),
                rendering.rows,
                rendering.columns,
                fill=fill,
                is_flipped=rendering.is_flipped,
                is_upside_down=rendering.is_upside_down,
                out=seen.transpose(0, 1) if rendering.swaps_axes else seen,
            )
    return flat


# Decoding ---------------------------------------------------------------------------------------


def _decoded(batch: Batch) -> list[torch.Tensor | None]:
    """Each picture, uint8 [3, h, w] on the device; None: nothing of it is seen."""
    shapes = [work.sent or (0,) for work in batch.device_work]
    contents = torch.split(batch.pixels, [int(np.prod(shape)) for shape in shapes])
    found: list[torch.Tensor | None] = [
        content.view(shape).permute(2, 0, 1).to(batch.device) if len(shape) == 3 else None
        for content, shape in zip(contents, shapes, strict=True)
    ]
    files = [i for i, shape in enumerate(shapes) if len(shape) == 1 and shape[0]]
    places = [f"sample {batch.keys[i]!r}" for i in files]
    pictures = decode_on_device([contents[i] for i in files], batch.device, places=places)
    for i, picture, place in zip(files, pictures, places, strict=True):
        rendering = batch.device_work[i].rendering
        assert rendering is not None
        expected = (rendering.rows.decoded, rendering.columns.decoded)
        if tuple(picture.shape[1:]) != expected:
            problem = f"decoded to (H, W) = {tuple(picture.shape[1:])}, the worker read"
            raise SampleError(place, f"{problem} {expected} in its header")
        found[i] = picture
    return found
