"""Shards as a PyTorch IterableDataset, and the stream of batches a loader's workers make of it.

The dataset binds the pure parts (order, partition, cursor) to bytes and pixels. What changes while
workers live (the place to start from) is in one small shared tensor, so that it reaches
persistent workers; everything else travels to them as a value.
"""

from __future__ import annotations

import hashlib
import logging
import math
import multiprocessing
import operator
import os
import threading
import time
import traceback
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.loading.batch import Batch, Packing
from datamodules.loading.targets import (
    SERVED,
    TASKS,
    annotated,
    load_generic,
    load_item,
    planned,
    with_areas,
)
from datamodules.order.canonical import CanonicalOrder
from datamodules.order.cursor import Cursor, cursor_from_state
from datamodules.order.node_shards import NodeShards
from datamodules.order.partition import EpochPartition
from datamodules.order.world import World, detect_world
from datamodules.reading.cache import ShardCache, default_folder
from datamodules.reading.samples import RawSample, ShardReader
from datamodules.reading.shard_table import ShardTable, chosen_splits
from datamodules.transforms.fused import FusedTransform
from datamodules.transforms.multi_scale import MultiScale
from datamodules.transforms.seeding import preserved_generators
from shard_tool.errors import OptionError, SampleError, ShardToolError
from shard_tool.keyed_random import digest_of, seed_of
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from shard_tool.storage.ranges import TIMEOUT_S
from shard_tool.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from datamodules.loading.shared_memory import Parcel, Pool, Slots
    from datamodules.loading.targets import Annotated, Transform
    from datamodules.order.canonical import EpochOrder
    from datamodules.profiling.batch_cost import Cost
    from shard_tool.format.manifest import Manifest

    Prepared = Annotated | RawSample | SampleError
    """A sample before its turn: annotated, or as it is where it is generic, or a bad one."""

log = logging.getLogger(__name__)

DEFAULT_WINDOW = 8
_CHUNK, _SMALL_CHUNK = 1024, 32
"""Positions located at a time when a dataset is iterated bare; the small one where they are decoded
or fetched together."""
_LOOK_FOR_PARENT_S = 1.0
_SUBSTITUTES = 16
"""Samples tried in place of a bad one before its error is raised after all."""
ON_BAD_SAMPLE = ("raise", "substitute")


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
        transform: `(image, target) -> (image, target)`, or None. Of generic samples
            `(sample) -> anything`, where sample is the dict that `decode=False` yields; None leaves
            it as it is. One of `presets.multi_scale` has a size for each batch of a `ShardLoader`;
            iterated bare, each sample is a batch of its own, whose size its id draws.
        task: What samples become targets for: 'detection', 'segmentation' or 'classification'.
            None: what the shards were made for. Those made for another task can serve too: for
            detection all whose annotation marks boxes, for classification those made for detection
            or segmentation, for segmentation those alone that hold masks.
        decode: False yields what webdataset yields before decoding:
            `{"__key__": str, "__url__": str, "jpg": bytes, "json": bytes, …}`.
        world: This process's place among all; None: detected at the first iteration.
        lanes: Lanes of the order; None: the number of nodes, or what a loaded state says. Give a
            multiple of the node counts you expect, to compare runs on different numbers of nodes.
        window: Shards mixed together; a loaded state's number wins over the default.
        cache_dir: Where remote shards are kept, shared by all processes of a node; best on a disk
            of its own, or /dev/shm. None: ``~/.cache/voc-shards``. Local shards are mapped instead.
        cache_limit: Bytes it may hold, also as '200GB', whatever put them there; the least recently
            used shards go first. None: half of what is free.
        storage_options: fsspec's options for `roots`.
        on_bad_sample: What happens to a sample whose verified bytes fail to decode or to transform:
            'raise', or 'substitute' another of its window, chosen by its key, so that counts stay
            equal. Without `shuffle`, as in evaluation, always 'raise'.
        max_bad_samples: More substituted samples than this, on one rank, are an error.
        check_crc: Compare every sample of a local shard with its CRC-32; those of remote ones
            always are.
        fetch_timeout_s: Seconds one request to storage is repeated before its failure is raised.

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
        cache_limit: int | str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        on_bad_sample: str = "raise",
        max_bad_samples: int = 10,
        check_crc: bool = False,
        fetch_timeout_s: float = TIMEOUT_S,
        task: str | None = None,
    ) -> None:
        super().__init__()
        if on_bad_sample not in ON_BAD_SAMPLE:
            problem = f"{on_bad_sample!r} is not one of {', '.join(ON_BAD_SAMPLE)}"
            raise OptionError("on_bad_sample", problem)
        if fetch_timeout_s <= 0:
            raise OptionError("fetch_timeout_s", f"{fetch_timeout_s} is not above 0")
        lanes = None if lanes is None else operator.index(lanes)  # a NumPy integer is no plain type
        window = DEFAULT_WINDOW if window is None else operator.index(window)
        if window < 1 or (lanes is not None and lanes < 1):
            raise OptionError("order", f"lanes {lanes} and window {window} must be at least 1")
        urls = list(roots) if isinstance(roots, list | tuple) else [roots]
        options = dict(storage_options or {})
        folders = [Folder(str(url), options, timeout_s=fetch_timeout_s) for url in urls]
        if not folders:
            raise OptionError("roots", "there is no dataset in the list")
        manifests = [load_manifest(folder) for folder in folders]
        self.task, self.classes = _common(folders, manifests, task)
        self.is_generic = self.task not in TASKS
        _check_callable(transform, is_generic=self.is_generic)
        splits = chosen_splits(folders, manifests, split)
        self.seed, self.shuffle = operator.index(seed), shuffle
        self.transform, self.decode = transform, decode
        self.on_bad_sample = on_bad_sample if shuffle else "raise"
        self.max_bad_samples = operator.index(max_bad_samples)
        if self.max_bad_samples < 0:
            raise OptionError("max_bad_samples", f"{max_bad_samples} is below 0")
        self.fingerprint = _fingerprint(manifests, splits, shuffle=shuffle)
        self._lanes, self._window = lanes, window
        self._world, self._world_is_given = world, world is not None
        self._table = ShardTable.of(folders, manifests, splits)
        if isinstance(cache_limit, str):
            cache_limit = parse_size(cache_limit, "cache_limit")
        self._cache = None
        if not self._table.is_all_local:
            if "://" in str(cache_dir or ""):
                raise OptionError(f"cache_dir {cache_dir!r}", "must be a local folder")
            self._cache = ShardCache(Path(cache_dir or default_folder()), cache_limit)
        self._reader = ShardReader(self._table, cache=self._cache, check_crc=check_crc)
        self._place = Place()  # before any worker starts; lanes 0: not settled yet
        self._order: CanonicalOrder | None = None
        self._node_shards: NodeShards | None = None
        self.bad_samples: dict[int, str] = {}
        """Sample id to reason of bad samples that iterating this in this process substituted."""
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
        reading = self.reading(lanes, window, epoch, worker=number, num_workers=count)
        chunk = _CHUNK if self._cache is None and not self.decode else _SMALL_CHUNK
        for start in range(0, len(mine), chunk):
            yield from self._samples(reading, np.array(mine[start : start + chunk], np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Start the next bare iteration at the beginning of `epoch`."""
        self._place.set(self.first_cursor(epoch))

    def read(self, sample_id: int, *, epoch: int = 0) -> Any:
        """One sample by its id, as iteration would yield it in `epoch`; for debugging.

        Raises:
            OptionError: No sample of the chosen splits has this id.
        """
        place = self._table.find(sample_id)
        if not self.decode:
            return next(self._reader.copies([place]))
        (raw,) = self._reader.read([place])
        (transform,) = self._transforms(epoch, [sample_id], None)
        with preserved_generators():
            item = self._item(raw, sample_id, transform, self._key(epoch, sample_id))
            return self._sample(item)

    def sample_id_at(self, position: int, *, epoch: int = 0) -> int:
        """Id of the sample at a position of an epoch."""
        first = self.first_cursor()
        order = self.order(first.lanes, first.window).epoch(epoch)
        shards, rows = order.locate(np.array([position], np.int64))
        return int(self._table.sample_ids(shards, rows)[0])

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

    def reading(
        self, lanes: int, window: int, epoch: int, *, worker: int, num_workers: int
    ) -> Reading:
        """What one worker needs to know to read an epoch; a new pass begins."""
        order, world = self.order(lanes, window), self.world
        if self._node_shards is None or self._node_shards.order is not order:
            self._node_shards = NodeShards(order, world)
        self._reader.begin_pass()
        number = world.slot // world.num_nodes * num_workers + worker
        share = number / (world.ranks_per_node * num_workers)
        return Reading(order.epoch(epoch), self._node_shards, share)

    def load(
        self,
        reading: Reading,
        positions: NDArray[np.int64],
        take: Callable[[Any], None],
        *,
        batch_start: int | None = None,
    ) -> dict[int, str]:
        """Read, decode and transform the samples at these positions, and hand over one by one.

        Each is handed over as an `Item`; a generic one as its transform made it.

        Args:
            reading: What is read of which epoch.
            positions: Where they stand in it.
            take: Called with each in turn.
            batch_start: First position of their global batch, by which its size is drawn; None:
                they are no batch.

        Returns:
            Sample id to reason of bad ones, in whose place another was handed over.
        """
        places, sample_ids = self._places(reading, positions)
        raws, bad = self._reader.read(places), {}
        # Small things first and for all, pictures after them: see `annotated`.
        samples = [self._annotated(raw, i) for raw, i in zip(raws, sample_ids, strict=True)]
        keys = [self._key(reading.epoch.number, sample_id) for sample_id in sample_ids]
        transforms = self._transforms(reading.epoch.number, sample_ids, batch_start)
        with preserved_generators():
            samples = [self._planned(*one) for one in zip(samples, transforms, keys, strict=True)]
            for i, (sample, sample_id) in enumerate(zip(samples, sample_ids, strict=True)):
                try:
                    item = self._loaded(sample, transforms[i], keys[i])
                except SampleError as exc:
                    self._reader.check(*places[i])  # wrong bytes are no bad sample
                    if self.on_bad_sample == "raise":
                        raise
                    position, transform = int(positions[i]), transforms[i]
                    item = self._substitute(reading, position, sample_id, transform, exc)
                    bad[sample_id] = str(exc)
                take(item)
        return bad

    def take_cost(self) -> Cost:
        """What reading has cost this process since this was last asked."""
        return self._reader.take_cost()

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
        return {**self.__dict__, "_order": None, "_node_shards": None, "_world": world}

    def _samples(self, reading: Reading, positions: NDArray[np.int64]) -> Iterator[Any]:
        if not self.decode:
            yield from self._reader.copies(self._places(reading, positions)[0])
            return
        items: list[Any] = []
        bad = self.load(reading, positions, items.append)
        self.bad_samples = note_bad_samples(self.bad_samples, bad, self.max_bad_samples)
        yield from map(self._sample, items)

    def _places(
        self, reading: Reading, positions: NDArray[np.int64]
    ) -> tuple[list[tuple[int, int]], list[int]]:
        """(shard, row) and sample id at these positions, which are read next."""
        first, last = int(positions[0]), int(positions[-1])
        self._reader.follow(reading.node_shards, reading.epoch, first, last, reading.share)
        shards, rows = reading.epoch.locate(positions)
        places = list(zip(shards.tolist(), rows.tolist(), strict=True))
        return places, self._table.sample_ids(shards, rows).tolist()

    def _key(self, epoch: int, sample_id: int, *more: int | str) -> bytes:
        """What a sample's transform draws by."""
        return digest_of(("transform", self.seed, epoch, sample_id, *more))

    def _transforms(
        self, epoch: int, sample_ids: list[int], batch_start: int | None
    ) -> list[Transform | None]:
        """Of each sample: the one of its batch, or where it is in none, one of its own."""
        transform = self.transform
        if not isinstance(transform, MultiScale):
            return [transform] * len(sample_ids)
        if batch_start is not None:
            return [transform.drawn("batch", self.seed, epoch, batch_start)] * len(sample_ids)
        return [transform.drawn("sample", self.seed, epoch, one) for one in sample_ids]

    def _item(self, raw: RawSample, sample_id: int, transform: Transform | None, key: bytes) -> Any:
        return self._loaded(self._annotated(raw, sample_id), transform, key)

    def _annotated(self, raw: RawSample, sample_id: int) -> Prepared:
        """The sample with its annotation, or what is wrong with it, for when its turn comes."""
        if self.is_generic:
            return raw
        begun = time.perf_counter()
        try:
            return annotated(raw, sample_id=sample_id, task=self.task, classes=self.classes)
        except SampleError as exc:
            return exc
        finally:
            self._reader.cost.decode_s += time.perf_counter() - begun

    def _planned(self, sample: Prepared, transform: Transform | None, key: bytes) -> Prepared:
        """The sample with what a recipe does to it, or what is wrong, for when its turn comes."""
        if isinstance(sample, SampleError | RawSample):
            return sample
        begun = time.perf_counter()
        try:
            return planned(sample, transform=transform, random_key=key)
        except SampleError as exc:
            return exc
        finally:
            self._reader.cost.transform_s += time.perf_counter() - begun

    def _loaded(self, sample: Prepared, transform: Transform | None, key: bytes) -> Any:
        if isinstance(sample, SampleError):
            raise sample
        cost = self._reader.cost
        if isinstance(sample, RawSample):
            return load_generic(sample, transform=transform, random_key=key, cost=cost)
        return load_item(sample, transform=transform, random_key=key, cost=cost)

    def _substitute(
        self,
        reading: Reading,
        position: int,
        sample_id: int,
        transform: Transform | None,
        error: SampleError,
    ) -> Any:
        """Another sample of the window at `position`; the same on every topology.

        Raises:
            SampleError: `error`, where none of those tried is any better.
        """
        window = reading.epoch.window_positions(position)
        for attempt in range(_SUBSTITUTES):
            key = ("substitute", self.seed, reading.epoch.number, sample_id, attempt)
            other = np.array([window[seed_of(key) % len(window)]], np.int64)
            if other[0] == position:
                continue
            shards, rows = reading.epoch.locate(other)
            (raw,) = self._reader.read([(int(shards[0]), int(rows[0]))])
            (other_id,) = self._table.sample_ids(shards, rows).tolist()
            try:
                other_key = self._key(reading.epoch.number, other_id, "for", sample_id)
                return self._item(raw, other_id, transform, other_key)
            except SampleError:
                continue
        raise error

    def _sample(self, item: Any) -> Any:
        if self.is_generic:
            return item
        if item.deferred is not None:
            problem = "leaves pixels to the device, which finishes whole batches"
            hint = "iterate a ShardLoader and call datamodules.finish(batch)"
            raise OptionError("transform", problem, f"{hint}, or take a recipe that does not")
        target = item.target
        return item.image, with_areas(target) if isinstance(target, dict) else target


class Reading(NamedTuple):
    """One worker's view of an epoch."""

    epoch: EpochOrder
    node_shards: NodeShards
    share: float
    """In [0, 1): where among the spans of a window it starts to fetch."""


class Failure:
    """One of our errors on its way from a worker to the parent, in place of a batch.

    torch would rebuild the exception from a text alone; so it keeps its type and fields, and the
    worker's traceback travels along as a note.
    """

    def __init__(self, error: ShardToolError) -> None:
        error.add_note("in a worker:\n" + "".join(traceback.format_exception(error)))
        self.error = error


class Collated(NamedTuple):
    """A batch of generic samples on its way: what the user gets, and what the loader notes.

    A tuple because torch, where it pins memory, looks into those.
    """

    value: Any
    cost: Cost
    bad_samples: dict[int, str]


class BatchStream(IterableDataset[Any]):
    """What a `ShardLoader`'s workers iterate: worker w of W makes every W-th batch."""

    def __init__(
        self,
        dataset: ShardDataset,
        *,
        batch_size: int,
        drop_last: bool,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        super().__init__()
        if not dataset.decode:
            hint = "iterate the dataset itself, or feed it to a wds.DataPipeline"
            raise OptionError("ShardLoader", "cannot batch samples of decode=False", hint)
        if collate_fn is not None and not dataset.is_generic:
            problem = f"is for generic samples; those for {dataset.task} are packed into a Batch"
            raise OptionError("collate_fn", problem)
        _check_substitutes(dataset)
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.collate_fn = collate_fn
        self.place: Place | None = None  # set by the loader before workers start
        self.slots: list[Slots] = []  # likewise, one or none, and only while they start
        self._is_watched = False
        self._pool: Pool | None = None  # in a worker

    def partition(self, start: int = 0) -> EpochPartition:
        """The batches from a position to the end of an epoch, in the present world."""
        return EpochPartition(
            num_samples=self.dataset.num_samples,
            start=start,
            world_size=self.dataset.world.world_size,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
        )

    def __iter__(self) -> Iterator[Batch | Parcel | Collated | Failure]:
        assert self.place is not None  # the loader sets it at every pass
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker is not None and not self._is_watched:
            self._is_watched = True  # this process's copy
            _end_with_parent()
        epoch, samples, lanes, window = self.place.get()
        slot, dataset = self.dataset.world.slot, self.dataset
        if self._pool is None and worker is not None and self.slots:
            self._pool = self.slots[0].of_worker(number)
        partition = self.partition(samples)
        reading = dataset.reading(lanes, window, epoch, worker=number, num_workers=count)
        fetched_bytes = dataset.take_cost().network_bytes  # after the last batch; no more of it
        usual_bytes = 0
        for batch in range(number, partition.num_batches, count):
            positions = np.array(partition.positions(batch, slot), np.int64)
            start, stop = partition.bounds(batch)
            memory = self._pool.memory() if self._pool else None
            sent: Batch | Parcel | Collated
            try:
                if dataset.is_generic:
                    sent = self._collated(reading, positions, start)
                    cost = sent.cost
                else:
                    packing = Packing(
                        len(positions), task=dataset.task, memory=memory, usual_bytes=usual_bytes
                    )
                    bad = dataset.load(reading, positions, packing.add, batch_start=start)
                    made = packing.batch(epoch=epoch, start=start, stop=stop)
                    made.bad_samples = bad
                    made.cost = cost = made.cost + dataset.take_cost()
                    usual_bytes = made.pixels.nbytes
                    sent = memory.sent(made) if memory else made
                cost.network_bytes += fetched_bytes
                fetched_bytes = 0
            except ShardToolError as exc:
                if worker is None:
                    raise
                if memory:
                    memory.release()  # before it is told
                yield Failure(exc)
                return
            finally:
                if memory:
                    memory.release()  # nothing, where it is sent
            cost.num_samples, cost.made_at = len(positions), time.perf_counter()
            yield sent

    def _collated(self, reading: Reading, positions: NDArray[np.int64], start: int) -> Collated:
        """A batch of generic samples."""
        samples: list[Any] = []
        bad = self.dataset.load(reading, positions, samples.append, batch_start=start)
        cost, begun = self.dataset.take_cost(), time.perf_counter()
        value = samples if self.collate_fn is None else self.collate_fn(samples)
        cost.collate_s = time.perf_counter() - begun
        return Collated(value, cost, bad)


def _end_with_parent() -> None:
    """End this worker soon after the process it works for, whatever it is doing then.

    torch lets an orphaned worker end by itself, which first waits for somebody to take its batches.
    Until it is gone it holds its parent's sockets, so that other ranks wait for the dead one.
    """
    starter, parent = os.getppid(), multiprocessing.parent_process()

    def watch() -> None:
        # Forked siblings hold each other's sentinel open; a starter that was gone before we asked
        # shows only in the sentinel.
        while os.getppid() == starter and parent is not None and parent.is_alive():
            time.sleep(_LOOK_FOR_PARENT_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def note_bad_samples(known: dict[int, str], found: dict[int, str], limit: int) -> dict[int, str]:
    """All bad samples so far, sample id to reason; a warning for each new one.

    Raises:
        SampleError: They are more than `limit`.
    """
    for sample_id, reason in found.items():
        if sample_id not in known:
            log.warning("sample %d substituted: %s", sample_id, reason)
    bad = known | found
    if len(bad) > limit:
        problem = f"{len(bad)} exceed max_bad_samples {limit}"
        raise SampleError("bad samples", problem, f"the first: {'; '.join(list(bad.values())[:3])}")
    return bad


def _check_substitutes(dataset: ShardDataset) -> None:
    """A picture that fails on the device fails when its batch is made already."""
    given = dataset.transform
    recipes = given.transforms if isinstance(given, MultiScale) else [given]
    on_device = any(isinstance(r, FusedTransform) and r.decode == "cuda" for r in recipes)
    if on_device and dataset.on_bad_sample != "raise":
        problem = f"{dataset.on_bad_sample!r} cannot replace what does not decode on the device"
        raise OptionError("on_bad_sample", problem, "take 'raise', or decode='exact'")


def _check_callable(transform: Any, *, is_generic: bool) -> None:
    what = "(sample)" if is_generic else "(image, target)"
    given = transform.transforms if isinstance(transform, MultiScale) else [transform]
    for one in given if transform is not None else ():
        if not callable(one):
            raise OptionError("transform", f"{type(one).__name__} is not callable as {what}")
        if is_generic and isinstance(one, FusedTransform):
            problem = f"recipe {one.__name__!r} is for pictures with boxes, a mask or labels"
            raise OptionError("transform", problem, f"generic samples take a callable as {what}")


def _common(
    folders: list[Folder], manifests: list[Manifest], task: str | None
) -> tuple[str, dict[str, int]]:
    """Task, which all roots must share or be able to serve, and classes, which they must share."""
    first = manifests[0]
    for folder, manifest in zip(folders, manifests, strict=True):
        if task is not None:
            _check_serves(folder, manifest.task, task)
        is_other_task = task is None and manifest.task != first.task
        if is_other_task or manifest.classes != first.classes:
            problem = f"task {manifest.task!r} and its classes differ from those of {folders[0]}"
            raise OptionError(str(folder), f"{problem} ({first.task!r})")
    return task or first.task, first.classes


def _check_serves(folder: Folder, made_for: str, task: str) -> None:
    """Refuse a task that shards made for another cannot serve."""
    served = dict.fromkeys((made_for, *SERVED.get(made_for, ())))
    if task in served:
        return
    if task not in SERVED:
        raise OptionError("task", f"{task!r} is not one of {', '.join(TASKS)}")
    problem = f"its samples are for {made_for}, and cannot serve task {task!r}"
    hint = f"give task {' or '.join(map(repr, served))}, or convert the source with --task {task}"
    if made_for not in SERVED:
        hint = "where they hold what `convert` writes, adopt them with `shard-tool index --task`"
    raise OptionError(str(folder), problem, hint)


def _fingerprint(manifests: list[Manifest], splits: list[tuple[str, ...]], *, shuffle: bool) -> str:
    """Of everything that decides which sample stands where, except seed, lanes and window."""
    parts = [manifest.fingerprint for manifest in manifests]
    parts += [*chain.from_iterable(splits), "shuffled" if shuffle else "in order"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
