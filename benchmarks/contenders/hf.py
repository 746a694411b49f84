"""Hugging Face datasets: Arrow files with the JPEG's bytes in a column."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from datasets import Dataset, Features, Value, load_from_disk
from torch.utils.data import DataLoader

from benchmarks.work import BATCH, WORKERS, collated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.data import Data
    from benchmarks.work import Prepare, Prepared


def make(data: Data) -> None:
    """Write our samples, in our order, as bytes."""
    folder = data.copy_of("datasets")
    if (folder / "dataset_info.json").exists():
        return
    features = Features({"jpg": Value("binary"), "json": Value("binary")})
    dataset = Dataset.from_generator(
        _samples, features=features, gen_kwargs={"data": data}, cache_dir=str(folder / "made")
    )
    dataset.save_to_disk(str(folder), max_shard_size=data.shard_bytes)


def augmented(data: Data, prepare: Prepare) -> DataLoader[Any]:
    """The loader of `loaders.py`."""
    dataset = load_from_disk(str(data.copy_of("datasets")))
    return DataLoader(
        dataset.with_transform(partial(_prepared, prepare=prepare)),
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        collate_fn=_collated,
    )


def _samples(data: Data) -> Iterator[dict[str, bytes]]:
    for _, jpeg, text in data.samples():
        yield {"jpg": jpeg, "json": text}


def _prepared(rows: dict[str, list[bytes]], prepare: Prepare) -> dict[str, list[Prepared]]:
    """A batch at a time: a DataLoader asks it for all rows of one at once."""
    return {"sample": [prepare(*row) for row in zip(rows["jpg"], rows["json"], strict=True)]}


def _collated(rows: list[dict[str, Prepared]]) -> Any:
    return collated([row["sample"] for row in rows])
