"""Streams a dataset without a model and measures how fast batches arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from datamodules.loading.loader import ShardLoader
from datamodules.profiling.device_clock import DeviceEvent
from datamodules.profiling.stalls import StepMeter, StepTotals

if TYPE_CHECKING:
    from collections.abc import Callable

    from datamodules.loading.dataset import ShardDataset


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochBench:
    """One epoch, measured in this process; its steps take no time."""

    epoch: int
    seconds: float
    """From the request for the first batch to the end, start of workers included."""
    totals: StepTotals

    @property
    def first_batch_s(self) -> float:
        """Seconds until the first batch arrived, start of workers included."""
        return self.totals.cost.start_s


def bench(
    dataset: ShardDataset,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    epochs: int = 1,
    max_batches: int | None = None,
    on_epoch: Callable[[EpochBench], None] = lambda _: None,
) -> list[EpochBench]:
    """Stream some epochs and measure each.

    Args:
        dataset: The dataset.
        batch_size: Samples of a batch.
        num_workers: Processes that decode.
        epochs: Number of epochs.
        max_batches: Batches of each epoch; None: all of them.
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
    here, meter = torch.device("cpu"), StepMeter()
    begun = DeviceEvent(here)
    for number, _ in enumerate(loader, start=1):
        meter.arrived(loader.last_cost, DeviceEvent(here))
        if number == max_batches:
            break
    return EpochBench(
        epoch=epoch, seconds=begun.seconds_until(DeviceEvent(here)) or 0.0, totals=meter.take()
    )
