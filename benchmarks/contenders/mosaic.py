"""mosaicml-streaming: shards of its own format, written by `MDSWriter`."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from PIL import Image
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torchvision.transforms import v2

from benchmarks.work import BATCH, WORKERS, collated, prepared, transformed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from benchmarks.data import Data
    from benchmarks.servers import Bucket
    from benchmarks.work import Prepare


def make(data: Data) -> None:
    """Write our samples, in our order, as bytes; and once more as its own JPEG type."""
    for name, kind in (("mosaic", "bytes"), ("mosaic_jpeg", "jpeg")):
        folder = data.copy_of(name)
        if (folder / "index.json").exists():
            continue
        columns = {"jpg": kind, "json": "bytes"}
        with MDSWriter(out=str(folder), columns=columns, size_limit=data.shard_bytes) as out:
            for key, jpeg, text in data.samples():
                path = data.loose / f"VOCdevkit/VOC2007/JPEGImages/{key}.jpg"
                out.write({"jpg": jpeg if kind == "bytes" else Image.open(path), "json": text})


class _Prepared(StreamingDataset):  # type: ignore[misc]  # it ships no types
    prepare: Prepare = staticmethod(prepared)

    def __getitem__(self, at: int) -> Any:
        sample = super().__getitem__(at)
        return self.prepare(sample["jpg"], sample["json"])


class _PreparedNatively(StreamingDataset):  # type: ignore[misc]
    def __getitem__(self, at: int) -> Any:
        sample = super().__getitem__(at)
        return transformed(
            v2.functional.pil_to_tensor(sample["jpg"].convert("RGB")), sample["json"]
        )


@lru_cache(maxsize=1)
def raw(data: Data) -> Iterable[dict[str, Any]]:
    """The one dataset of this process: it keeps no shard open, and cannot be opened twice."""
    dataset: Iterable[dict[str, Any]] = _opened(StreamingDataset, local=str(data.copy_of("mosaic")))
    return dataset


def batches(data: Data, *, num_workers: int = WORKERS) -> StreamingDataLoader:
    """The loader of case 2."""
    return _batched(_opened(_Prepared, local=str(data.copy_of("mosaic"))), num_workers)


def native(data: Data) -> StreamingDataLoader:
    """The same with its own decoder."""
    return _batched(_opened(_PreparedNatively, local=str(data.copy_of("mosaic_jpeg"))), WORKERS)


def augmented(data: Data, prepare: Prepare) -> StreamingDataLoader:
    """The loader of `loaders.py`."""
    dataset = _opened(_Prepared, local=str(data.copy_of("mosaic")))
    dataset.prepare = prepare
    return _batched(dataset, WORKERS)


def remote(bucket: Bucket, cache: Path) -> StreamingDataLoader:
    """The same from a bucket."""
    os.environ |= {
        "S3_ENDPOINT_URL": bucket.endpoint,
        "AWS_ACCESS_KEY_ID": bucket.key,
        "AWS_SECRET_ACCESS_KEY": bucket.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    dataset = _opened(_Prepared, remote=f"{bucket.s3}/mosaic", local=str(cache))
    for stream in dataset.streams:
        # The client that fetched the index would be forked into the workers with its open
        # connection: without TLS they then read each other's answers as their shards.
        stream._downloader.clean_up()
    return _batched(dataset, WORKERS)


def save_state(loader: StreamingDataLoader, path: Path) -> None:
    """Keep where the loader is."""
    path.write_text(json.dumps(loader.state_dict()))


def resumed(data: Data, path: Path) -> StreamingDataLoader:
    """A loader that goes on from a state."""
    loader = batches(data)
    loader.load_state_dict(json.loads(path.read_text()))
    return loader


def _opened(kind: type[StreamingDataset], **where: str) -> StreamingDataset:
    clean_stale_shared_memory()  # what its documentation advises after a crash
    return kind(shuffle=True, batch_size=BATCH, **where)


def _batched(dataset: StreamingDataset, num_workers: int) -> StreamingDataLoader:
    return StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=num_workers, collate_fn=collated
    )
