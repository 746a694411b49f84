"""Verified bytes of samples: local shards, mapped into memory and found through their index.

Owns the files and maps of one process. A shard is opened when a sample of it is first read, its
length compared with the manifest's; a few stay open, the least recently read one goes first. Maps
and file handles never cross to another process: a copy starts with none.
"""

from __future__ import annotations

import hashlib
import mmap
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shard_tool.errors import ObjectMissing, OptionError, ShardError
from shard_tool.manifest import ShardArrays, shard_arrays
from shard_tool.tarshard import INDEX_SUFFIX, ShardIndex, read_at_of, split_name, walk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from shard_tool.manifest import Manifest
    from shard_tool.storage import Folder

_OPEN_SHARDS = 64
"""Maps kept by one process; each holds a file descriptor."""


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample's bytes, as they lie in its shard."""

    key: str
    place: str
    """Shard and key, for messages."""
    url: str
    """The shard's path."""
    members: dict[str, memoryview]
    """Extension ('jpg', 'json', 'class.png') to content; views of the map."""


@dataclass(frozen=True, slots=True)
class ShardTable:
    """The chosen shards of one or more roots, one after the other."""

    folders: tuple[Folder, ...]
    root_of: NDArray[np.int64]
    """int64 [shards]: which folder each shard lies in."""
    arrays: ShardArrays
    """Sample ids counted over all roots."""

    @classmethod
    def of(
        cls, folders: Sequence[Folder], manifests: Sequence[Manifest], splits: Sequence[str]
    ) -> ShardTable:
        """Lay the shards of the chosen splits end to end; a root may lack some of the splits."""
        tables, base = [], 0
        for manifest in manifests:
            table = shard_arrays(manifest, tuple(splits))
            tables.append((table, table.first_ids + base))
            base += manifest.num_samples
        counts = [len(table.names) for table, _ in tables]
        arrays = ShardArrays(
            names=np.concatenate([table.names for table, _ in tables]),
            num_samples=np.concatenate([table.num_samples for table, _ in tables]),
            num_bytes=np.concatenate([table.num_bytes for table, _ in tables]),
            first_ids=np.concatenate([first_ids for _, first_ids in tables]),
            sha256=np.concatenate([table.sha256 for table, _ in tables]),
            index_sha256=np.concatenate([table.index_sha256 for table, _ in tables]),
        )
        return cls(tuple(folders), np.repeat(np.arange(len(counts)), counts), arrays)

    def sample_ids(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids of samples given as (shard, row)."""
        return self.arrays.first_ids[shards] + rows

    def find(self, sample_id: int) -> tuple[int, int]:
        """(shard, row) of a sample id.

        Raises:
            OptionError: No sample of the chosen splits has this id.
        """
        shard = int(np.searchsorted(self.arrays.first_ids, sample_id, side="right")) - 1
        row = sample_id - int(self.arrays.first_ids[shard]) if shard >= 0 else -1
        if not 0 <= row < self.arrays.num_samples[max(shard, 0)]:
            raise OptionError(f"sample {sample_id}", "is not in the chosen splits")
        return shard, row


class ShardReader:
    """Reads samples by (shard, row).

    Args:
        table: The shards.
        check_crc: Compare every sample with its CRC-32 in the index. Off for local shards, whose
            bytes `shard-tool verify` hashes; costs about 0.05 ms a sample.
    """

    def __init__(self, table: ShardTable, *, check_crc: bool = False) -> None:
        self._table, self._check_crc = table, check_crc
        self._open: OrderedDict[int, _MappedShard] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def read(self, shard: int, row: int) -> RawSample:
        """The bytes of one sample.

        Raises:
            ObjectMissing: The shard is not there.
            ShardError: The shard or its index is not what the manifest says, or (when asked) the
                sample's CRC is wrong.
        """
        mapped = self._open.get(shard)
        if mapped is None:
            mapped = self._open[shard] = self._map(shard)
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)  # unmapped when its last view is gone
        else:
            self._open.move_to_end(shard)
        return mapped.sample(row, check_crc=self._check_crc)

    def _map(self, shard: int) -> _MappedShard:
        arrays, folder = self._table.arrays, self._table.folders[self._table.root_of[shard]]
        if folder.local is None:
            hint = "copy the dataset to a local disk"
            raise OptionError(str(folder), "this release streams from local folders only", hint)
        return _MappedShard(
            folder.local / str(arrays.names[shard]),
            num_bytes=int(arrays.num_bytes[shard]),
            num_samples=int(arrays.num_samples[shard]),
            index_sha256=arrays.index_sha256[shard].tobytes(),
        )


class _MappedShard:
    """One shard mapped into memory, and its index."""

    def __init__(
        self, path: Path, *, num_bytes: int, num_samples: int, index_sha256: bytes
    ) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                found = file.seek(0, 2)
                if found != num_bytes:
                    problem = f"{found} bytes, the manifest says {num_bytes}"
                    hint = "copy it again, or find all such shards with `shard-tool verify`"
                    raise ShardError(str(path), problem, hint)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as exc:
            hint = "copy it again, or find all such shards with `shard-tool verify`"
            raise ObjectMissing(str(path), "the shard is missing", hint) from exc
        self._view = memoryview(self._map)
        self._read_at = read_at_of(self._view)
        self._index = self._load_index(index_sha256)
        if len(self._index) != num_samples:
            problem = f"{len(self._index)} samples, the manifest says {num_samples}"
            raise ShardError(str(path), problem)
        self._starts = self._index.starts.tolist()

    def sample(self, row: int, *, check_crc: bool) -> RawSample:
        start, stop = self._starts[row], self._starts[row + 1]
        if check_crc and zlib.crc32(self._view[start:stop]) != self._index.crcs[row]:
            problem = f"sample {row}: its bytes do not have the CRC-32 of the index"
            raise ShardError(str(self.path), problem, "copy the shard again")
        members, key = dict[str, memoryview](), ""
        walked = walk(self._read_at, start, stop, place=str(self.path), check=False, whole=False)
        for member in walked:
            if member.is_file and (named := split_name(member.name)):
                key, extension = named
                members[extension] = self._view[member.offset : member.offset + member.size]
        return RawSample(key, f"{self.path}: sample {key!r}", str(self.path), members)

    def _load_index(self, sha256: bytes) -> ShardIndex:
        """The index beside the shard; made by a walk over the headers where there is none."""
        path = self.path.with_name(self.path.name + INDEX_SUFFIX)
        size = len(self._view)
        if not path.exists():
            return ShardIndex.from_shard(self._read_at, size, place=str(self.path))
        content = path.read_bytes()
        if hashlib.sha256(content).digest() != sha256:
            hint = "copy it again, or delete it: it is then made from the shard"
            raise ShardError(str(path), "is not the index the manifest describes", hint)
        return ShardIndex.from_bytes(content, place=str(path), shard_bytes=size)
