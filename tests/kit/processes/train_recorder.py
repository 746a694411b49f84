"""Trains in real processes and records it: run by python or torchrun.

Usage: train_recorder.py JSON, with data (of VOCDataModule), trainer (of Trainer), log, checkpoints
(a folder: a checkpoint after every step), ckpt_path, validate (bool), hang_at (a step that never
ends, so that a test can kill the process there); or with a list of such, done one after the other,
which saves starting processes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import VOCDataModule
from tests.kit.models.recorder import Recorder


class Hanging(Recorder):
    """Hangs in one step."""

    hang_at: int | None = None

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        while self.global_step == self.hang_at:
            signal.pause()
        return super().training_step(batch, batch_idx)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    for options in given if isinstance(given, list) else [given]:
        run(options)


def run(options: dict[str, Any]) -> None:
    model = Hanging(options["log"])
    model.hang_at = options.get("hang_at")
    callbacks = []
    if folder := options.get("checkpoints"):
        every = {"filename": "{step}", "every_n_train_steps": 1, "save_top_k": -1}
        callbacks.append(ModelCheckpoint(dirpath=folder, save_last=True, **every))
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        num_sanity_val_steps=0,
        callbacks=callbacks,
        **options["trainer"],
    )
    Path(f"{options['log']}.pid{trainer.global_rank}").write_text(str(os.getpid()))
    data = VOCDataModule(**options["data"])
    trainer.fit(model, data, ckpt_path=options.get("ckpt_path"))
    if options.get("validate"):
        trainer.validate(model, data, verbose=False)


if __name__ == "__main__":
    main()
