"""Writes datasets with given numbers of samples a shard, and counts requests for their shards.

Our writer makes them from pictures of a few hundred bytes; tarfile reads them back.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np

from shard_tool.format.manifest import Manifest, ShardEntry, Split, encode_manifest
from shard_tool.format.sample import encode_sample
from tests.kit.datasets.converted import manifest_of, samples_of
from tests.kit.datasets.samples import sample_of
from tests.kit.datasets.tars import Records, written
from tests.kit.datasets.voc_tree import jpeg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.kit.faults.kinds import Range, Request

WH = (24, 16)
BOX = (2.0, 3.0, 12.0, 11.0)


def stored(
    folder: Path, splits: Mapping[str, Sequence[int]], *, name: str = "voc", padding: int = 0
) -> Path:
    """Write a detection dataset.

    Args:
        folder: Folder to create.
        splits: Samples of each shard of each split.
        name: Begins every key, so that datasets of different names hold different bytes. No two of
            the first 256 pictures have the same pixels.
        padding: Extra bytes in every sample, as a member of its own.
    """
    folder.mkdir(parents=True)
    found = {}
    shades = itertools.count(sum(name.encode()))
    for split, lengths in splits.items():
        shards = []
        for number, length in enumerate(lengths):
            keys = [f"{name}-{split}-{number:03d}-{row:04d}" for row in range(length)]
            samples = {key: _sample(key, next(shades), padding) for key in keys}
            shards.append(shard_written(folder / f"{split}-{number:06d}.tar", samples))
        found[split] = Split(
            shards=tuple(shards),
            num_samples=sum(lengths),
            num_bytes=sum(shard.num_bytes for shard in shards),
            objects={"dog": sum(lengths)},
            difficult={},
        )
    manifest = Manifest(
        name=name,
        task="detection",
        classes={"dog": 1},
        sources=(),
        release="0",
        options={},
        splits=found,
    )
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


def _sample(key: str, shade: int, padding: int) -> dict[str, bytes]:
    sample = sample_of([BOX], wh=WH)
    sample = replace(sample, key=key, objects=(replace(sample.objects[0], name="dog"),))
    members = {"jpg": jpeg(WH, shade), "json": encode_sample(sample)}
    if padding:
        members["bin"] = sha256(key.encode()).digest() * (padding // 32)
    return members


def shard_written(path: Path, samples: Records) -> ShardEntry:
    """Write a shard and its index; return its entry of the manifest."""
    content, result = written(samples)
    index = result.index.to_bytes()
    path.write_bytes(content)
    path.with_name(f"{path.name}.idx").write_bytes(index)
    return ShardEntry(
        name=path.name,
        num_samples=len(samples),
        num_bytes=len(content),
        sha256=result.sha256,
        index_sha256=sha256(index).hexdigest(),
    )


def in_memory(folder: Path, url: str) -> str:
    """Copy a dataset to ``memory://``, for tests in one process."""
    fs = fsspec.filesystem("memory")
    for path in sorted(folder.iterdir()):
        fs.pipe_file(f"{url}/{path.name}", path.read_bytes())
    return url


def hashes_of(folder: Path, *splits: str) -> dict[str, str]:
    """Map each key of the splits to a hash of its sample, read with tarfile."""
    samples = [pair for split in splits for pair in samples_of(folder, split).items()]
    return {key: hash_of(members) for key, members in samples}


def hash_of(members: Mapping[str, Any]) -> str:
    """Hash a sample's members, without webdataset's own fields."""
    sha = sha256()
    for name in sorted(members):
        if not name.startswith("__"):
            sha.update(name.encode() + b"\0" + members[name])
    return sha.hexdigest()[:16]


def hashes_read(samples: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(key, hash) of undecoded samples, in order."""
    return [(sample["__key__"], hash_of(sample)) for sample in samples]


def sizes_of(folder: Path) -> dict[str, int]:
    """Length in bytes of every shard by name, from the manifest."""
    splits = manifest_of(folder)["splits"].values()
    return {shard["name"]: shard["num_bytes"] for split in splits for shard in split["shards"]}


def starts_of(folder: Path, name: str) -> NDArray[np.uint64]:
    """Start of each sample of a shard, then the end of the last, from the index."""
    content = (folder / f"{name}.idx").read_bytes()
    return np.frombuffer(content, "<u8", (len(content) - 8) // 12 + 1)


def sample_bytes(folder: Path, split: str = "train") -> int:
    """Length of all samples of a split with their headers, without the ends of the tars."""
    shards = manifest_of(folder)["splits"][split]["shards"]
    return sum(int(starts_of(folder, shard["name"])[-1]) for shard in shards)


def shard_ranges(requests: Iterable[Request]) -> list[tuple[str, Range | None]]:
    """(name, range) of every request for bytes of a shard."""
    return [
        (request.path.rpartition("/")[2], request.range)
        for request in requests
        if request.method == "GET" and request.path.endswith(".tar")
    ]


def whole_downloads(requests: Iterable[Request], folder: Path) -> Counter[str]:
    """Count how often each shard was read whole; ranges of single samples do not count."""
    sizes = sizes_of(folder)
    return Counter(name for name, at in shard_ranges(requests) if at == (0, sizes[name]))
