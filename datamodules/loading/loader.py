"""Loads batches of a `ShardDataset`, and resumes at a cursor: `ShardLoader`.

A pass begins when its first batch is asked for, not at `iter`: Lightning calls `iter(loader)`, then
`sampler.set_epoch`, then `next`. Batches that were handed out move the cursor; under
`VOCDataModule`, batches that were trained.
"""

from __future__ import annotations

import logging
import operator
import signal
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, SequentialSampler

from datamodules.loading.bad_samples import note_bad_samples
from datamodules.loading.batch_stream import BatchStream, Collated, Failure
from datamodules.loading.shared_cursor import SharedCursor
from datamodules.loading.shared_memory import SharedSegments
from datamodules.profiling.batch_cost import Cost
from shard_tool.errors import OptionError, ResumeError, ShardError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from datamodules.loading.batch import Batch
    from datamodules.loading.dataset import ShardDataset
    from datamodules.order.cursor import Cursor
    from datamodules.order.partition import EpochPartition

log = logging.getLogger(__name__)


class ShardLoader(DataLoader[Any]):
    """Loads the same global batches of a `ShardDataset` on any number of ranks and workers.

    An evaluation loader (`shuffle=False` in the dataset, and `drop_last=False`) has no cursor: it
    starts at the first sample at every `iter` and ignores `set_epoch`.

    Generic samples come as the list of what the dataset's transform returned, or as what
    `collate_fn` makes of that list.

    Args:
        dataset: The samples to load.
        batch_size: Samples of a batch on each rank.
        sampler: Must be None: the dataset decides the order. It has a name so that Lightning can
            rebuild the loader.
        batch_sampler: Must be None, likewise.
        num_workers: Processes that decode; their number does not change what is loaded.
        drop_last: Only full batches; else the last samples are spread evenly over the last batches.
        pin_memory: As in DataLoader, like all arguments up to `pin_memory_device`.
        timeout: Seconds to wait for a batch.
        worker_init_fn: Called in each worker with its number.
        multiprocessing_context: 'fork', 'forkserver' or 'spawn'.
        prefetch_factor: Batches that each worker makes ahead.
        persistent_workers: Keep workers between epochs.
        pin_memory_device: As in DataLoader.
        resumable: Whether there is a cursor; None: yes, except in an evaluation loader.
        collate_fn: Only for generic samples; runs in the workers. Samples of a task are packed into
            a `Batch`.

    Raises:
        OptionError: `batch_size` below 1, a sampler, or a `collate_fn` for samples of a task.
    """

    dataset: BatchStream

    def __init__(
        self,
        dataset: ShardDataset | BatchStream,
        batch_size: int = 1,
        *,
        sampler: object = None,
        batch_sampler: object = None,
        num_workers: int = 0,
        drop_last: bool = False,
        pin_memory: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        resumable: bool | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        if sampler is not None or batch_sampler is not None:
            problem = "must be None: the order is the dataset's"
            raise OptionError("sampler", problem, "choose it with seed, shuffle, lanes and window")
        batch_size = operator.index(batch_size)  # a NumPy integer would not load with weights_only
        if batch_size < 1:
            raise OptionError("batch_size", f"{batch_size} is below 1")
        source = dataset.dataset if isinstance(dataset, BatchStream) else dataset
        if isinstance(dataset, BatchStream) and collate_fn in (None, _as_it_is):
            collate_fn = dataset.collate_fn  # Lightning rebuilds the loader with torch's own
        stream = BatchStream(
            source, batch_size=batch_size, drop_last=drop_last, collate_fn=collate_fn
        )
        self.resumable = source.shuffle or drop_last if resumable is None else resumable
        self._cursor: Cursor | None = None
        self._taken: _Taken | None = None
        self._num_passes = 0
        self._sampler_epoch_set = False
        self._saved_global_batch_size: int | None = None
        # Changed in place: Lightning may keep whatever is assigned.
        self._segments: list[SharedSegments] = []
        self.bad_samples: dict[int, str] = {}
        """Sample id to reason, of the bad samples substituted so far."""
        self.last_cost = Cost()
        """What the batch handed out last cost."""
        self.trained_batches: Callable[[], int] | None = None
        """Returns the batches of this epoch trained so far, by Lightning's count; set by
        `VOCDataModule`."""
        super().__init__(
            stream,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            timeout=timeout,
            worker_init_fn=worker_init_fn,
            multiprocessing_context=multiprocessing_context,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers and num_workers > 0,
            pin_memory_device=pin_memory_device,
        )
        # DataLoader refuses these after its __init__; Lightning reads them to rebuild the loader.
        object.__setattr__(self, "batch_size", batch_size)
        object.__setattr__(self, "drop_last", drop_last)

    # No sampler decides the order of samples, but Lightning announces epochs to `loader.sampler`.
    # torch reads its own sampler from `_index_sampler`.

    @property  # type: ignore[override]  # nothing iterates it
    def sampler(self) -> _LightningSampler:
        """The object on which Lightning calls `set_epoch`."""
        shuffle = self.dataset.dataset.shuffle
        return _LightningSampler(self) if shuffle else _LightningSequentialSampler(self)

    @sampler.setter
    def sampler(self, value: Any) -> None:
        self._torch_sampler = value

    @property
    def _index_sampler(self) -> Any:
        return self._torch_sampler

    @property
    def cursor(self) -> Cursor:
        """The next position that was not handed out (or not trained, see `state_dict`)."""
        if self._taken is not None:
            return self._taken.cursor(self.trained_batches)
        if self._cursor is None:
            self._cursor = self.dataset.dataset.first_cursor()
        return self._cursor

    @property
    def remaining_batches(self) -> int:
        """Batches from the cursor to the end of its epoch, in the present world."""
        return self.dataset.partition(self.cursor.samples).num_batches

    def __len__(self) -> int:
        """Batches of a full epoch in the present world, whatever the cursor."""
        return self.dataset.partition().num_batches

    def num_samples_of(self, num_batches: int) -> int:
        """Samples, over all ranks, in the first `num_batches` of a full epoch, or in all it has.

        An evaluation that is complete has counted as many.
        """
        partition = self.dataset.partition()
        return partition.bounds(min(num_batches, partition.num_batches))[0]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a lazy one
        return _Pass(self)

    def set_epoch(self, epoch: int) -> None:
        """Move to the beginning of `epoch`, unless the cursor is in that epoch already."""
        if self.resumable and epoch != self.cursor.epoch:
            self._move_to(replace(self.cursor, epoch=epoch, samples=0))

    def state_dict(self) -> dict[str, Any]:
        """The cursor to resume from, as plain types; the same on every rank.

        It counts batches that were handed out, under `VOCDataModule` batches that were trained.
        `global_batch_size` is not part of the cursor: by it a loader notices a change of topology
        under plain Lightning.
        """
        state: dict[str, Any] = dict(self.cursor.to_state())
        state["global_batch_size"] = self.dataset.partition().global_batch_size
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next pass at a saved cursor.

        Raises:
            ResumeError: The state is empty, of another version, or of other data, another seed,
                lanes or window; the message has both sides.
        """
        cursor = self.dataset.dataset.cursor_from_state(state)
        if not self.resumable:
            return
        self._saved_global_batch_size = state.get("global_batch_size")
        self._move_to(cursor)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the same cursor, but no workers, no pass and no Trainer."""
        cursor = self.cursor if self.resumable else None
        own: dict[str, Any] = {
            "_cursor": cursor,
            "_taken": None,
            "_iterator": None,
            "_segments": [],
        }
        own["trained_batches"] = None
        return {**self.__dict__, **own}

    def _new_segments(self) -> list[SharedSegments]:
        if not self.num_workers or self.dataset.dataset.is_generic:
            return []
        return [SharedSegments(self.num_workers, (self.prefetch_factor or 2) + 2)]

    def _move_to(self, cursor: Cursor) -> None:
        self._cursor, self._taken = cursor, None

    def _begin(self) -> tuple[_Taken, Iterator[Batch | Collated | Failure]]:
        """Begin a pass: find its cursor, share it with the workers, and start them."""
        stream = self.dataset
        stream.dataset.settle_world()
        cursor = self.cursor if self.resumable else stream.dataset.first_cursor()
        if self._taken is not None and self._taken.is_all:
            # All batches were taken, but StopIteration was not: zip(range(n), loader) does so.
            cursor = replace(cursor, epoch=cursor.epoch + 1, samples=0)
        self._check_topology(cursor)
        if stream.start is None or self._iterator is None:
            stream.start = SharedCursor()  # a new one: workers of before may still be starting
            self._segments[:] = stream.segments = self._new_segments()
        stream.start.set(cursor)
        trained = self.trained_batches
        taken = _Taken(
            start=cursor,
            partition=stream.partition(cursor.samples),
            trained_before=trained() if trained else 0,
        )
        batches = super().__iter__()
        stream.segments = []  # the workers have it; the pass, or the loader, holds what is mapped
        self._num_passes += 1
        if self.resumable:
            self._taken = taken
        return taken, batches

    def _finish(self, done: _Taken) -> None:
        if self.resumable and self._taken is done:
            self._move_to(replace(done.start, epoch=done.start.epoch + 1, samples=0))

    def _check_topology(self, cursor: Cursor) -> None:
        """Refuse another global batch size where nobody corrects Lightning's count of batches."""
        saved, here = self._saved_global_batch_size, self.dataset.partition().global_batch_size
        alone = not self._sampler_epoch_set or self.trained_batches is not None
        if cursor.samples and saved not in (None, here) and not alone:
            problem = f"saved with {saved} samples a global batch, this run has {here}"
            hint = "pass a VOCDataModule to the Trainer: it restates Lightning's count of batches"
            raise ResumeError("ShardLoader under Lightning", problem, hint)


class _LightningSampler:
    """`loader.sampler`, as far as Lightning uses it."""

    def __init__(self, loader: ShardLoader) -> None:
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        self._loader._sampler_epoch_set = True
        self._loader.set_epoch(epoch)


class _LightningSequentialSampler(_LightningSampler, SequentialSampler):
    """The same for manifest order: by its type Lightning knows that nothing is shuffled."""

    def __init__(self, loader: ShardLoader) -> None:
        _LightningSampler.__init__(self, loader)
        SequentialSampler.__init__(self, loader.dataset.dataset)


@dataclass
class _Taken:
    """How many batches of a pass were taken."""

    start: Cursor
    partition: EpochPartition
    trained_before: int
    """Batches of this epoch that Lightning had counted when the pass began."""
    handed_out: int = 0

    @property
    def is_all(self) -> bool:
        """Whether every batch was handed out."""
        return self.handed_out >= self.partition.num_batches

    def cursor(self, trained: Callable[[], int] | None) -> Cursor:
        """The cursor after the batches trained, if that is known, else handed out."""
        done = self.handed_out
        if trained is not None:
            done = min(done, max(0, trained() - self.trained_before))
        return replace(self.start, samples=self.partition.bounds(done)[0])


class _Pass:
    """One iteration over a loader. It begins when the first batch is asked for."""

    def __init__(self, loader: ShardLoader) -> None:
        self._loader = loader
        self._taken: _Taken | None = None
        self._batches: Iterator[Batch | Collated | Failure] = iter(())
        self._number = 0
        self._segments: list[SharedSegments] = []
        self._error: BaseException | None = None

    def __iter__(self) -> _Pass:
        return self

    def __next__(self) -> Any:
        if self._error is not None:
            raise self._error  # later batches would hide that one is missing
        begun = time.perf_counter()
        if self._taken is None:
            self._taken, self._batches = self._loader._begin()
            self._number = self._loader._num_passes
            self._segments = list(self._loader._segments)  # needed as long as batches arrive
            if not self._loader.persistent_workers:
                self._loader._segments.clear()
        self._check_is_latest()
        try:
            batch = _unwrapped(next(self._batches))
            now, is_first = time.perf_counter(), not self._taken.handed_out
            batch.cost.received(asked=begun, now=now, is_first=is_first)
            batch.cost.queue_depth = _num_ready(self._batches)
            loader = self._loader
            loader.last_cost = batch.cost
            limit = loader.dataset.dataset.max_bad_samples
            loader.bad_samples = note_bad_samples(loader.bad_samples, batch.bad_samples, limit)
        except StopIteration:
            self._loader._finish(self._taken)
            self._segments.clear()
            raise
        except Exception as exc:
            self._error = _explained(exc, self._batches)
            # The error's traceback refers to this pass. If the pass still held torch's iterator,
            # collecting that cycle would wait 5 s for each worker. After a batch that took 5 s
            # torch's own frames refer to it, so its workers are ended here.
            end_workers = getattr(
                self._batches, "_shutdown_workers", None
            )  # torch has no public way
            self._batches = iter(())
            if end_workers is not None and not self._loader.persistent_workers:
                end_workers()
            if self._error is exc:
                raise
            raise self._error from exc
        self._taken.handed_out += 1
        return batch.value if isinstance(batch, Collated) else batch

    def _check_is_latest(self) -> None:
        """Refuse an older pass: persistent workers serve one, and it would take their batches."""
        loader = self._loader
        if loader.persistent_workers and self._number != loader._num_passes:
            problem = "another iteration has begun, and persistent workers serve one at a time"
            raise OptionError("ShardLoader", problem, "use a second loader, or finish the first")


def _unwrapped(batch: Batch | Collated | Failure) -> Batch | Collated:
    if isinstance(batch, Failure):
        raise batch.error
    return batch


def _num_ready(batches: object) -> int:
    """Batches that workers have ready; torch has no public way to ask."""
    queue = getattr(batches, "_data_queue", None)
    try:
        return int(queue.qsize()) if queue is not None else 0
    except NotImplementedError:  # macOS
        return 0


def _explained(exc: Exception, batches: object) -> Exception:
    """The error itself, or what a worker's SIGBUS means, which torch's message may not say."""
    workers = getattr(batches, "_workers", ())
    if not any(worker.exitcode == -signal.SIGBUS for worker in workers):
        return exc
    problem = "died of a bus error: a shard changed while mapped, or /dev/shm is full"
    hint = "never overwrite shards in place; verify the dataset and start again"
    return ShardError("a worker", problem, hint)


def _as_it_is(batch: Any) -> Any:
    return batch
