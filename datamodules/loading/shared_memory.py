"""Sends batches from workers to their parent through shared memory that is used again.

New shared memory costs more than copying a batch into it: the kernel zeroes each page at its first
use, and maps it once in the worker and once in the parent. So each worker keeps a few segments. It
packs a batch into an idle segment and sends the segment's number. When the last tensor over the
segment is gone in the parent, the parent marks it idle, or gives it up if enough are idle already.
A caller who keeps batches only makes the worker take more segments, and after `MAX_SEGMENTS`
ordinary shared memory.

A segment itself is sent once, as torch sends shared tensors: by a file descriptor without a name,
so nothing is left behind however processes end. A child forked from the parent sees the batches
that its parent held: their segments are never written to again.

torch takes a batch's pixels for ordinary memory: sending them on to another process copies them.

No library does this: torch makes new shared memory for every batch, and
`multiprocessing.shared_memory` has names, which stay behind when all processes are killed.
"""

from __future__ import annotations

import itertools
import os
import weakref
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datamodules.loading.batch import Batch

MAX_SEGMENTS = 16
"""Segments that a worker keeps at most."""
_ABSENT, _TAKEN, _IDLE = 0, 1, 2
"""States of a segment: not there, in use, waiting to be used again."""
_SPARE_BYTES = 1 << 20

_numbers = itertools.count()
_by_number: weakref.WeakValueDictionary[int, SharedSegments] = weakref.WeakValueDictionary()
"""The `SharedSegments` made in this process; an arriving batch finds its own by their number."""
_fork_numbers = itertools.count()
_last_fork = [next(_fork_numbers)]
"""Number of this process's last fork; 0: it has not forked."""


def _count_fork() -> None:
    _last_fork[0] = next(_fork_numbers)


os.register_at_fork(before=_count_fork)


class SharedSegments:
    """The segments of all workers of a loader, as the parent sees them.

    Args:
        num_workers: Number of workers.
        num_idle: Idle segments to keep for each worker.
    """

    def __init__(self, num_workers: int, num_idle: int) -> None:
        self.number, self._num_idle = next(_numbers), num_idle
        self._shared_states = torch.full((num_workers, MAX_SEGMENTS), _ABSENT, dtype=torch.int8)
        self._shared_states.share_memory_()  # type: ignore[no-untyped-call]
        self._segments: dict[tuple[int, int], NDArray[Any]] = {}
        _by_number[self.number] = self

    def __getstate__(self) -> dict[str, Any]:
        return {"number": self.number, "_shared_states": self._shared_states}

    @property
    def num_segments(self) -> int:
        """Segments that this process has mapped."""
        return len(self._segments)

    @property
    def num_taken(self) -> int:
        """Segments that are being packed, sent, or held here."""
        return int((self._shared_states.numpy() == _TAKEN).sum())

    def of_worker(self, worker: int) -> WorkerSegments:
        """The segments of one worker; called in that worker."""
        return WorkerSegments(self.number, worker, self._shared_states[worker].numpy())

    def received(
        self, worker: int, segment_index: int, segment: torch.Tensor | None, num_bytes: int
    ) -> torch.Tensor:
        """The bytes of a batch that has arrived: uint8 [num_bytes].

        The segment is released with the last view of them.

        Args:
            worker: The worker that sent the batch.
            segment_index: Which of the worker's segments holds it.
            segment: The segment itself if it is new, else None.
            num_bytes: Bytes of the batch.
        """
        at = (worker, segment_index)
        if segment is not None:
            self._segments[at] = segment.numpy()
        content = self._segments[at][:num_bytes]
        # NumPy, not torch: a finaliser may run while somebody traces torch's operations.
        states = self._shared_states.numpy()[worker]
        now = (os.getpid(), _last_fork[0])
        end = weakref.finalize(content, _release, self._segments, at, states, self._num_idle, now)
        end.atexit = False
        return torch.from_numpy(content)


class WorkerSegments:
    """The segments of one worker, in that worker."""

    def __init__(self, number: int, worker: int, states: NDArray[Any]) -> None:
        self._number, self._worker, self._states = number, worker, states
        self._segments: list[torch.Tensor | None] = [None] * len(states)

    def memory(self) -> BatchMemory:
        """Shared memory for one batch."""
        return BatchMemory(self)

    def take(self, num_bytes: int) -> tuple[int, torch.Tensor, bool]:
        """Take an idle segment, or make one.

        Returns:
            (segment index, uint8 [at least num_bytes], whether it is new). Index -1: the worker has
            `MAX_SEGMENTS` in use, and this one is ordinary shared memory.
        """
        states = self._states.tolist()
        for index, state in enumerate(states):
            if state == _ABSENT:
                self._segments[index] = None  # the parent gave it up
        for index, segment in enumerate(self._segments):
            if states[index] == _IDLE and segment is not None and _fits(segment, num_bytes):
                self._states[index] = _TAKEN
                return index, segment, False
        # The new one replaces an idle one of the wrong size, if there is one.
        wanted = next((state for state in (_IDLE, _ABSENT) if state in states), _TAKEN)
        segment = _new_segment(num_bytes)
        if wanted == _TAKEN:
            return -1, segment, True
        index = states.index(wanted)
        self._segments[index] = segment
        self._states[index] = _TAKEN
        return index, segment, True

    def release(self, index: int, *, is_new: bool) -> None:
        """Give back a segment that was not sent; one that the parent has never seen is dropped."""
        if index >= 0:
            self._states[index] = _ABSENT if is_new else _IDLE

    def sent(self, batch: Batch, index: int, segment: torch.Tensor | None) -> SentBatch:
        """A batch that lies in a segment, ready to be sent."""
        return SentBatch(batch, self._number, self._worker, index, segment)


class BatchMemory:
    """Shared memory for one batch: called for memory, then for the batch to send."""

    def __init__(self, segments: WorkerSegments) -> None:
        self._segments = segments
        self._index, self._is_new = -1, False
        self._segment: torch.Tensor | None = None

    def __call__(self, num_bytes: int) -> torch.Tensor:
        """Memory of uint8 [at least num_bytes]; replaces what was given before."""
        index, segment, is_new = self._segments.take(num_bytes)
        self.release()
        self._index, self._segment, self._is_new = index, segment, is_new
        return segment

    def sent(self, batch: Batch) -> Batch | SentBatch:
        """The batch that was packed into this memory, ready to be sent."""
        index, self._index = self._index, -1
        if index < 0:
            return batch
        return self._segments.sent(batch, index, self._segment if self._is_new else None)

    def release(self) -> None:
        """Give the memory back if nothing was sent in it."""
        self._segments.release(self._index, is_new=self._is_new)
        self._index = -1


class SentBatch:
    """A batch in a segment on its way to the parent; unpickling gives the `Batch`."""

    def __init__(
        self, batch: Batch, number: int, worker: int, index: int, segment: torch.Tensor | None
    ) -> None:
        self._batch = batch
        self._address = (number, worker, index, segment)

    def __reduce__(self) -> tuple[Any, ...]:
        pixels, masks = self._batch.pixels, self._batch.masks
        nothing = torch.empty(0, dtype=torch.uint8)
        rest = self._batch.with_pixels(nothing, masks=nothing)
        num_bytes = (pixels.nbytes, masks.nbytes)
        return _unpickled, (rest, pixels.dtype, num_bytes, *self._address)


def _unpickled(
    batch: Batch,
    dtype: torch.dtype,
    num_bytes: tuple[int, int],
    number: int,
    worker: int,
    index: int,
    segment: torch.Tensor | None,
) -> Batch:
    content = _by_number[number].received(worker, index, segment, sum(num_bytes))
    pixels, masks = torch.split(content, [*num_bytes])
    return batch.with_pixels(pixels.view(dtype), masks=masks)


def _release(
    segments: dict[tuple[int, int], NDArray[Any]],
    at: tuple[int, int],
    states: NDArray[Any],
    num_idle: int,
    received: tuple[int, int],
) -> None:
    """Release a segment after the last view of its batch.

    Args:
        segments: The mapped segments, by (worker, segment index).
        at: Which one to release.
        states: States of the worker's segments.
        num_idle: Idle segments to keep.
        received: (process id, last fork) when the batch arrived.
    """
    if os.getpid() != received[0]:  # a forked child: only its copy of the view is gone
        return
    if _last_fork[0] != received[1] or (states == _IDLE).sum() >= num_idle:
        segments.pop(at, None)
        states[at[1]] = _ABSENT
    else:
        states[at[1]] = _IDLE


def _fits(segment: torch.Tensor, num_bytes: int) -> bool:
    return num_bytes <= len(segment) <= 4 * num_bytes + _SPARE_BYTES


def _new_segment(num_bytes: int) -> torch.Tensor:
    """Shared memory, uint8 [num_bytes], made as torch's own collate makes it."""
    storage: Any = torch.UntypedStorage
    return torch.empty(0, dtype=torch.uint8).set_(
        storage._new_shared(num_bytes), 0, [num_bytes], [1]
    )
