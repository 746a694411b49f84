"""This project: `ShardDataset` and `ShardLoader`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks.work import BATCH, SIZE, TRANSFORM, WORKERS
from datamodules import ShardDataset, ShardLoader, presets

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from benchmarks.data import Data
    from benchmarks.servers import Bucket


def raw(data: Data) -> Iterable[dict[str, Any]]:
    """A dataset just opened."""
    return ShardDataset(str(data.shards), "train", decode=False)


def batches(data: Data, *, num_workers: int = WORKERS) -> ShardLoader:
    """The loader of case 2."""
    return _loader(str(data.shards), num_workers=num_workers)


def augmented(data: Data) -> ShardLoader:
    """The loader of `loaders.py`; the recipe is `presets.ssd`."""
    dataset = ShardDataset(str(data.shards), "train", transform=presets.ssd(SIZE))
    return ShardLoader(dataset, batch_size=BATCH, num_workers=WORKERS)


def remote(bucket: Bucket, cache: Path) -> ShardLoader:
    """The same from a bucket."""
    options = {"key": bucket.key, "secret": bucket.secret, "endpoint_url": bucket.endpoint}
    return _loader(f"{bucket.s3}/shards", cache_dir=str(cache), storage_options=options)


def save_state(loader: ShardLoader, path: Path) -> None:
    """Keep where the loader is."""
    path.write_text(json.dumps(loader.state_dict()))


def resumed(data: Data, path: Path) -> ShardLoader:
    """A loader that goes on from a state."""
    loader = batches(data)
    loader.load_state_dict(json.loads(path.read_text()))
    return loader


def _loader(root: str, *, num_workers: int = WORKERS, **options: Any) -> ShardLoader:
    dataset = ShardDataset(root, "train", transform=TRANSFORM, **options)
    return ShardLoader(dataset, batch_size=BATCH, num_workers=num_workers)
