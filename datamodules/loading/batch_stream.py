"""Makes batches of a dataset's samples in the workers of a `ShardLoader`."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.loading.batch import Batch, Packing
from datamodules.order.partition import EpochPartition
from datamodules.transforms.fused import FusedTransform
from datamodules.transforms.multi_scale import MultiScale
from shard_tool.errors import OptionError, ShardToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from datamodules.loading.dataset import Reading, ShardDataset
    from datamodules.loading.shared_cursor import Place
    from datamodules.loading.shared_memory import Parcel, Pool, Slots
    from datamodules.profiling.batch_cost import Cost

_LOOK_FOR_PARENT_S = 1.0


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


def _check_substitutes(dataset: ShardDataset) -> None:
    """A picture that fails on the device fails when its batch is made already."""
    given = dataset.transform
    recipes = given.transforms if isinstance(given, MultiScale) else [given]
    on_device = any(isinstance(r, FusedTransform) and r.decode == "cuda" for r in recipes)
    if on_device and dataset.on_bad_sample != "raise":
        problem = f"{dataset.on_bad_sample!r} cannot replace what does not decode on the device"
        raise OptionError("on_bad_sample", problem, "take 'raise', or decode='exact'")
