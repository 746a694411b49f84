"""All ranks and workers of a run in one process, made of the pure parts alone: no pixels, no torch.

`simulate` gives the steps of one epoch; `SimulatedRun` is a run that can be stopped after any step
and resumed, elsewhere too, from nothing but what its cursor says. Sample ids are numbers in
manifest order, as the dataset's are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from datamodules.order.canonical import CanonicalOrder
from datamodules.order.cursor import Cursor, cursor_from_state
from datamodules.order.partition import EpochPartition
from datamodules.order.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """What all ranks get in one step."""

    start: int
    """First position of the global batch."""
    stop: int
    positions: tuple[tuple[int, ...], ...]
    """Of each rank, by rank, in the rank's order."""
    ids: tuple[tuple[int, ...], ...]
    """Sample ids at these positions."""

    @property
    def global_ids(self) -> list[int]:
        """The step's sample ids over all ranks, by position."""
        pairs = zip(self.positions, self.ids, strict=True)
        found = [pair for rank in pairs for pair in zip(*rank, strict=True)]
        return [sample_id for _, sample_id in sorted(found)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """On how many processes of what kind a run runs."""

    world_size: int = 1
    num_nodes: int = 1
    batch_size: int = 1
    """Samples of a batch on one rank."""
    num_workers: int = 0

    @property
    def worlds(self) -> list[World]:
        """Every rank's place, by rank, numbered node by node."""
        per_node = self.world_size // self.num_nodes
        return [
            World(
                rank=rank,
                world_size=self.world_size,
                node=rank // per_node,
                num_nodes=self.num_nodes,
            )
            for rank in range(self.world_size)
        ]


def simulate(
    order: CanonicalOrder,
    topology: Topology | None = None,
    *,
    epoch: int = 0,
    start: int = 0,
    drop_last: bool = False,
) -> list[Step]:
    """The steps from position `start` to the end of an epoch, every rank's loader played in turn.

    Raises:
        AssertionError: The ranks' loaders do not all make as many batches.
    """
    topology = topology or Topology()
    partition = EpochPartition(
        num_samples=order.num_samples,
        start=start,
        world_size=topology.world_size,
        batch_size=topology.batch_size,
        drop_last=drop_last,
    )
    ranks = [
        _loader(order, partition, world, topology.num_workers, epoch) for world in topology.worlds
    ]
    lengths = {len(batches) for batches in ranks}
    assert lengths == {partition.num_batches}, f"ranks make {lengths} batches"
    return [
        Step(*partition.bounds(batch), *zip(*parts, strict=True))
        for batch, parts in enumerate(zip(*ranks, strict=True))
    ]


Part = tuple[tuple[int, ...], tuple[int, ...]]
"""(positions, sample ids) of one rank's batch."""


def _loader(
    order: CanonicalOrder, partition: EpochPartition, world: World, num_workers: int, epoch: int
) -> list[Part]:
    """One rank's batches: its workers asked in turn, as DataLoader does."""
    count = max(num_workers, 1)
    workers = [_worker(order, partition, world.slot, w, count, epoch) for w in range(count)]
    batches = []
    while workers:
        for worker in list(workers):
            batch = next(worker, None)
            if batch is None:
                workers.remove(worker)
            else:
                batches.append(batch)
    return batches


def _worker(
    order: CanonicalOrder, partition: EpochPartition, slot: int, worker: int, count: int, epoch: int
) -> Iterator[Part]:
    """Worker w of W makes the batches congruent to w; each has an order of its own."""
    copy = _copy_of(order).epoch(epoch)
    for batch in range(worker, partition.num_batches, count):
        positions = partition.positions(batch, slot)
        yield tuple(positions), tuple(sample_ids(order, copy.locate(np.array(positions, np.int64))))


def _copy_of(order: CanonicalOrder) -> CanonicalOrder:
    return CanonicalOrder(
        order.shard_lengths,
        seed=order.seed,
        lanes=order.lanes,
        window=order.window,
        shuffle=order.shuffle,
    )


def sample_ids(order: CanonicalOrder, places: tuple[Any, Any]) -> list[int]:
    """Ids of samples given as `EpochOrder.locate` gives them."""
    shards, rows = places
    first_ids = np.cumsum(order.shard_lengths) - order.shard_lengths
    ids: list[int] = (first_ids[shards] + rows).tolist()
    return ids


def epoch_ids(order: CanonicalOrder, epoch: int = 0) -> list[int]:
    """The canonical order of an epoch as sample ids."""
    return sample_ids(order, order.epoch(epoch).locate(np.arange(order.num_samples)))


def global_ids(steps: Iterable[Step]) -> list[int]:
    """The sequence the steps train on, over all ranks."""
    return [sample_id for step in steps for sample_id in step.global_ids]


class SimulatedRun:
    """A run over synthetic shards: iterate for the steps of an epoch; knows where it is.

    Args:
        lengths: Samples of each shard.
        topology: What it runs on.
        lanes: None: the number of nodes, or what a loaded state says.
        window: None: 8, or what a loaded state says.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        topology: Topology | None = None,
        *,
        seed: int = 0,
        lanes: int | None = None,
        window: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self.topology = topology or Topology()
        self._lengths = np.array(lengths, np.int64)
        self._given = (lanes, window)
        self._shuffle, self._drop_last = shuffle, drop_last
        self.cursor = Cursor(
            fingerprint=f"{list(lengths)} {shuffle}",
            seed=seed,
            epoch=0,
            samples=0,
            lanes=lanes or self.topology.num_nodes,
            window=window or 8,
        )

    @property
    def order(self) -> CanonicalOrder:
        """The order with the cursor's lanes and window."""
        return CanonicalOrder(
            self._lengths,
            seed=self.cursor.seed,
            lanes=self.cursor.lanes,
            window=self.cursor.window,
            shuffle=self._shuffle,
        )

    def __iter__(self) -> Iterator[Step]:
        """The steps from the cursor to the end of its epoch; then it is at the next one's start."""
        steps = simulate(
            self.order,
            self.topology,
            epoch=self.cursor.epoch,
            start=self.cursor.samples,
            drop_last=self._drop_last,
        )
        for step in steps:
            self.cursor = replace(self.cursor, samples=step.stop)
            yield step
        self.cursor = replace(self.cursor, epoch=self.cursor.epoch + 1, samples=0)

    def state_dict(self) -> dict[str, Any]:
        """The cursor, as plain types."""
        return self.cursor.to_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another run was."""
        self.cursor = cursor_from_state(
            state,
            fingerprint=self.cursor.fingerprint,
            seed=self.cursor.seed,
            num_samples=int(self._lengths.sum()),
            lanes=self._given[0],
            window=self._given[1],
        )


class Resumable(Protocol):
    """Something to iterate that knows where it is: a `SimulatedRun`, a loader."""

    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Any, /) -> None: ...


def assert_resumes_everywhere(
    make: Callable[[], Resumable],
    *,
    elsewhere: Callable[[], Resumable] | None = None,
    parts: Callable[[Any], Iterable[object]] = lambda item: [item],
) -> None:
    """Every prefix, saved as JSON and loaded into a fresh object, continues with the same tail.

    Args:
        make: Makes the object that is stopped, at the start.
        elsewhere: Makes the one that goes on, where that is of another kind: another topology or
            batch size, whose items hold the same parts, cut differently.
        parts: What of an item is compared: must have `==`; in order over all items.
    """
    source, items = make(), []
    states = [source.state_dict()]
    for item in source:
        items.append(item)
        states.append(source.state_dict())
    assert items, "nothing to resume: the check would be vacuous"
    for consumed, state in enumerate(states):
        resumed = (elsewhere or make)()
        resumed.load_state_dict(json.loads(json.dumps(state)))
        if elsewhere is None:
            assert resumed.state_dict() == state, f"state differs after {consumed} items"
        tail = [part for item in items[consumed:] for part in parts(item)]
        found = [part for item in resumed for part in parts(item)]
        assert found == tail, f"tail differs after {consumed} items"
