"""Which shards there are: those of the chosen splits of all roots, laid end to end."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import OptionError
from shard_tool.manifest import ShardArrays, shard_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from shard_tool.manifest import Manifest
    from shard_tool.storage import Folder


@dataclass(frozen=True, slots=True)
class ShardTable:
    """The chosen shards of one or more roots, one after the other."""

    folders: tuple[Folder, ...]
    root_of: NDArray[np.int64]
    """int64 [shards]: which folder each shard lies in."""
    arrays: ShardArrays
    """Sample ids counted over all roots."""
    local_roots: dict[int, Path]
    """Roots that are folders of this machine, and where."""

    @classmethod
    def of(
        cls,
        folders: Sequence[Folder],
        manifests: Sequence[Manifest],
        splits: Sequence[tuple[str, ...]],
    ) -> ShardTable:
        """Lay the shards of the chosen splits of each root end to end."""
        tables, base = [], 0
        for manifest, names in zip(manifests, splits, strict=True):
            table = shard_arrays(manifest, names)
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
        local = {root: path for root, f in enumerate(folders) if (path := f.local) is not None}
        root_of = np.repeat(np.arange(len(counts)), counts)
        return cls(tuple(folders), root_of, arrays, local)

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

    def folder(self, shard: int) -> Folder:
        """The folder a shard lies in."""
        return self.folders[int(self.root_of[shard])]

    def is_local(self, shard: int) -> bool:
        """Whether a shard lies on this machine."""
        return int(self.root_of[shard]) in self.local_roots

    def local_path(self, shard: int) -> Path:
        """Where a shard lies on this machine; only for those that do."""
        return self.local_roots[int(self.root_of[shard])] / self.name(shard)

    def name(self, shard: int) -> str:
        """A shard's name in its folder."""
        name: bytes = self.arrays.names[shard]
        return name.decode()

    def place(self, shard: int) -> str:
        """What messages call a shard."""
        return self.folder(shard).place(self.name(shard))

    def read_ranges(
        self, shards: Sequence[int], ranges: Sequence[tuple[str, int, int]]
    ) -> list[bytes]:
        """Ranges of objects beside these shards, those of one folder together."""
        contents = [b""] * len(shards)
        roots = [int(self.root_of[shard]) for shard in shards]
        for root in sorted(set(roots)):
            at = [i for i, found in enumerate(roots) if found == root]
            read = self.folders[root].read_ranges([ranges[i] for i in at])
            for i, content in zip(at, read, strict=True):
                contents[i] = content
        return contents

    def read_parts(self, shard: int, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` to `stop` of a shard, a few MiB at a time."""
        size = int(self.arrays.num_bytes[shard])
        return self.folder(shard).read_parts(self.name(shard), start, stop, num_bytes=size)


def chosen_splits(
    folders: Sequence[Folder], manifests: Sequence[Manifest], split: str | Sequence[str]
) -> list[tuple[str, ...]]:
    """The chosen splits of each root, which may lack some of them.

    Raises:
        OptionError: None is chosen, or all roots lack one.
    """
    wanted = [split] if isinstance(split, str) else list(split)
    known = sorted({name for manifest in manifests for name in manifest.splits})
    if not wanted:
        raise OptionError("split", "no split is chosen", f"there are {', '.join(known)}")
    chosen = [[_resolved(name, manifest) for name in wanted] for manifest in manifests]
    for number, name in enumerate(wanted):
        if not any(of_root[number] for of_root in chosen):
            problem = f"has no split {name!r}, only {', '.join(known)}"
            raise OptionError(", ".join(str(folder) for folder in folders), problem)
    return [tuple(dict.fromkeys(chain.from_iterable(of_root))) for of_root in chosen]


def _resolved(name: str, manifest: Manifest) -> list[str]:
    """The splits a name means in one dataset: 'trainval' is train and val where there is none."""
    if name in manifest.splits:
        return [name]
    has_both = {"train", "val"} <= manifest.splits.keys()
    return ["train", "val"] if name == "trainval" and has_both else []
