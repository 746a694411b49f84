"""Logs what training waited for, and warns once with what would help: the callback `Monitor`.

Each process measures its own steps; ranks exchange nothing during an epoch. Ranks wait for the
slowest one when they exchange gradients. So they exchange their totals at the end of an epoch, and
the epoch's stall share is that of the slowest rank. Validation is logged separately.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback

from datamodules.lightning.advice import Setup, advice
from datamodules.lightning.datamodule import VOCDataModule
from datamodules.loading.loader import ShardLoader
from datamodules.profiling.device_clock import DeviceCopy, DeviceEvent
from datamodules.profiling.stalls import StepMeter, StepTotals, metrics_of_ranks
from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

log = logging.getLogger(__name__)


class Monitor(Callback):
    """Logs how long training waited, fetched, decoded, transformed, collated and copied.

    It measures loaders that are a `ShardLoader`; the copy to the device only with `VOCDataModule`.
    Every logger of the Trainer gets the values since the last logged step (``data/…``), of each
    epoch (``data_epoch/…``) and of each validation (``data_val/…``). docs/guides/monitor.md lists
    the names.

    Args:
        warn_above: Stall share above which to warn, in (0, 1]; 1: never.
        warn_after: Number of steps to judge by; the stall share must be too high in both halves.
            First batches of epochs do not count.

    Raises:
        OptionError: A number outside its range.
    """

    def __init__(self, warn_above: float = 0.1, warn_after: int = 100) -> None:
        if not 0 < warn_above <= 1:
            raise OptionError("warn_above", f"{warn_above} is not in (0, 1]")
        if warn_after < 2:
            raise OptionError("warn_after", f"{warn_after} is below 2")
        self.warn_above, self.warn_after = warn_above, warn_after
        self._meter, self._val_meter = StepMeter(), StepMeter()
        self._since, self._epoch, self._half = StepTotals(), StepTotals(), StepTotals()
        self._half_before: StepTotals | None = None
        self._validation_begun_s = 0.0
        self._has_warned = self._has_complained = False

    # Training -----------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Forget the earlier fit: a second one is another run."""
        self._meter = StepMeter()
        self._since, self._epoch, self._half = StepTotals(), StepTotals(), StepTotals()
        self._half_before = None
        self._has_warned = False

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Add the cost of the batch."""
        self._note(self._meter, trainer, trainer.train_dataloader)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Log the values since the last logged step."""
        self._meter.work_queued(DeviceEvent(trainer.strategy.root_device))
        is_logged = _is_logged_step(trainer, batch_idx)
        is_half = self._half.num_steps + self._meter.num_steps >= self.warn_after / 2
        if not is_logged and not is_half:
            return
        self._count(self._meter.take())
        if is_half:
            self._judge(trainer)
        if is_logged:
            self._log(trainer, "data", self._since.metrics(), _step(trainer))
            self._since = StepTotals()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log the epoch, as all ranks measured it."""
        self._count(self._meter.take(wait=True))
        ranks, self._epoch = _of_ranks(trainer, self._epoch), StepTotals()
        if trainer.is_global_zero and ranks[0].num_batches:
            # Lightning has counted the last step already; it logs epochs on the step itself.
            self._log(trainer, "data_epoch", metrics_of_ranks(ranks), _step(trainer) - 1)
            log.info("\n  ".join([f"epoch {trainer.current_epoch} on rank 0:", *ranks[0].lines()]))
        slowest = max(range(len(ranks)), key=lambda rank: ranks[rank].stall_share)
        totals = ranks[slowest]
        is_high = totals.num_steps >= self.warn_after and totals.stall_share > self.warn_above
        if slowest and is_high:  # rank 0 judges its own steps in each of them
            self._warn(trainer, totals, rank=slowest)

    # Validation ---------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start measuring validation; training stands still."""
        self._val_meter, self._validation_begun_s = StepMeter(), time.perf_counter()

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,
    ) -> None:
        """Add the cost of the batch."""
        loaders: Any = trainer.val_dataloaders
        if isinstance(loaders, dict):
            loaders = list(loaders.values())
        several = isinstance(loaders, list | tuple)
        self._note(self._val_meter, trainer, loaders[dataloader_idx] if several else loaders)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Mark the end of the batch's work on the device."""
        self._val_meter.work_queued(DeviceEvent(trainer.strategy.root_device))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log the validation, as all ranks measured it; training goes on."""
        if trainer.sanity_checking:
            return
        ranks = _of_ranks(trainer, self._val_meter.take(wait=True))
        if ranks[0].num_batches:
            self._log(trainer, "data_val", metrics_of_ranks(ranks), _step(trainer))
        self._meter.exclude(time.perf_counter() - self._validation_begun_s)
        self._meter.work_queued(DeviceEvent(trainer.strategy.root_device))

    # Parts --------------------------------------------------------------------------------

    def _note(self, meter: StepMeter, trainer: Trainer, loader: Any) -> None:
        if not isinstance(loader, ShardLoader):
            if not self._has_complained and trainer.is_global_zero:
                self._has_complained = True
                log.warning(
                    "Monitor: %s reports no costs, so nothing is logged of it: use a ShardLoader",
                    type(loader).__name__,
                )
            return
        data = getattr(trainer, "datamodule", None)  # Lightning sets it without declaring it
        copy: DeviceCopy | None = None
        if isinstance(data, VOCDataModule):
            copy, data.last_copy = data.last_copy, None
        at = copy.start if copy else DeviceEvent(trainer.strategy.root_device)
        meter.arrived(loader.last_cost, at, copy)

    def _count(self, totals: StepTotals) -> None:
        self._since = self._since + totals
        self._epoch = self._epoch + totals
        self._half = self._half + totals

    def _judge(self, trainer: Trainer) -> None:
        """Warn if this half of the steps waited too long, and the half before it as well."""
        half, before, self._half = self._half, self._half_before, StepTotals()
        self._half_before = half if half.stall_share > self.warn_above else None
        if self._half_before and before:
            self._warn(trainer, before + half, rank=0)

    def _warn(self, trainer: Trainer, totals: StepTotals, rank: int) -> None:
        """Warn once, on rank 0, of what `rank` measured."""
        if self._has_warned or not trainer.is_global_zero:
            return
        self._has_warned = True
        loader: Any = trainer.train_dataloader
        who = f"rank {rank} of {trainer.world_size}" if trainer.world_size > 1 else "training"
        log.warning(
            "%s waited for data %.0f %% of the time of %d steps; %s",
            who,
            100 * totals.stall_share,
            totals.num_steps,
            advice(totals, Setup.of(loader, trainer.strategy.root_device.type)),
        )

    def _log(self, trainer: Trainer, group: str, found: dict[str, float], step: int) -> None:
        if not trainer.is_global_zero or not found:
            return
        metrics = {f"{group}/{name}": value for name, value in found.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": trainer.current_epoch}, step=step)


def _step(trainer: Trainer) -> int:
    """The step that `LightningModule.log` uses, so that curves share an axis."""
    loop: Any = trainer.fit_loop
    return int(loop.epoch_loop._batches_that_stepped)


def _is_logged_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimizer stepped, and Lightning logs this step."""
    accumulated = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
    connector: Any = trainer._logger_connector
    return bool(accumulated and connector.should_update_logs)


def _of_ranks(trainer: Trainer, totals: StepTotals) -> list[StepTotals]:
    """The totals of every rank, by rank; all ranks must call this."""
    if trainer.world_size == 1:
        return [totals]
    values = torch.tensor(
        totals.to_list(), dtype=torch.float64, device=trainer.strategy.root_device
    )
    gathered: Any = trainer.strategy.all_gather(values)
    return [StepTotals.from_list(row) for row in gathered.tolist()]
