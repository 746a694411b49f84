"""Measures what `Monitor` adds to a step: the CPU time of its hooks in a real fit.

    python benchmarks/monitor.py DATASET

It counts CPU time of the training thread, which other work on the machine changes little. The model
does nothing: divide the printed time by that of a real step to get its share. It runs on whatever
device there is.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections import Counter
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from datamodules import Monitor, VOCDataModule

HOOKS = ("on_train_batch_start", "on_train_batch_end")


class Quick(LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:  # noqa: ARG002
        """Nothing of the batch."""
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        """Any."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def timed(monitor: Monitor) -> Counter[str]:
    """Let the monitor's hooks add up what they take, in seconds."""
    spent: Counter[str] = Counter()
    for name in HOOKS:
        hook = getattr(monitor, name)

        def call(*arguments: Any, hook: Any = hook, name: str = name) -> None:
            begun = time.thread_time()
            hook(*arguments)
            spent[name] += time.thread_time() - begun  # type: ignore[assignment]

        setattr(monitor, name, call)
    return spent


def fit(dataset: str, steps: int, monitor: Monitor, every: int) -> None:
    """Train so many steps, logging every so many to TensorBoard."""
    data = VOCDataModule(dataset, batch_size=2, image_size=32, num_workers=0)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            max_steps=steps,
            devices=1,
            limit_val_batches=0,
            log_every_n_steps=every,
            logger=TensorBoardLogger(folder),
            callbacks=[monitor],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Quick(), data)


def main() -> None:
    """Measure and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for every in (1, 50):
        found = []
        for _ in range(options.runs):
            monitor = Monitor(warn_above=1)
            spent = timed(monitor)
            fit(options.dataset, options.steps, monitor, every)
            found.append(1e6 * sum(spent.values()) / options.steps)
        print(
            f"logged every {every:2} steps: {statistics.median(found):.0f} us a step "
            f"({min(found):.0f} to {max(found):.0f})"
        )


if __name__ == "__main__":
    main()
