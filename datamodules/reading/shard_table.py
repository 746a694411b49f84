"""Lists the shards of the chosen splits of all roots, and where each one is stored.

Our own shards and their indexes are in their root. An indexed tar of somebody else's is where the
manifest says; its index is in the root as well.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shard_tool.dataset.shard_urls import locate_shard
from shard_tool.errors import OptionError
from shard_tool.format.manifest import ShardArrays, shard_arrays
from shard_tool.format.tar import INDEX_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from shard_tool.format.manifest import Manifest
    from shard_tool.storage.location import Folder


class Files(NamedTuple):
    """Where shards are stored."""

    folder_of: NDArray[np.int64]
    """int64 [shards]: number of each shard's folder."""
    names: NDArray[np.bytes_]
    """UTF-8 [shards]: its name in that folder."""


@dataclass(frozen=True, slots=True)
class ShardTable:
    """The chosen shards of one or more roots, one root after the other."""

    folders: tuple[Folder, ...]
    """The roots, then folders outside of them that hold indexed shards."""
    root_of: NDArray[np.int64]
    """int64 [shards]: the root of each shard, which holds its index."""
    arrays: ShardArrays
    """Their sample ids count over all roots."""
    local_folders: dict[int, Path]
    """The folders on this machine, by number."""
    adopted: Files | None = None
    """None if all shards are in their roots, under their names."""

    @classmethod
    def of(
        cls,
        folders: Sequence[Folder],
        manifests: Sequence[Manifest],
        splits: Sequence[tuple[str, ...]],
    ) -> ShardTable:
        """Join the shards of the chosen splits of all roots."""
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
        root_of = np.repeat(np.arange(len(counts)), counts)
        where = _Folders(folders)
        found = [where.of(root, table) for root, (table, _) in enumerate(tables)]
        local = {i: path for i, f in enumerate(where.folders) if (path := f.local) is not None}
        adopted = None
        if any(table.urls is not None for table, _ in tables):
            adopted = Files(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
        return cls(tuple(where.folders), root_of, arrays, local, adopted)

    @property
    def is_all_local(self) -> bool:
        """Whether every shard is on this machine."""
        return bool(np.isin(self._files.folder_of, list(self.local_folders)).all())

    @property
    def timeout_s(self) -> float:
        """Seconds that fetching the same bytes may take, with all attempts."""
        return self.folders[0].timeout_s

    def sample_ids(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of samples given as (shard, row)."""
        return self.arrays.first_ids[shards] + rows

    def find(self, sample_id: int) -> tuple[int, int]:
        """Return (shard, row) of a sample id.

        Raises:
            OptionError: No sample of the chosen splits has this id.
        """
        shard = int(np.searchsorted(self.arrays.first_ids, sample_id, side="right")) - 1
        row = sample_id - int(self.arrays.first_ids[shard]) if shard >= 0 else -1
        if not 0 <= row < self.arrays.num_samples[max(shard, 0)]:
            raise OptionError(f"sample {sample_id}", "is not in the chosen splits")
        return shard, row

    def folder(self, shard: int) -> Folder:
        """Return the folder of a shard."""
        return self.folders[self._folder_of(shard)]

    def is_local(self, shard: int) -> bool:
        """Tell whether a shard is on this machine."""
        return self._folder_of(shard) in self.local_folders

    def local_path(self, shard: int) -> Path:
        """Return the path of a shard that is on this machine."""
        return self.local_folders[self._folder_of(shard)] / self._file(shard)

    def place(self, shard: int) -> str:
        """Return what messages call a shard."""
        return self.folder(shard).place(self._file(shard))

    def index_name(self, shard: int) -> str:
        """Return the name of a shard's index in its root."""
        name: bytes = self.arrays.names[shard]
        return name.decode() + INDEX_SUFFIX

    def index_place(self, shard: int) -> str:
        """Return what messages call a shard's index."""
        return self._root(shard).place(self.index_name(shard))

    def read_index(self, shard: int) -> bytes:
        """Read the index of a shard, whatever its size.

        Raises:
            ObjectMissing: There is none.
            StoreError: Storage failed until the time was up.
        """
        return self._root(shard).read(self.index_name(shard))

    def read_ranges(
        self, shards: Sequence[int], ranges: Sequence[tuple[str, int, int]]
    ) -> list[bytes]:
        """Read ranges of objects in the roots of these shards, those of one root together."""
        return self._read([int(self.root_of[shard]) for shard in shards], ranges)

    def read_spans(self, spans: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """Read ranges of shards given as (shard, start, stop), those of one folder together."""
        numbers = [self._folder_of(shard) for shard, _, _ in spans]
        return self._read(
            numbers, [(self._file(shard), start, stop) for shard, start, stop in spans]
        )

    def read_parts(self, shard: int, start: int, stop: int) -> Iterator[bytes]:
        """Read bytes `start` to `stop` of a shard, a few MiB at a time."""
        size = int(self.arrays.num_bytes[shard])
        return self.folder(shard).read_parts(self._file(shard), start, stop, num_bytes=size)

    def _root(self, shard: int) -> Folder:
        return self.folders[int(self.root_of[shard])]

    @property
    def _files(self) -> Files:
        return self.adopted or Files(self.root_of, self.arrays.names)

    def _folder_of(self, shard: int) -> int:
        return int(self._files.folder_of[shard])

    def _file(self, shard: int) -> str:
        name: bytes = self._files.names[shard]
        return name.decode()

    def _read(self, numbers: Sequence[int], ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Read ranges of objects in folders given by number."""
        contents = [b""] * len(numbers)
        for number in sorted(set(numbers)):
            at = [i for i, found in enumerate(numbers) if found == number]
            read = self.folders[number].read_ranges([ranges[i] for i in at])
            for i, content in zip(at, read, strict=True):
                contents[i] = content
        return contents


class _Folders:
    """Numbers the folders of shards; equal folders share a number."""

    def __init__(self, roots: Sequence[Folder]) -> None:
        self._roots = roots
        self.folders = list(roots)

    def of(self, root: int, table: ShardArrays) -> Files:
        """Return folder and file of each shard of one root."""
        numbers = np.full(len(table.names), root)
        if table.urls is None:
            return Files(numbers, table.names)
        files: list[bytes] = list(table.names)
        known: dict[str, int] = {}
        for shard, url in enumerate(table.urls):
            if not url:
                continue
            location = url.decode()
            head = location.rpartition("/")[0]
            if head not in known:
                known[head] = self._number_of(location, root)
            numbers[shard] = known[head]
            files[shard] = url.rpartition(b"/")[2]
        return Files(numbers, np.array(files, dtype=np.bytes_))

    def _number_of(self, url: str, root: int) -> int:
        folder, _ = locate_shard(url, self._roots[root])
        if folder is self._roots[root]:
            return root
        self.folders.append(folder)
        return len(self.folders) - 1


def chosen_splits(
    folders: Sequence[Folder], manifests: Sequence[Manifest], split: str | Sequence[str]
) -> list[tuple[str, ...]]:
    """Return the chosen splits of each root, which may lack some of them.

    Raises:
        OptionError: No split is chosen, or all roots lack one.
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
    """Return the splits that a name means; 'trainval' is train and val if there is none."""
    if name in manifest.splits:
        return [name]
    has_both = {"train", "val"} <= manifest.splits.keys()
    return ["train", "val"] if name == "trainval" and has_both else []


def order_fingerprint(
    manifests: Sequence[Manifest], splits: Sequence[tuple[str, ...]], *, shuffle: bool
) -> str:
    """A digest of all that decides the order of samples, except seed, lanes and window."""
    parts = [manifest.fingerprint for manifest in manifests]
    parts += [*chain.from_iterable(splits), "shuffled" if shuffle else "in order"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
