"""webdataset, over the very same shards."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import webdataset as wds

from benchmarks.work import BATCH, WORKERS, collated, prepared, transformed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from benchmarks.data import Data
    from benchmarks.servers import Bucket
    from benchmarks.work import Prepare


def raw(data: Data) -> Iterable[dict[str, Any]]:
    """A dataset just opened."""
    dataset: Iterable[dict[str, Any]] = _dataset([str(path) for path in data.shard_paths()])
    return dataset


def batches(data: Data, *, num_workers: int = WORKERS) -> wds.WebLoader:
    """The loader of case 2."""
    return _loader([str(path) for path in data.shard_paths()], num_workers=num_workers)


def native(data: Data) -> wds.WebLoader:
    """The same with its own decoder."""
    dataset = _dataset([str(path) for path in data.shard_paths()])
    return _batched(dataset.decode("torchrgb8", only=["jpg"]).map(_prepared_natively), WORKERS)


def augmented(data: Data, prepare: Prepare) -> wds.WebLoader:
    """The loader of `loaders.py`."""
    dataset = _dataset([str(path) for path in data.shard_paths()])
    return _batched(dataset.map(partial(_prepared, prepare=prepare)), WORKERS)


def remote(bucket: Bucket, cache: Path) -> wds.WebLoader:
    """The same from a web server."""
    cache.mkdir(parents=True, exist_ok=True)
    urls = [f"{bucket.http}/shards/{name}" for name in bucket.shard_names]
    return _loader(urls, cache_dir=str(cache))


def save_state(_: Any, path: Path) -> None:
    """It has no state: what is kept is how many batches to skip."""
    path.write_text(path.with_suffix(".batches").read_text())


def resumed(data: Data, path: Path) -> Iterable[Any]:
    """A loader whose first batches are made and thrown away."""
    return _Replayed(batches(data), int(path.read_text()))


class _Replayed:
    def __init__(self, loader: Iterable[Any], num_batches: int) -> None:
        self._loader, self._num_batches = loader, num_batches

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._loader):
            if number >= self._num_batches:
                yield batch


def _dataset(urls: list[str], cache_dir: str | None = None) -> wds.WebDataset:
    return wds.WebDataset(urls, shardshuffle=100, cache_dir=cache_dir, seed=0).shuffle(1000)


def _loader(
    urls: list[str], *, num_workers: int = WORKERS, cache_dir: str | None = None
) -> wds.WebLoader:
    return _batched(_dataset(urls, cache_dir).map(_prepared), num_workers)


def _batched(dataset: wds.WebDataset, num_workers: int) -> wds.WebLoader:
    dataset = dataset.batched(BATCH, collation_fn=collated)
    return wds.WebLoader(dataset, batch_size=None, num_workers=num_workers)


def _prepared(sample: dict[str, Any], prepare: Prepare = prepared) -> Any:
    return prepare(sample["jpg"], sample["json"])


def _prepared_natively(sample: dict[str, Any]) -> Any:
    return transformed(sample["jpg"], sample["json"])
