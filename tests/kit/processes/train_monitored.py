"""A fit under Monitor whose rank 1 has a slow transform: run by torchrun.

Usage: train_monitored.py DATASET FOLDER; FOLDER/log/metrics.csv is what was logged.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger

from datamodules import Monitor, VOCDataModule
from tests.kit.models.recorder import Recorder


def sleepy(image: Any, target: Any) -> Any:
    """Starves rank 1 alone."""
    if os.environ["RANK"] == "1":
        time.sleep(0.1)
    return image, target


def main() -> None:
    warnings.simplefilter("ignore")
    dataset, folder = sys.argv[1:]
    data = VOCDataModule(dataset, batch_size=1, num_workers=0, train_transforms=sleepy)
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
    ).fit(Recorder(), data)


if __name__ == "__main__":
    main()
