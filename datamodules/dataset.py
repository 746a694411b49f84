"""Shards as a PyTorch IterableDataset, and the stream of batches a loader's workers make of it.

The dataset binds the pure parts (order, partition, cursor) to bytes and pixels. What changes while
workers live (the place to start from) is in one small shared tensor, so that it reaches
persistent workers; everything else travels to them as a value.
"""

from __future__ import annotations

import hashlib
import logging
import math
import operator
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.collate import Batch, collate
from datamodules.cursor import Cursor, cursor_from_state
from datamodules.order import CanonicalOrder
from datamodules.partition import EpochPartition
from datamodules.shards import ShardReader, ShardTable
from datamodules.targets import TASKS, Item, load_item, with_areas
from datamodules.world import World, detect_world
from shard_tool.errors import OptionError, ShardToolError
from shard_tool.storage import Folder, load_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from datamodules.targets import Transform
    from shard_tool.manifest import Manifest

log = logging.getLogger(__name__)

DEFAULT_WINDOW = 8
_CHUNK = 256
"""Positions located at a time when a dataset is iterated bare."""


class Place:
    """Where the next pass starts: four integers in shared memory, seen by running workers."""

    def __init__(self) -> None:
        self._values = torch.zeros(4, dtype=torch.int64)
        self._values.share_memory_()  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._values.share_memory_()  # type: ignore[no-untyped-call]  # a deep copy is not shared

    def set(self, cursor: Cursor) -> None:
        """Publish a cursor; passes that start from now on begin there."""
        values = [cursor.epoch, cursor.samples, cursor.lanes, cursor.window]
        self._values.copy_(torch.tensor(values))

    def get(self) -> tuple[int, int, int, int]:
        """(epoch, samples, lanes, window)."""
        epoch, samples, lanes, window = self._values.tolist()
        return epoch, samples, lanes, window


class ShardDataset(IterableDataset[Any]):
    """Samples of one or more datasets of shards, in the canonical order.

    Iterated bare, it yields this rank's samples; inside the workers of a plain DataLoader, worker w
    of W yields every W-th of them from the w-th on. `ShardLoader` makes batches of it.

    Args:
        roots: A folder (path or URL), or several: one order runs over all their shards.
        split: One name or several. 'trainval' means train and val where there is no such split.
        seed: Of the order and of the transforms' randomness.
        shuffle: False: manifest order.
        transform: `(image, target) -> (image, target)`, or None.
        decode: False yields what webdataset yields before decoding:
            `{"__key__": str, "__url__": str, "jpg": bytes, "json": bytes, …}`.
        world: This process's place among all; None: detected at the first iteration.
        lanes: Lanes of the order; None: the number of nodes, or what a loaded state says. Give a
            multiple of the node counts you expect, to compare runs on different numbers of nodes.
        window: Shards mixed together; a loaded state's number wins over the default.
        cache_dir: For remote shards; unused for local ones, which are mapped.
        cache_limit: Likewise.
        storage_options: fsspec's options for `roots`.
        on_bad_sample: 'raise': a sample that fails to decode or to transform is an error.
        check_crc: Compare every sample read with its CRC-32.

    Raises:
        OptionError: An argument that cannot be used.
        ObjectMissing: A root holds no dataset.
        ManifestError: A manifest is of an unknown version or damaged.
    """

    def __init__(
        self,
        roots: str | Sequence[str],
        split: str | Sequence[str] = "train",
        *,
        seed: int = 0,
        shuffle: bool = True,
        transform: Transform | None = None,
        decode: bool = True,
        world: World | None = None,
        lanes: int | None = None,
        window: int | None = DEFAULT_WINDOW,
        cache_dir: str | None = None,
        cache_limit: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        on_bad_sample: str = "raise",
        check_crc: bool = False,
    ) -> None:
        super().__init__()
        if on_bad_sample != "raise":
            raise OptionError("on_bad_sample", f"{on_bad_sample!r} is not supported: use 'raise'")
        _check_callable(transform)
        lanes = None if lanes is None else operator.index(lanes)  # a NumPy integer is no plain type
        window = DEFAULT_WINDOW if window is None else operator.index(window)
        if window < 1 or (lanes is not None and lanes < 1):
            raise OptionError("order", f"lanes {lanes} and window {window} must be at least 1")
        urls = list(roots) if isinstance(roots, list | tuple) else [roots]
        folders = [Folder(str(url), dict(storage_options or {})) for url in urls]
        if not folders:
            raise OptionError("roots", "there is no dataset in the list")
        manifests = [load_manifest(folder) for folder in folders]
        self.task, self.classes = _common(folders, manifests)
        self.splits = _chosen_splits(folders, manifests, split)
        self.seed, self.shuffle = operator.index(seed), shuffle
        self.transform, self.decode = transform, decode
        self.cache_dir, self.cache_limit = cache_dir, cache_limit
        self.fingerprint = _fingerprint(manifests, self.splits, shuffle=shuffle)
        self._lanes, self._window = lanes, window
        self._world, self._world_is_given = world, world is not None
        self._table = ShardTable.of(folders, manifests, self.splits)
        self._reader = ShardReader(self._table, check_crc=check_crc)
        self._place = Place()  # before any worker starts; lanes 0: not settled yet
        self._order: CanonicalOrder | None = None
        self._said: set[str] = set()

    @property
    def num_samples(self) -> int:
        """Samples of the chosen splits, over all ranks."""
        return int(self._table.arrays.num_samples.sum())

    @property
    def world(self) -> World:
        """This process's place among all: as given, else as it was when iteration began."""
        return self._world or detect_world()

    def settle_world(self) -> World:
        """Detect the world now and keep it; workers receive it as a value."""
        world = self._world = self.world
        lanes = self._lanes or world.num_nodes
        readers = world.num_nodes // math.gcd(world.num_nodes, lanes)
        if readers > 1:
            text = (
                "each of the %d lanes is read by %d of %d nodes: give lanes a multiple of the nodes"
            )
            self._say(text, lanes, readers, world.num_nodes)
        return world

    def __len__(self) -> int:
        """Samples of this rank in an epoch."""
        partition = EpochPartition(num_samples=self.num_samples, world_size=self.world.world_size)
        return partition.num_samples_of(self.world.slot)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        world = self.settle_world()
        epoch, samples, lanes, window = self._place.get()
        lanes, window = lanes or self.first_cursor().lanes, window or self._window
        mine = range(
            samples + (world.slot - samples) % world.world_size, self.num_samples, world.world_size
        )[number::count]
        order = self.order(lanes, window).epoch(epoch)
        for start in range(0, len(mine), _CHUNK):
            positions = np.array(mine[start : start + _CHUNK], np.int64)
            yield from self._samples(*order.locate(positions), epoch)

    def set_epoch(self, epoch: int) -> None:
        """Start the next bare iteration at the beginning of `epoch`."""
        self._place.set(self.first_cursor(epoch))

    def read(self, sample_id: int, *, epoch: int = 0) -> Any:
        """One sample by its id, as iteration would yield it in `epoch`; for debugging.

        Raises:
            OptionError: No sample of the chosen splits has this id.
        """
        shard, row = self._table.find(sample_id)
        return next(self._samples(np.array([shard]), np.array([row]), epoch))

    def first_cursor(self, epoch: int = 0) -> Cursor:
        """The beginning of an epoch, with the lanes and the window given or default."""
        return Cursor(
            fingerprint=self.fingerprint,
            seed=self.seed,
            epoch=epoch,
            samples=0,
            lanes=self._lanes or self.world.num_nodes,
            window=self._window,
        )

    def cursor_from_state(self, state: Mapping[str, Any]) -> Cursor:
        """A saved cursor, checked against this dataset.

        Raises:
            ResumeError: It belongs to something else; says both sides.
        """
        cursor = cursor_from_state(
            state,
            fingerprint=self.fingerprint,
            seed=self.seed,
            num_samples=self.num_samples,
            lanes=self._lanes,
            window=None if self._window == DEFAULT_WINDOW else self._window,
        )
        default = self.first_cursor()
        if (cursor.lanes, cursor.window) != (default.lanes, default.window):
            self._say("taking lanes %d, window %d from the state", cursor.lanes, cursor.window)
        return cursor

    def order(self, lanes: int, window: int) -> CanonicalOrder:
        """The canonical order of this dataset with these lanes and this window."""
        order = self._order
        if order is None or (order.lanes, order.window) != (lanes, window):
            order = self._order = CanonicalOrder(
                self._table.arrays.num_samples,
                seed=self.seed,
                lanes=lanes,
                window=window,
                shuffle=self.shuffle,
            )
        return order

    def items(
        self, shards: NDArray[np.int64], rows: NDArray[np.int64], epoch: int
    ) -> Iterator[Item]:
        """Decoded and transformed samples at these (shard, row) places."""
        sample_ids = self._table.sample_ids(shards, rows).tolist()
        for shard, row, sample_id in zip(shards.tolist(), rows.tolist(), sample_ids, strict=True):
            yield load_item(
                self._reader.read(shard, row),
                sample_id=sample_id,
                task=self.task,
                transform=self.transform,
                random_key=("transform", self.seed, epoch, sample_id),
            )

    def _say(self, text: str, *values: int) -> None:
        """Log something once."""
        if text % values not in self._said:
            self._said.add(text % values)
            log.info(text, *values)

    def __getstate__(self) -> dict[str, Any]:
        # On the way to a spawned worker, which cannot ask torch.distributed who it is. The order
        # is cheap to make again and large to send.
        world: World | None = self.world
        if not self._world_is_given and self.world.world_size == 1:
            world = None
        return {**self.__dict__, "_order": None, "_world": world}

    def _samples(
        self, shards: NDArray[np.int64], rows: NDArray[np.int64], epoch: int
    ) -> Iterator[Any]:
        if self.decode:
            for item in self.items(shards, rows, epoch):
                is_detection = isinstance(item.target, dict)
                yield item.image, with_areas(item.target) if is_detection else item.target
            return
        for shard, row in zip(shards.tolist(), rows.tolist(), strict=True):
            raw = self._reader.read(shard, row)
            members = {name: bytes(content) for name, content in raw.members.items()}
            yield {"__key__": raw.key, "__url__": raw.url, **members}


class Failure:
    """One of our errors on its way from a worker to the parent, in place of a batch.

    torch would rebuild the exception from a text alone; so it keeps its type and fields, and the
    worker's traceback travels along as a note.
    """

    def __init__(self, error: ShardToolError) -> None:
        error.add_note("in a worker:\n" + "".join(traceback.format_exception(error)))
        self.error = error


class BatchStream(IterableDataset[Any]):
    """What a `ShardLoader`'s workers iterate: worker w of W makes every W-th batch."""

    def __init__(self, dataset: ShardDataset, *, batch_size: int, drop_last: bool) -> None:
        super().__init__()
        if not dataset.decode:
            hint = "iterate the dataset itself, or feed it to a wds.DataPipeline"
            raise OptionError("ShardLoader", "cannot batch samples of decode=False", hint)
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.place: Place | None = None  # set by the loader before workers start

    def partition(self, start: int = 0) -> EpochPartition:
        """The batches from a position to the end of an epoch, in the present world."""
        return EpochPartition(
            num_samples=self.dataset.num_samples,
            start=start,
            world_size=self.dataset.world.world_size,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
        )

    def __iter__(self) -> Iterator[Batch | Failure]:
        assert self.place is not None  # the loader sets it at every pass
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        epoch, samples, lanes, window = self.place.get()
        slot = self.dataset.world.slot
        partition = self.partition(samples)
        order = self.dataset.order(lanes, window).epoch(epoch)
        for batch in range(number, partition.num_batches, count):
            positions = np.array(partition.positions(batch, slot), np.int64)
            start, stop = partition.bounds(batch)
            try:
                items = list(self.dataset.items(*order.locate(positions), epoch))
                yield collate(items, task=self.dataset.task, epoch=epoch, start=start, stop=stop)
            except ShardToolError as exc:
                if worker is None:
                    raise
                yield Failure(exc)
                return


def _check_callable(transform: object) -> None:
    if transform is not None and not callable(transform):
        problem = f"{type(transform).__name__} is not callable as (image, target)"
        raise OptionError("transform", problem)


def _common(folders: list[Folder], manifests: list[Manifest]) -> tuple[str, dict[str, int]]:
    """Task and classes, which all roots must share."""
    first = manifests[0]
    if first.task not in TASKS:
        problem = f"task {first.task!r} is not one of {', '.join(TASKS)}"
        raise OptionError(str(folders[0]), problem)
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        if (manifest.task, manifest.classes) != (first.task, first.classes):
            problem = f"task {manifest.task!r} and its classes differ from those of {folders[0]}"
            raise OptionError(str(folder), f"{problem} ({first.task!r})")
    return first.task, first.classes


def _chosen_splits(
    folders: list[Folder], manifests: list[Manifest], split: str | Sequence[str]
) -> tuple[str, ...]:
    wanted = [split] if isinstance(split, str) else list(split)
    known = {name for manifest in manifests for name in manifest.splits}
    if not wanted:
        raise OptionError("split", "no split is chosen", f"there are {', '.join(sorted(known))}")
    names: list[str] = []
    for name in wanted:
        names += ["train", "val"] if name == "trainval" and name not in known else [name]
    for name in names:
        if name not in known:
            problem = f"has no split {name!r}, only {', '.join(sorted(known))}"
            raise OptionError(", ".join(str(folder) for folder in folders), problem)
    return tuple(dict.fromkeys(names))


def _fingerprint(manifests: list[Manifest], splits: tuple[str, ...], *, shuffle: bool) -> str:
    """Of everything that decides which sample stands where, except seed, lanes and window."""
    parts = [manifest.fingerprint for manifest in manifests]
    parts += [*splits, "shuffled" if shuffle else "in order"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
