"""Writes tars as other tools do, and indexes them in this process."""

from __future__ import annotations

import itertools
import subprocess
import zlib
from typing import TYPE_CHECKING, Any

from webdataset.writer import TarWriter

from shard_tool.dataset.index import IndexOptions, IndexReport, index_tars
from shard_tool.format.tar import ShardIndex, copy_members
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.tars import webdataset_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from shard_tool.format.manifest import ShardEntry
    from tests.kit.datasets.tars import Records


def adopted(shards: Iterable[object], dest: object, **options: Any) -> IndexReport:
    """Index tars; in this process unless `workers` is given."""
    names = tuple(str(shard) for shard in shards)
    return index_tars(IndexOptions(shards=names, dest=str(dest), **({"workers": 1} | options)))


def by_webdataset(path: Path, records: Records) -> Path:
    """A tar from webdataset's writer, which writes PAX headers for its fractional times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path), encoder=False) as writer:
        for key, members in records.items():
            writer.write({"__key__": key} | members)
    return path


def by_gnu_tar(path: Path, files: Mapping[str, bytes], *options: str) -> Path:
    """A tar from GNU tar with these files in this order; a name ending in a slash is a folder."""
    root = path.parent / f"{path.name}.files"
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            file.mkdir(exist_ok=True)
        else:
            file.write_bytes(content)
    command = ["tar", "--create", "--no-recursion", *options, "--file", str(path), *files]
    subprocess.run(command, cwd=root, check=True)
    return path


def records_of(name: str, num: int) -> Records:
    """Samples with different members: all have a text, every other one a picture."""
    found: Records = {}
    for i in range(num):
        found[f"{name}/{i:04d}"] = {"txt": f"{name} {i}".encode()}
        if i % 2:
            found[f"{name}/{i:04d}"]["jpg"] = bytes([i, len(name)]) * (100 + 37 * i)
    return found


def shards_of_others(folder: Path, lengths: Iterable[int]) -> list[Path]:
    """Tars from webdataset's writer, with these numbers of samples."""
    return [
        by_webdataset(folder / f"part-{number:03d}.tar", records_of(f"{number:03d}", length))
        for number, length in enumerate(lengths)
    ]


def read_by_webdataset(shards: Iterable[Path]) -> list[tuple[str, dict[str, bytes]]]:
    """(key, members) of each sample, as webdataset reads the tars one after the other."""
    return [sample for shard in shards for sample in webdataset_samples(shard.read_bytes())]


def entries_of(dest: Path) -> list[ShardEntry]:
    return [e for s in load_manifest(Folder(str(dest))).splits.values() for e in s.shards]


def read_by_index(dest: Path, shards: list[Path]) -> list[tuple[str, dict[str, bytes]]]:
    """Read every sample by the offsets of its index, and compare CRCs."""
    found = []
    for entry, shard in zip(entries_of(dest), shards, strict=True):
        content = shard.read_bytes()
        index = (dest / f"{entry.name}.idx").read_bytes()
        parsed = ShardIndex.from_bytes(index, place="", shard_bytes=len(content))
        for (start, stop), crc in zip(
            itertools.pairwise(parsed.starts.tolist()), parsed.crcs.tolist(), strict=True
        ):
            assert zlib.crc32(content[start:stop]) == crc
            members: dict[str, Any] = {}
            found.append((copy_members(content, start, stop, members, place=""), members))
    return found
