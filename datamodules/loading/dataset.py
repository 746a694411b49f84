"""Yields samples of shards in the canonical order, as a PyTorch IterableDataset.

The dataset connects the arithmetic of `order` to verified bytes (`reading`) and to items (`items`).
Workers receive it as a value; the cursor to start from, in shared memory, reaches running ones too.
"""

from __future__ import annotations

import logging
import math
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.loading.bad_samples import (
    check_on_bad_sample,
    note_bad_samples,
    substitute_positions,
)
from datamodules.loading.classes import names_by_label, num_classes_of
from datamodules.loading.items import load_item, planned_samples
from datamodules.loading.joined import Joined
from datamodules.loading.outlines import check_unmasked
from datamodules.loading.reading_pass import Reading
from datamodules.loading.shared_cursor import SharedCursor
from datamodules.loading.targets import with_areas
from datamodules.loading.tasks import TASKS
from datamodules.order.canonical import CanonicalOrder
from datamodules.order.cursor import Cursor, cursor_from_state
from datamodules.order.node_shards import NodeShards
from datamodules.order.partition import EpochPartition
from datamodules.order.world import World, detect_world
from datamodules.reading.cache import ShardCache, default_folder
from datamodules.reading.samples import RawSample, ShardReader
from datamodules.reading.shard_table import ShardTable, chosen_splits, order_fingerprint
from datamodules.transforms.checks import check_callable
from datamodules.transforms.multi_scale import drawn_transforms
from datamodules.transforms.seeding import preserved_generators
from shard_tool.errors import OptionError, SampleError
from shard_tool.keyed_random import digest_of
from shard_tool.storage.ranges import TIMEOUT_S
from shard_tool.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from datamodules.loading.items import Prepared, Transform
    from datamodules.profiling.batch_cost import Cost

log = logging.getLogger(__name__)

DEFAULT_WINDOW = 8
_CHUNK, _SMALL_CHUNK = 1024, 32
"""Samples read at a time when a dataset is iterated by itself; the smaller number where they are
decoded or come from a cache."""


class ShardDataset(IterableDataset[Any]):
    """Samples of one or more datasets of shards, in the canonical order.

    Iterated by itself, it yields this rank's samples. In the workers of a plain DataLoader, worker
    w of W yields every W-th of them, from the w-th on. `ShardLoader` makes batches of it.

    Args:
        roots: A folder (path or URL), or several: one order runs over all their shards.
        split: One name or several. 'trainval' means train and val where there is no such split.
        seed: Decides the order and what transforms draw.
        shuffle: False: manifest order.
        transform: `(image, target) -> (image, target)`, or None. For generic samples
            `(sample) -> anything`, where sample is the dict that `decode=False` yields; None leaves
            it as it is. A `presets.multi_scale` draws a size for each batch of a `ShardLoader`;
            where the dataset is iterated by itself, for each sample.
        task: What targets are for: 'detection', 'segmentation', 'classification' or 'instances'.
            None: what the shards were made for. Shards made for another task can serve too: for
            detection all whose annotations have boxes, for classification those made for detection
            or segmentation, for segmentation only those with masks, for instances those whose
            objects have outlines.
        classes: Names of all classes in the order of their labels, from 1. None: as the manifests
            say. Several roots are joined by name: labels are those of the root with most classes.
        decode: False yields what webdataset yields before decoding:
            `{"__key__": str, "__url__": str, "jpg": bytes, "json": bytes, …}`.
        world: This process's place among all processes; None: detected at the first iteration.
        lanes: Lanes of the order; None: the number of nodes, or what a loaded state says. To
            compare runs on different numbers of nodes, give a common multiple of them.
        window: Shards mixed together; a loaded state's number wins over the default.
        cache_dir: Folder for copies of remote shards, shared by all processes of a node; best on a
            disk of its own, or /dev/shm. None: ``~/.cache/voc-shards``. Local shards are mapped
            into memory and not cached.
        cache_limit: Bytes the folder may hold, also as '200GB', whoever wrote them; the least
            recently used shards go first. None: half of the free space.
        storage_options: fsspec's options for `roots`.
        on_bad_sample: What happens to a sample whose verified bytes fail to decode or to transform:
            'raise', or 'substitute' another sample of its window, chosen by its key, so that counts
            stay equal. Without `shuffle`, as in evaluation, always 'raise'.
        max_bad_samples: Most samples substituted on one rank; one more is an error.
        check_crc: Compare every sample of a local shard with its CRC-32. Samples of remote shards
            are always compared.
        fetch_timeout_s: Seconds for which a request to storage is repeated before it fails.
        unmasked: What becomes of an object without an outline in task 'instances': 'fail', 'box'
            (its box is filled) or 'drop'.

    Raises:
        OptionError: An argument cannot be used.
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
        classes: Sequence[str] | None = None,
        unmasked: str = "fail",
    ) -> None:
        super().__init__()
        check_on_bad_sample(on_bad_sample, max_bad_samples)
        check_unmasked(unmasked)
        if fetch_timeout_s <= 0:
            raise OptionError("fetch_timeout_s", f"{fetch_timeout_s} is not above 0")
        lanes = None if lanes is None else operator.index(lanes)  # a NumPy integer is no plain type
        window = DEFAULT_WINDOW if window is None else operator.index(window)
        if window < 1 or (lanes is not None and lanes < 1):
            raise OptionError("order", f"lanes {lanes} and window {window} must be at least 1")
        joined = Joined.of(roots, task, classes, storage_options, timeout_s=fetch_timeout_s)
        folders, manifests, self.task, self.classes, _ = joined
        self._parse = joined.parser(for_evaluation=not shuffle, unmasked=unmasked)
        self.is_generic = self.task not in TASKS
        check_callable(transform, is_generic=self.is_generic)
        splits = chosen_splits(folders, manifests, split)
        self.seed, self.shuffle = operator.index(seed), shuffle
        self.transform, self.decode = transform, decode
        self.on_bad_sample = on_bad_sample if shuffle else "raise"
        self.max_bad_samples = operator.index(max_bad_samples)
        self.fingerprint = order_fingerprint(manifests, splits, shuffle=shuffle)
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
        self._start = SharedCursor()  # made before any worker starts; lanes 0: not known yet
        self._order: CanonicalOrder | None = None
        self._node_shards: NodeShards | None = None
        self.bad_samples: dict[int, str] = {}
        """Sample id to reason, of the bad samples substituted while this process iterated."""
        self._logged: set[str] = set()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes: that of label k at k - 1. `classes` maps each to its label."""
        return names_by_label(self.classes)

    @property
    def num_classes(self) -> int:
        """Labels with the background (0); classification has none."""
        return num_classes_of(self.classes, self.task)

    @property
    def num_samples(self) -> int:
        """Samples of the chosen splits, over all ranks."""
        return int(self._table.arrays.num_samples.sum())

    @property
    def world(self) -> World:
        """This process's place among all processes: given, or detected when iteration began."""
        return self._world or detect_world()

    def settle_world(self) -> World:
        """Detect the world now and keep it: workers receive it as a value."""
        world = self._world = self.world
        lanes = self._lanes or world.num_nodes
        readers = world.num_nodes // math.gcd(world.num_nodes, lanes)
        if readers > 1:
            text = (
                "each of the %d lanes is read by %d of %d nodes: give lanes a multiple of the nodes"
            )
            self._log_once(text, lanes, readers, world.num_nodes)
        return world

    def __len__(self) -> int:
        """Samples of this rank in an epoch."""
        partition = EpochPartition(num_samples=self.num_samples, world_size=self.world.world_size)
        return partition.num_samples_of(self.world.slot)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        world = self.settle_world()
        epoch, samples, lanes, window = self._start.get()
        lanes, window = lanes or self.first_cursor().lanes, window or self._window
        mine = range(
            samples + (world.slot - samples) % world.world_size, self.num_samples, world.world_size
        )[number::count]
        reading = self.reading(lanes, window, epoch, worker=number, num_workers=count)
        chunk = _CHUNK if self._cache is None and not self.decode else _SMALL_CHUNK
        for start in range(0, len(mine), chunk):
            yield from self._samples(reading, np.array(mine[start : start + chunk], np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration of the dataset itself at the beginning of `epoch`."""
        self._start.set(self.first_cursor(epoch))

    def read(self, sample_id: int, *, epoch: int = 0) -> Any:
        """One sample by its id, as iteration would yield it in `epoch`; for debugging.

        Raises:
            OptionError: No sample of the chosen splits has this id.
        """
        place = self._table.find(sample_id)
        if not self.decode:
            return next(self._reader.copies([place]))
        (raw,) = self._reader.read([place])
        (transform,) = drawn_transforms(self.transform, self.seed, epoch, [sample_id])
        with preserved_generators():
            item = self._load_one(raw, sample_id, transform, self._key(epoch, sample_id))
            return self._sample(item)

    def sample_id_at(self, position: int, *, epoch: int = 0) -> int:
        """Id of the sample at a position of an epoch."""
        first = self.first_cursor()
        order = self.order(first.lanes, first.window).epoch(epoch)
        shards, rows = order.locate(np.array([position], np.int64))
        return int(self._table.sample_ids(shards, rows)[0])

    def first_cursor(self, epoch: int = 0) -> Cursor:
        """The beginning of an epoch, with the given lanes and window or the default ones."""
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
            ResumeError: It belongs to other data or another order; the message has both sides.
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
            self._log_once("taking lanes %d, window %d from the state", cursor.lanes, cursor.window)
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
        """Begin a pass of one worker over an epoch."""
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
        """Read, decode and transform the samples at these positions, and pass on one by one.

        Args:
            reading: The worker's pass.
            positions: Positions in its epoch.
            take: Called with the `Item` of each sample in turn; of a generic sample, with what its
                transform returned.
            batch_start: First position of the global batch, by which `multi_scale` draws a size;
                None: these positions are not a batch.

        Returns:
            Sample id to reason, of bad samples: `take` was called with a substitute.
        """
        places, sample_ids = self._places(reading, positions)
        cost, bad = self._reader.cost, {}
        samples = self._annotated(self._reader.read(places), sample_ids)
        keys = [self._key(reading.epoch.number, sample_id) for sample_id in sample_ids]
        transforms = drawn_transforms(
            self.transform, self.seed, reading.epoch.number, sample_ids, batch_start=batch_start
        )
        with preserved_generators():
            samples = planned_samples(samples, transforms, keys, cost=cost)
            for i, (sample, sample_id) in enumerate(zip(samples, sample_ids, strict=True)):
                transform = transforms[i]
                try:
                    item = load_item(sample, transform=transform, random_key=keys[i], cost=cost)
                except SampleError as exc:
                    self._reader.check(*places[i])  # wrong bytes are no bad sample
                    if self.on_bad_sample == "raise":
                        raise
                    position = int(positions[i])
                    item = self._substitute(reading, position, sample_id, transform, exc)
                    bad[sample_id] = str(exc)
                take(item)
        return bad

    def take_cost(self) -> Cost:
        """What reading cost in this process since the last call."""
        return self._reader.take_cost()

    def _log_once(self, text: str, *values: int) -> None:
        """Log a message unless it was logged before."""
        if text % values not in self._logged:
            self._logged.add(text % values)
            log.info(text, *values)

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker cannot ask torch.distributed for its rank, so the world travels along.
        # The order does not: it is large to send and cheap to make.
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
        """(shard, row) and sample id at these positions; tells the reader that they come next."""
        first, last = int(positions[0]), int(positions[-1])
        self._reader.follow(reading.node_shards, reading.epoch, first, last, reading.share)
        shards, rows = reading.epoch.locate(positions)
        places = list(zip(shards.tolist(), rows.tolist(), strict=True))
        return places, self._table.sample_ids(shards, rows).tolist()

    def _key(self, epoch: int, sample_id: int, *more: int | str) -> bytes:
        """The key by which a sample's transform draws."""
        return digest_of(("transform", self.seed, epoch, sample_id, *more))

    def _load_one(
        self, raw: RawSample, sample_id: int, transform: Transform | None, key: bytes
    ) -> Any:
        """The item of one sample alone."""
        (sample,) = self._annotated([raw], [sample_id])
        return load_item(sample, transform=transform, random_key=key, cost=self._reader.cost)

    def _annotated(self, raws: list[RawSample], sample_ids: list[int]) -> list[Prepared]:
        if self.is_generic:
            return list(raws)
        prepared: list[Prepared] = self._parse(raws, sample_ids, cost=self._reader.cost)
        return prepared

    def _substitute(
        self,
        reading: Reading,
        position: int,
        sample_id: int,
        transform: Transform | None,
        error: SampleError,
    ) -> Any:
        """The item of another sample of the window at `position`; the same on every topology.

        Raises:
            SampleError: `error`, if all samples tried are bad too.
        """
        epoch = reading.epoch
        others = substitute_positions(
            position,
            epoch.window_positions(position),
            seed=self.seed,
            epoch=epoch.number,
            sample_id=sample_id,
        )
        for other in others:
            shards, rows = epoch.locate(np.array([other], np.int64))
            (raw,) = self._reader.read([(int(shards[0]), int(rows[0]))])
            (other_id,) = self._table.sample_ids(shards, rows).tolist()
            try:
                other_key = self._key(epoch.number, other_id, "for", sample_id)
                return self._load_one(raw, other_id, transform, other_key)
            except SampleError:
                continue
        raise error

    def _sample(self, item: Any) -> Any:
        if self.is_generic:
            return item
        if item.device_work is not None:
            problem = "leaves pixels to the device, which finishes whole batches"
            hint = "iterate a ShardLoader and call datamodules.finish(batch)"
            raise OptionError("transform", problem, f"{hint}, or take a recipe that does not")
        target = item.target
        return item.image, with_areas(target) if isinstance(target, dict) else target
