"""Loose files: torchvision's VOCDetection, and its lists of files read the fastest simple way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import VOCDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from benchmarks.work import BATCH, TRANSFORM, WORKERS, Passes, collated, plain, prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from benchmarks.data import Data
    from benchmarks.work import Prepare, Prepared


def raw(data: Data) -> Iterable[dict[str, Any]]:
    """A dataset just opened, in a random order."""
    files = _Files(data)
    return Passes(lambda: _raw(files))


def batches(data: Data, *, num_workers: int = WORKERS) -> DataLoader[Any]:
    """The loader of case 2."""
    return _loader(_Files(data), num_workers=num_workers)


def native(data: Data) -> DataLoader[Any]:
    """VOCDetection as its documentation shows it: Pillow, XML, v2 transforms."""
    transforms = v2.Compose([v2.ToImage(), TRANSFORM])
    dataset = VOCDetection(data.loose, year="2007", image_set="train", transforms=transforms)
    wrapped = wrap_dataset_for_transforms_v2(dataset, target_keys=["boxes", "labels"])
    return _loader(_Plain(wrapped), num_workers=WORKERS)


def augmented(
    data: Data,
    prepare: Prepare,
    collate: Callable[[Sequence[Prepared]], Any] = collated,
) -> DataLoader[Any]:
    """The loader of `loaders.py`; `collate` makes a batch of samples."""
    return _loader(_Files(data, prepare), num_workers=WORKERS, collate=collate)


def save_state(_: Any, path: Path) -> None:
    """It has no state: what is kept is how many batches to skip."""
    path.write_text(path.with_suffix(".batches").read_text())


def resumed(data: Data, path: Path) -> DataLoader[Any]:
    """What a user can write for a map-style dataset: the sampler's order, cut."""
    dataset = _Files(data)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    return _loader(dataset, num_workers=WORKERS, order=order[int(path.read_text()) * BATCH :])


class _Files(Dataset[Any]):
    """(picture, JSON) of VOCDetection's lists, prepared as everybody's."""

    def __init__(self, data: Data, prepare: Prepare = prepared) -> None:
        self._prepare = prepare
        listed = VOCDetection(data.loose, year="2007", image_set="train")
        self._folder = data.loose / "json"
        # a blank line of the list gives it a picture without a name
        self._pictures = [path for path in listed.images if Path(path).name != ".jpg"]

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, at: int) -> dict[str, bytes]:
        """The bytes of one sample."""
        picture = Path(self._pictures[at])
        text = self._folder / f"{picture.stem}.json"
        return {"jpg": picture.read_bytes(), "json": text.read_bytes()}

    def __getitem__(self, at: int) -> Any:
        sample = self.read(at)
        return self._prepare(sample["jpg"], sample["json"])


class _Plain(Dataset[Any]):
    """VOCDetection's samples without their tv_tensor types, as everybody's."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, at: int) -> Any:
        image, target = self._dataset[at]
        return plain(image), {name: plain(value) for name, value in target.items()}


def _raw(files: _Files) -> Iterator[dict[str, bytes]]:
    for at in torch.randperm(len(files)).tolist():
        yield files.read(at)


def _loader(
    dataset: Dataset[Any],
    *,
    num_workers: int,
    order: Iterable[int] | None = None,
    collate: Callable[[Sequence[Prepared]], Any] = collated,
) -> DataLoader[Any]:
    sampler = None if order is None else list(order)
    return DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=sampler is None,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
    )
