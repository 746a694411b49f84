"""Trains under Monitor; rank 1 has a slow transform. Run by torchrun.

Usage: train_monitored.py DATASET FOLDER; the log is FOLDER/log/metrics.csv. A fake clock, which
only the transform of rank 1 and the steps move, decides what is slow.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger

from datamodules import Monitor, VOCDataModule
from tests.kit.fake_clock import FakeClock
from tests.kit.models.recorder import Recorder

if TYPE_CHECKING:
    import torch

CLOCK = FakeClock()


def slow_on_rank_1(image: Any, target: Any) -> Any:
    if os.environ["RANK"] == "1":
        CLOCK.advance(0.1)
    return image, target


class Step(Recorder):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        CLOCK.advance(0.1)
        return super().training_step(batch, batch_idx)


def main() -> None:
    warnings.simplefilter("ignore")
    time.perf_counter = CLOCK.perf_counter
    dataset, folder = sys.argv[1:]
    data = VOCDataModule(dataset, batch_size=1, num_workers=0, train_transforms=slow_on_rank_1)
    Trainer(
        accelerator="cpu",
        devices=2,
        max_epochs=1,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=CSVLogger(folder, name="", version="log"),
        callbacks=[Monitor(warn_above=0.4, warn_after=4)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(Step(), data)


if __name__ == "__main__":
    main()
