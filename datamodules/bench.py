"""Stream a dataset without a model, and say how fast it came and what the time went to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datamodules.cost import Cost
from datamodules.loader import ShardLoader

if TYPE_CHECKING:
    from collections.abc import Callable

    from datamodules.dataset import ShardDataset


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochBench:
    """One epoch, as this process saw it."""

    epoch: int
    num_samples: int
    num_batches: int
    seconds: float
    """From asking for the first batch to the end, start of workers included."""
    first_batch_s: float
    """Until the first batch was there, start of workers included."""
    cost: Cost
    """Of all batches together; `queue_depth` is their mean, rounded."""

    @property
    def samples_per_s(self) -> float:
        """Samples a second after the first batch; where there is no other, its own."""
        if self.num_batches == 1:
            return self.num_samples / self.seconds
        rest = self.num_samples * (1 - 1 / self.num_batches)
        return rest / max(self.seconds - self.first_batch_s, 1e-9)

    @property
    def bytes_per_s(self) -> float:
        """Bytes of samples a second, at that speed."""
        return self.samples_per_s * self.cost.sample_bytes / self.num_samples

    @property
    def wait_share(self) -> float:
        """Share of the time after the first batch in which no batch was ready."""
        waited = self.cost.wait_s - self.first_batch_s
        return min(1.0, max(0.0, waited / max(self.seconds - self.first_batch_s, 1e-9)))

    @property
    def worker_shares(self) -> dict[str, float]:
        """What workers spent their time on: share of each kind in all of them."""
        cost = self.cost
        spent = {
            "fetch": cost.fetch_s,
            "decode": cost.decode_s,
            "transform": cost.transform_s,
            "collate": cost.collate_s,
        }
        total = sum(spent.values()) or 1.0
        return {name: seconds / total for name, seconds in spent.items()}

    @property
    def cache_hits(self) -> float:
        """Share of the bytes read that lay on this machine already: in the cache or on its disk."""
        cost = self.cost
        return (cost.cache_bytes + cost.disk_bytes) / max(cost.sample_bytes, 1)


def bench(
    dataset: ShardDataset,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    epochs: int = 1,
    max_batches: int | None = None,
    on_epoch: Callable[[EpochBench], None] = lambda _: None,
) -> list[EpochBench]:
    """Stream `epochs` epochs.

    Args:
        dataset: What to stream.
        batch_size: Samples of a batch.
        num_workers: Processes that decode.
        epochs: How often.
        max_batches: Batches of an epoch after which to stop; None: all of them.
        on_epoch: Called after each epoch.
    """
    loader = ShardLoader(
        dataset, batch_size, num_workers=num_workers, persistent_workers=num_workers > 0
    )
    found = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        found.append(_bench_epoch(loader, epoch, max_batches))
        on_epoch(found[-1])
    return found


def _bench_epoch(loader: ShardLoader, epoch: int, max_batches: int | None) -> EpochBench:
    total, num_samples, num_batches, depth, first_batch_s = Cost(), 0, 0, 0, 0.0
    begun = time.perf_counter()
    for batch in loader:
        if not num_batches:
            first_batch_s = time.perf_counter() - begun
        num_batches, num_samples = num_batches + 1, num_samples + len(batch)
        depth += loader.last_cost.queue_depth
        total += loader.last_cost
        if num_batches == max_batches:
            break
    seconds = time.perf_counter() - begun
    total.queue_depth = round(depth / max(num_batches, 1))
    return EpochBench(
        epoch=epoch,
        num_samples=num_samples,
        num_batches=num_batches,
        seconds=seconds,
        first_batch_s=first_batch_s,
        cost=total,
    )
