"""Makes batches of a dataset's samples in the workers of a `ShardLoader`.

Worker w of W makes every W-th batch, from the w-th on. It sends a `Batch` (a `SentBatch` where the
batch lies in shared memory), a `Collated` for generic samples, or a `Failure` after an error.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.loading.bad_samples import check_can_substitute
from datamodules.loading.batch import Batch, Packing
from datamodules.order.partition import EpochPartition
from shard_tool.errors import OptionError, ShardToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from datamodules.loading.dataset import ShardDataset
    from datamodules.loading.reading_pass import Reading
    from datamodules.loading.shared_cursor import SharedCursor
    from datamodules.loading.shared_memory import (
        BatchMemory,
        SentBatch,
        SharedSegments,
        WorkerSegments,
    )
    from datamodules.profiling.batch_cost import Cost

_PARENT_CHECK_S = 1.0
"""Seconds between two looks whether the parent lives."""


class Failure:
    """One of our errors on its way from a worker to the parent, instead of a batch.

    torch would rebuild the exception from its text alone. This keeps its type and fields, and the
    worker's traceback as a note.
    """

    def __init__(self, error: ShardToolError) -> None:
        error.add_note("in a worker:\n" + "".join(traceback.format_exception(error)))
        self.error = error


class Collated(NamedTuple):
    """A batch of generic samples on its way to the parent.

    A tuple, so that torch pins the memory of the value as well.
    """

    value: Any
    """What the user gets."""
    cost: Cost
    bad_samples: dict[int, str]


class BatchStream(IterableDataset[Any]):
    """The dataset that a `ShardLoader` gives to torch's DataLoader: it yields whole batches.

    Args:
        dataset: Where samples come from.
        batch_size: Samples of a batch on each rank.
        drop_last: Only full batches.
        collate_fn: Makes a batch from a list of generic samples; None: the list is the batch.

    Raises:
        OptionError: The dataset does not decode, `collate_fn` is given for samples of a task, or
            bad samples cannot be substituted because the device decodes them.
    """

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
        check_can_substitute(dataset.transform, dataset.on_bad_sample)
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.collate_fn = collate_fn
        self.start: SharedCursor | None = None
        """Where a pass starts; the loader sets it before workers start."""
        self.segments: list[SharedSegments] = []
        """One or none; the loader sets it while workers start."""
        self._own_segments: WorkerSegments | None = None  # in a worker
        self._usual_bytes = 0
        self._is_watched = False

    def partition(self, start: int = 0) -> EpochPartition:
        """The batches from a position to the end of an epoch, in the present world."""
        return EpochPartition(
            num_samples=self.dataset.num_samples,
            start=start,
            world_size=self.dataset.world.world_size,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
        )

    def __iter__(self) -> Iterator[Batch | SentBatch | Collated | Failure]:
        assert self.start is not None  # the loader sets it at every pass
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker is not None:
            self._begin_in_worker(number)
        epoch, samples, lanes, window = self.start.get()
        partition = self.partition(samples)
        reading = self.dataset.reading(lanes, window, epoch, worker=number, num_workers=count)
        # What was fetched since the last batch of the pass before counts for the first of this one.
        fetched_bytes = self.dataset.take_cost().network_bytes
        self._usual_bytes = 0
        for batch in range(number, partition.num_batches, count):
            try:
                made = self._made(reading, partition, batch, fetched_bytes)
            except ShardToolError as exc:
                if worker is None:
                    raise
                yield Failure(exc)
                return
            fetched_bytes = 0
            yield made

    def _begin_in_worker(self, number: int) -> None:
        if not self._is_watched:
            self._is_watched = True  # this process's copy
            _exit_with_parent()
        if self._own_segments is None and self.segments:
            self._own_segments = self.segments[0].of_worker(number)

    def _made(
        self, reading: Reading, partition: EpochPartition, batch: int, fetched_bytes: int
    ) -> Batch | SentBatch | Collated:
        """Batch number `batch` of a partition, ready to be sent."""
        positions = np.array(partition.positions(batch, self.dataset.world.slot), np.int64)
        start, stop = partition.bounds(batch)
        if self.dataset.is_generic:
            collated = self._collated(reading, positions, start)
            _complete(collated.cost, len(positions), fetched_bytes)
            return collated
        memory = self._own_segments.memory() if self._own_segments else None
        try:
            packed = self._packed(reading, positions, (start, stop), memory)
            _complete(packed.cost, len(positions), fetched_bytes)
            return memory.sent(packed) if memory else packed
        finally:
            if memory:
                memory.release()  # nothing happens where it was sent

    def _packed(
        self,
        reading: Reading,
        positions: NDArray[np.int64],
        bounds: tuple[int, int],
        memory: BatchMemory | None,
    ) -> Batch:
        """A batch of samples of a task."""
        packing = Packing(
            len(positions), task=self.dataset.task, memory=memory, usual_bytes=self._usual_bytes
        )
        bad = self.dataset.load(reading, positions, packing.add, batch_start=bounds[0])
        packed = packing.batch(epoch=reading.epoch.number, start=bounds[0], stop=bounds[1])
        packed.bad_samples = bad
        packed.cost = packed.cost + self.dataset.take_cost()
        self._usual_bytes = packed.pixels.nbytes + (packed.masks.nbytes if memory else 0)
        return packed

    def _collated(self, reading: Reading, positions: NDArray[np.int64], start: int) -> Collated:
        """A batch of generic samples."""
        samples: list[Any] = []
        bad = self.dataset.load(reading, positions, samples.append, batch_start=start)
        cost, begun = self.dataset.take_cost(), time.perf_counter()
        value = samples if self.collate_fn is None else self.collate_fn(samples)
        cost.collate_s = time.perf_counter() - begun
        return Collated(value, cost, bad)


def _complete(cost: Cost, num_samples: int, fetched_bytes: int) -> None:
    """Add to a batch's cost what is known once it is made."""
    cost.network_bytes += fetched_bytes
    cost.num_samples, cost.made_at = num_samples, time.perf_counter()


def _exit_with_parent() -> None:
    """End this worker soon after its parent has ended, whatever the worker is doing then.

    torch ends an orphaned worker too, but only once somebody takes its batches. Until then the
    worker holds its parent's sockets, so that other ranks wait for the dead one.
    """
    starter, parent = os.getppid(), multiprocessing.parent_process()

    def watch() -> None:
        # Forked siblings hold each other's sentinel open. A starter that was gone before we asked
        # shows only in the sentinel.
        while os.getppid() == starter and parent is not None and parent.is_alive():
            time.sleep(_PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
