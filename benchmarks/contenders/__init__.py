"""The contenders: one module each, with the same few functions, as far as it can do them.

* `make(data)` writes its own copy of the data, where it needs one.
* `raw(data)` gives samples as dicts of bytes, anew each time it is iterated.
* `batches(data)` gives the loader of case 2; `native(data)` the same with the peer's own decoder.
* `augmented(data, prepare)` gives the loader of `loaders.py`, whose workers make samples by
  `prepare`; `augmented(data)` the one of a loader that has its own recipe.
* `remote(bucket, cache)` gives the same loader over a bucket.
* `save_state(loader, path)` keeps where a loader is;
  `resumed(data, path)` gives one that goes on from there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

SETTINGS = {
    "ours": "ShardDataset(shuffle=True, window=8); ShardLoader(num_workers=2)",
    "webdataset": (
        "WebDataset(shardshuffle=100).shuffle(1000), .batched(32) in the workers, WebLoader("
        "batch_size=None); remote: http:// through its own curl pipe, cache_dir"
    ),
    "litdata": (
        "optimize(chunk_bytes = our shard size), StreamingDataset(shuffle=True), "
        "StreamingDataLoader; the rest by default: max_pre_download 2, item_shuffle_window 256"
    ),
    "mosaic": (
        "MDSWriter(size_limit = our shard size), StreamingDataset(batch_size=32, shuffle=True), "
        "StreamingDataLoader; the rest by default: py1e, predownload 8 x batch_size"
    ),
    "loose": "VOCDetection's list of files, read whole; DataLoader(shuffle=True, num_workers=2)",
    "bare": "raw: mapped shards sliced by their index, no names read; decode: two plain processes",
}
"""What each runs with."""

NAMES = tuple(SETTINGS)
PEERS = ("webdataset", "litdata", "mosaic", "loose")
WITH_COPIES = ("litdata", "mosaic")
"""Those that read a format of their own."""
AUGMENTED_SETTINGS = {
    "datasets": (
        "Dataset.save_to_disk(max_shard_size = our shard size), bytes undecoded; with_transform on "
        "whole batches; DataLoader(shuffle=True, num_workers=2)"
    ),
    "dali": "readers.coco over loose files, num_threads=2, device_id=None: all on the CPU",
}
"""Those that `loaders.py` has beside them: they are in no other benchmark."""
_MODULES = {"webdataset": "wds", "datasets": "hf"}


def load(name: str) -> ModuleType:
    """The module of a contender."""
    return import_module(f"benchmarks.contenders.{_MODULES.get(name, name)}")
