"""Shared memory in which batches cross from a worker to its parent, used again once let go.

A fresh piece of shared memory costs more than what is copied into it: the kernel zeroes each page
when it is first touched, and maps it once in the worker and once in the parent. So a worker keeps a
few segments, each under a slot. It takes one that is idle, packs a batch into it and sends the
slot's number; when the last tensor over it is gone in the parent, the parent marks it idle, or
gives it up where enough are idle already. Whoever keeps batches for long only makes the worker take
more segments, and in the end ordinary shared memory.

A segment is sent once, as torch sends shared tensors: by a file descriptor that has no name any
more, so nothing is left behind however processes end. A child forked from the parent sees the
batches its parent held: their segments are never written to again.

To torch, a batch's pixels are memory like any other, not shared: sending them on to another process
copies them.
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

SLOTS = 16
"""Segments a worker keeps at most."""
_EMPTY, _TAKEN, _IDLE = 0, 1, 2
"""States of a slot: without a segment, in somebody's hands, waiting to be used again."""
_SPARE_BYTES = 1 << 20

_numbers = itertools.count()
_at_home: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()
"""Those made in this process: where parcels find theirs when they arrive."""
_num_forks = itertools.count()
_forks = [next(_num_forks)]
"""How often this process has forked."""


def _count_fork() -> None:
    _forks[0] = next(_num_forks)


os.register_at_fork(before=_count_fork)


class Slots:
    """The segments of a loader's workers, as the parent sees them.

    Args:
        num_workers: Workers there will be.
        num_idle: Idle segments kept for each of them.
    """

    def __init__(self, num_workers: int, num_idle: int) -> None:
        self.number, self._num_idle = next(_numbers), num_idle
        self._shared_states = torch.full((num_workers, SLOTS), _EMPTY, dtype=torch.int8)
        self._shared_states.share_memory_()  # type: ignore[no-untyped-call]
        self._segments: dict[tuple[int, int], NDArray[Any]] = {}
        _at_home[self.number] = self

    def __getstate__(self) -> dict[str, Any]:
        return {"number": self.number, "_shared_states": self._shared_states}

    @property
    def num_segments(self) -> int:
        """Segments this process has mapped."""
        return len(self._segments)

    @property
    def num_taken(self) -> int:
        """Segments being packed, on their way, or held here."""
        return int((self._shared_states.numpy() == _TAKEN).sum())

    def of_worker(self, worker: int) -> Pool:
        """The segments of one worker, in that worker."""
        return Pool(self.number, worker, self._shared_states[worker].numpy())

    def received(
        self, worker: int, slot: int, segment: torch.Tensor | None, num_bytes: int
    ) -> torch.Tensor:
        """The bytes of a batch that has arrived: uint8 [num_bytes]; let go with the last view.

        Args:
            worker: Who sent it.
            slot: Number of its segment.
            segment: The segment itself, where it is a new one.
            num_bytes: How much of it the batch fills.
        """
        at = (worker, slot)
        if segment is not None:
            self._segments[at] = segment.numpy()
        content = self._segments[at][:num_bytes]
        # NumPy, not torch: a finaliser may run while somebody traces torch's operations.
        states = self._shared_states.numpy()[worker]
        now = (os.getpid(), _forks[0])
        end = weakref.finalize(content, _let_go, self._segments, at, states, self._num_idle, now)
        end.atexit = False
        return torch.from_numpy(content)


class Pool:
    """The segments of one worker."""

    def __init__(self, number: int, worker: int, states: NDArray[Any]) -> None:
        self._number, self._worker, self._states = number, worker, states
        self._segments: list[torch.Tensor | None] = [None] * len(states)

    def memory(self) -> Memory:
        """Shared memory for one batch."""
        return Memory(self)

    def take(self, num_bytes: int) -> tuple[int, torch.Tensor, bool]:
        """(slot, uint8 [at least num_bytes], whether the segment is new); slot -1: of none."""
        states = self._states.tolist()
        for slot, state in enumerate(states):
            if state == _EMPTY:
                self._segments[slot] = None  # the parent gave it up
        for slot, segment in enumerate(self._segments):
            if states[slot] == _IDLE and segment is not None and _fits(segment, num_bytes):
                self._states[slot] = _TAKEN
                return slot, segment, False
        # An idle one of the wrong size goes, else there is one more.
        wanted = next((state for state in (_IDLE, _EMPTY) if state in states), _TAKEN)
        segment = _shared(num_bytes)
        if wanted == _TAKEN:
            return -1, segment, True
        slot = states.index(wanted)
        self._segments[slot] = segment
        self._states[slot] = _TAKEN
        return slot, segment, True

    def release(self, slot: int, *, is_new: bool) -> None:
        """Give back a segment that was taken and not sent; a new one nobody else knows: it goes."""
        if slot >= 0:
            self._states[slot] = _EMPTY if is_new else _IDLE

    def parcel(self, batch: Batch, slot: int, segment: torch.Tensor | None) -> Parcel:
        """A batch that lies in a segment, ready to be sent."""
        return Parcel(batch, self._number, self._worker, slot, segment)


class Memory:
    """Shared memory for one batch: called for room, then told what is to be sent in it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._slot, self._is_new = -1, False
        self._segment: torch.Tensor | None = None

    def __call__(self, num_bytes: int) -> torch.Tensor:
        """Room for `num_bytes`, in place of what was given before."""
        slot, segment, is_new = self._pool.take(num_bytes)
        self.release()
        self._slot, self._segment, self._is_new = slot, segment, is_new
        return segment

    def sent(self, batch: Batch) -> Batch | Parcel:
        """The batch packed into this memory, as it is to be sent."""
        slot, self._slot = self._slot, -1
        if slot < 0:
            return batch
        return self._pool.parcel(batch, slot, self._segment if self._is_new else None)

    def release(self) -> None:
        """Nothing will be sent in it."""
        self._pool.release(self._slot, is_new=self._is_new)
        self._slot = -1


class Parcel:
    """A batch on its way; arrives as the batch."""

    def __init__(
        self, batch: Batch, number: int, worker: int, slot: int, segment: torch.Tensor | None
    ) -> None:
        self._batch = batch
        self._place = (number, worker, slot, segment)

    def __reduce__(self) -> tuple[Any, ...]:
        pixels = self._batch.pixels
        rest = self._batch.with_pixels(torch.empty(0, dtype=torch.uint8))
        return _arrived, (rest, pixels.dtype, pixels.nbytes, *self._place)


def _arrived(
    batch: Batch,
    dtype: torch.dtype,
    num_bytes: int,
    number: int,
    worker: int,
    slot: int,
    segment: torch.Tensor | None,
) -> Batch:
    content = _at_home[number].received(worker, slot, segment, num_bytes)
    return batch.with_pixels(content.view(dtype))


def _let_go(
    segments: dict[tuple[int, int], NDArray[Any]],
    at: tuple[int, int],
    states: NDArray[Any],
    num_idle: int,
    received: tuple[int, int],
) -> None:
    """After the last view of a batch, received when (process, forks) were as given."""
    if os.getpid() != received[0]:  # a forked child lets go of its copy only
        return
    if _forks[0] != received[1] or (states == _IDLE).sum() >= num_idle:
        segments.pop(at, None)
        states[at[1]] = _EMPTY
    else:
        states[at[1]] = _IDLE


def _fits(segment: torch.Tensor, num_bytes: int) -> bool:
    return num_bytes <= len(segment) <= 4 * num_bytes + _SPARE_BYTES


def _shared(num_bytes: int) -> torch.Tensor:
    """Shared memory made as torch's own collate makes it."""
    storage: Any = torch.UntypedStorage
    return torch.empty(0, dtype=torch.uint8).set_(
        storage._new_shared(num_bytes), 0, [num_bytes], [1]
    )
