"""Cuts the canonical order into batches, and each batch into the parts of ranks. Pure arithmetic.

Batches are *global*: batch b is a run of positions, and each rank takes the positions congruent
to its slot (`World.slot`) modulo the number of ranks. So at one global batch size the batches are
the same sets of samples on any number of ranks, and every rank makes the same number of steps.

With M samples left and G samples a global batch:

* `drop_last`: T = M // G batches of G; the rest is not read this epoch.
* else: T = min(ceil(M / G), M // world_size) batches of sizes M // T + 1 (the first M mod T) and
  M // T. Every rank has a part of every batch; none is padded, none repeated.

A run that stops after some batches and applies the rule again to the samples that are left gets the
same remaining batches. So a count of samples is enough to resume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shard_tool.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPartition:
    """The global batches from position `start` to the end of an epoch.

    Raises:
        OptionError: A batch size or world size below 1, or fewer samples left than ranks.
    """

    num_samples: int
    """Samples of the whole epoch."""
    start: int = 0
    """Position of the first sample not yet trained."""
    world_size: int = 1
    batch_size: int = 1
    """Samples of a batch on one rank."""
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise OptionError("batch_size", f"{self.batch_size} is below 1")
        if self.world_size < 1:
            raise OptionError("world_size", f"{self.world_size} is below 1")
        if not 0 <= self.start <= self.num_samples:
            raise OptionError("start", f"{self.start} is not in [0, {self.num_samples}]")
        if not self.drop_last and 0 < self.remaining < self.world_size:
            problem = f"{self.remaining} samples are left for {self.world_size} ranks"
            hint = f"use at most {self.remaining} ranks, or drop_last=True"
            raise OptionError("epoch", f"{problem}, so some would have none", hint)

    @property
    def global_batch_size(self) -> int:
        """Samples of a full batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def remaining(self) -> int:
        """Samples from `start` to the end of the epoch."""
        return self.num_samples - self.start

    @property
    def num_batches(self) -> int:
        """Global batches, hence steps of every rank."""
        if self.drop_last:
            return self.remaining // self.global_batch_size
        whole = math.ceil(self.remaining / self.global_batch_size)
        return min(whole, self.remaining // self.world_size)

    def bounds(self, batch: int) -> tuple[int, int]:
        """Return the first position of a global batch, and the one after its last.

        For `num_batches` both are where the last batch stops.
        """
        if self.drop_last:
            start = self.start + batch * self.global_batch_size
            return start, start + self.global_batch_size * (batch < self.num_batches)
        if not self.num_batches:
            return self.start, self.start
        size, larger = divmod(self.remaining, self.num_batches)
        start = self.start + batch * size + min(batch, larger)
        return start, start + (size + (batch < larger)) * (batch < self.num_batches)

    def positions(self, batch: int, slot: int) -> range:
        """Return the positions of a global batch that one rank takes, in order."""
        start, stop = self.bounds(batch)
        return range(start + (slot - start) % self.world_size, stop, self.world_size)

    def num_samples_of(self, slot: int) -> int:
        """Return how many samples one rank takes from `start` to the end of its last batch."""
        if self.drop_last:
            return self.num_batches * self.batch_size
        return len(
            range(
                self.start + (slot - self.start) % self.world_size,
                self.num_samples,
                self.world_size,
            )
        )


def lanes_of_node(node: int, num_nodes: int, lanes: int) -> range:
    """Return the lanes a node reads: those congruent to it modulo gcd(num_nodes, lanes).

    Each lane is read by num_nodes / gcd(num_nodes, lanes) nodes, hence by one if the number of
    nodes divides that of lanes.

    >>> list(lanes_of_node(1, num_nodes=2, lanes=4))
    [1, 3]
    """
    step = math.gcd(num_nodes, lanes)
    return range(node % step, lanes, step)
