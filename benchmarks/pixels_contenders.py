"""Makes what `pixels.py` compares: decoding alone, our recipes and other libraries'."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks import augment
from benchmarks.augment import torchvision as reference
from datamodules import ShardDataset, presets
from datamodules.loading.annotated import annotated
from datamodules.loading.items import load_item, planned
from datamodules.pixels.decode import decode_image, decode_mask
from datamodules.profiling.batch_cost import Cost
from datamodules.reading.samples import RawSample
from datamodules.transforms.seeding import preserved_generators
from shard_tool import ConvertOptions, convert
from shard_tool.keyed_random import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import torch

    from datamodules.loading.annotated import Annotated
    from datamodules.loading.items import Item


BATCH = 16
"""What a recipe draws for at a time, as in a worker."""


class Bytes(NamedTuple):
    """A stored sample's members, as a library gets them."""

    jpeg: bytes
    other: bytes
    """The JSON, or the mask."""


@dataclass(frozen=True, slots=True)
class Contender:
    """What is run over pictures."""

    work: Callable[[Sequence[Any]], None]
    pictures: Sequence[Any]
    """Samples, their bytes, or decoded pictures: what `work` takes."""


def detection(boxes: list[Annotated]) -> dict[str, Contender]:
    """What is done to pictures with boxes, by name."""
    stored = [_bytes(sample, "json") for sample in boxes]
    decoded_once = [
        decode_image(sample.raw.members["jpg"], place="") for sample in boxes[: len(boxes) // 4]
    ]
    found = {
        "decode": Contender(decoded, boxes),
        "ssd": _through(presets.ssd(300), boxes),
        **{
            f"ssd, torchvision after {name}": _by(_ssd_after(decode), stored)
            for name, decode in reference.own_decoders().items()
        },
        "ssd, torchvision on Pillow's": _by(_ssd_on_pillows, stored),
        "ssd, torchvision after our decoder": _through(reference.SSD, boxes),
        "ssdlite": _through(presets.ssdlite(320), boxes),
        "ssdlite, torchvision after our decoder": _through(reference.SSDLITE, boxes),
        "resize 300": _through(presets.detection_eval(300), boxes),
        "resize 300, torchvision after our decoder": _through(
            v2.Resize((300, 300), antialias=True), boxes
        ),
        "resize 300, fast": _through(fast(300), boxes),
        "resize 224": _through(presets.detection_eval(224), boxes),
        "resize 224, fast": _through(fast(224), boxes),
        "resize alone": Contender(resized, decoded_once),
    }
    if augment.is_installed("albumentations"):
        found["ssd, Albumentations"] = _by(augment.load("albumentations").ssd, stored)
    if augment.is_installed("kornia"):
        found["ssd, Kornia"] = Contender(_by_kornia, stored)
    return found


def segmentation(masks: list[Annotated]) -> dict[str, Contender]:
    """What is done to pictures with masks, by name."""
    stored = [_bytes(sample, "class.png") for sample in masks]
    found = {
        "decode, with masks": Contender(decoded_with_masks, masks),
        "segmentation": _through(presets.segmentation_train(256), masks),
        **{
            f"segmentation, torchvision after {name}": _by(_segmentation_after(decode), stored)
            for name, decode in reference.own_decoders().items()
        },
        "segmentation, torchvision after our decoder": _through(reference.SEGMENTATION, masks),
    }
    if augment.is_installed("albumentations"):
        recipe = augment.load("albumentations").segmentation
        found["segmentation, Albumentations"] = _by(recipe, stored)
    return found


def _bytes(sample: Annotated, other: str) -> Bytes:
    return Bytes(bytes(sample.raw.members["jpg"]), bytes(sample.raw.members[other]))


def _through(transform: Any, found: list[Annotated]) -> Contender:
    """Samples as a worker makes them."""

    def work(some: Sequence[Annotated]) -> None:
        for _ in items(some, transform):
            pass

    return Contender(work, found)


def _by(prepare: Callable[[bytes, bytes], Any], stored: list[Bytes]) -> Contender:
    """Samples made of their bytes, one by one."""

    def work(some: Sequence[Bytes]) -> None:
        for sample in some:
            prepare(*sample)

    return Contender(work, stored)


def _by_kornia(some: Sequence[Bytes]) -> None:
    """In batches, as it works."""
    recipe = augment.load("kornia")
    for first in range(0, len(some), BATCH):
        recipe.ssd_batch([recipe.ssd(*sample) for sample in some[first : first + BATCH]])


def _ssd_after(decode: Callable[[bytes], torch.Tensor]) -> Callable[[bytes, bytes], Any]:
    return lambda jpeg, text: reference.ssd_of(tv_tensors.Image(decode(jpeg)), text)


def _ssd_on_pillows(jpeg: bytes, text: bytes) -> Any:
    return reference.ssd_of(reference.opened(jpeg), text)


def _segmentation_after(decode: Callable[[bytes], torch.Tensor]) -> Callable[[bytes, bytes], Any]:
    return lambda jpeg, mask: reference.segmentation_of(decode(jpeg), mask)


def samples(archive: Path, task: str, count: int) -> list[Annotated]:
    """Photographs with boxes, or ones with masks."""
    with tempfile.TemporaryDirectory() as folder:
        options = ConvertOptions(source=str(archive), dest=f"{folder}/voc", task=task, workers=1)
        convert(options)
        raws = islice(ShardDataset(f"{folder}/voc", "trainval", decode=False), count)
        return [_annotated(sample, task) for sample in raws]


def _annotated(sample: dict[str, Any], task: str) -> Annotated:
    members = {name: memoryview(sample[name]) for name in sample if not name.startswith("__")}
    raw = RawSample(sample["__url__"], sample["__key__"], members)
    return annotated(raw, sample_id=0, task=task)


def decoded(found: Sequence[Annotated]) -> None:
    """The pictures alone."""
    for sample in found:
        decode_image(sample.raw.members["jpg"], place="")


def decoded_with_masks(found: Sequence[Annotated]) -> None:
    """The pictures and masks alone."""
    for sample in found:
        decode_image(sample.raw.members["jpg"], place="")
        decode_mask(sample.raw.members["class.png"], place="")


def items(found: Sequence[Annotated], transform: Any) -> Iterator[Item]:
    """One by one, but what a recipe draws for a batch first."""
    cost, keys = Cost(), [digest_of((number,)) for number in range(len(found))]
    with preserved_generators():
        for first in range(0, len(found), BATCH):
            batch = [
                planned(sample, transform=transform, random_key=key)
                for sample, key in zip(found[first : first + BATCH], keys[first:], strict=False)
            ]
            for sample, key in zip(batch, keys[first:], strict=False):
                yield load_item(sample, transform=transform, random_key=key, cost=cost)


def fast(size: int) -> Any:
    """Evaluation with quick decoding."""
    return replace(presets.detection_eval(size), decode="fast")


def resized(pictures: Sequence[torch.Tensor]) -> None:
    """Decoded pictures, to 300 x 300, by torchvision."""
    for picture in pictures:
        v2.functional.resize(picture, [300, 300], antialias=True)


def difference(found: list[Annotated], one: Any, other: Any) -> dict[str, float]:
    """Mean over pictures of the mean difference, and of the worst picture."""
    pairs = zip(items(found, one), items(found, other), strict=True)
    means = [float((a.image.float() - b.image.float()).abs().mean()) for a, b in pairs]
    return {"mean": sum(means) / len(means), "worst_picture": max(means)}
