"""litdata: chunks of its own format, written by `optimize`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from litdata import Jpeg, StreamingDataLoader, StreamingDataset, optimize
from litdata.streaming import downloader

from benchmarks.work import BATCH, WORKERS, Passes, collated, prepared, transformed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from benchmarks.data import Data
    from benchmarks.servers import Bucket
    from benchmarks.work import Prepare


def make(data: Data) -> None:
    """Write our samples, in our order, as bytes; and once more as its own JPEG type."""
    for name, kind in (("litdata", bytes), ("litdata_jpeg", Jpeg)):
        folder = data.copy_of(name)
        if (folder / "index.json").exists():
            continue
        optimize(
            fn=_as_bytes if kind is bytes else _as_jpeg,
            inputs=[str(path) for path in _pictures(data)],
            output_dir=str(folder),
            chunk_bytes=data.shard_bytes,
            num_workers=1,
            verbose=False,
        )


def raw(data: Data) -> Iterable[dict[str, Any]]:
    """A dataset just opened; its views of mapped chunks become owned bytes."""
    dataset = StreamingDataset(str(data.copy_of("litdata")), shuffle=True)
    return Passes(lambda: _owned(dataset))


def batches(data: Data, *, num_workers: int = WORKERS) -> StreamingDataLoader:
    """The loader of case 2."""
    return _loader(str(data.copy_of("litdata")), num_workers=num_workers)


def native(data: Data) -> StreamingDataLoader:
    """The same with its own decoder."""
    folder = str(data.copy_of("litdata_jpeg"))
    dataset = StreamingDataset(folder, shuffle=True, transform=_prepared_natively)
    return _batched(dataset, WORKERS)


def augmented(data: Data, prepare: Prepare) -> StreamingDataLoader:
    """The loader of `loaders.py`."""
    folder = str(data.copy_of("litdata"))
    dataset = StreamingDataset(folder, shuffle=True, transform=partial(_prepared, prepare=prepare))
    return _batched(dataset, WORKERS)


def remote(bucket: Bucket, cache: Path) -> StreamingDataLoader:
    """The same from a bucket."""
    # It fetches chunks with obstore, which refuses http://; it has no option to allow it.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    options = {
        "endpoint_url": bucket.endpoint,
        "aws_access_key_id": bucket.key,
        "aws_secret_access_key": bucket.secret,
    }
    return _loader(f"{bucket.s3}/litdata", cache_dir=str(cache), storage_options=options)


def save_state(loader: StreamingDataLoader, path: Path) -> None:
    """Keep where the loader is."""
    torch.save(loader.state_dict(), path)


def resumed(data: Data, path: Path) -> StreamingDataLoader:
    """A loader that goes on from a state."""
    loader = batches(data)
    loader.load_state_dict(torch.load(path, weights_only=False))
    return loader


def _loader(root: str, *, num_workers: int = WORKERS, **options: Any) -> StreamingDataLoader:
    return _batched(
        StreamingDataset(root, shuffle=True, transform=_prepared, **options), num_workers
    )


def _batched(dataset: StreamingDataset, num_workers: int) -> StreamingDataLoader:
    return StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=num_workers, collate_fn=collated
    )


def _owned(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, bytes]]:
    for sample in samples:
        yield {name: bytes(content) for name, content in sample.items()}


def _pictures(data: Data) -> list[Path]:
    folder = data.loose / "VOCdevkit/VOC2007/JPEGImages"
    return [folder / f"{key}.jpg" for key, _, _ in data.samples()]


def _texts(path: str) -> bytes:
    from pathlib import Path

    picture = Path(path)
    return (picture.parents[3] / "json" / f"{picture.stem}.json").read_bytes()


def _as_bytes(path: str) -> dict[str, bytes]:
    from pathlib import Path

    return {"jpg": Path(path).read_bytes(), "json": _texts(path)}


def _as_jpeg(path: str) -> dict[str, Any]:
    return {"jpg": Jpeg(path=path), "json": _texts(path)}


def _prepared(sample: dict[str, Any], prepare: Prepare = prepared) -> Any:
    return prepare(sample["jpg"], bytes(sample["json"]))


def _prepared_natively(sample: dict[str, Any]) -> Any:
    return transformed(sample["jpg"], bytes(sample["json"]))
