"""Trains on several nodes and records it: run by torchrun, with one agent a node.

Usage: node_recorder.py JSON, with data (of VOCDataModule), trainer (of Trainer), log, checkpoints
(a folder: training goes on from the newest in it), every (steps between two checkpoints) and, where
asked for, files (the first step waits until the node's cache holds as many) and kill ([rank, step]:
this rank kills itself when so many steps are done, unless torchrun has restarted it).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import Batch, VOCDataModule
from tests.kit.models.recorder import Recorder, trainer

DEADLINE_S = 60.0


class NodeRecorder(Recorder):
    """Also records the cost of each batch and the files in the node's cache after each epoch."""

    def __init__(self, options: dict[str, Any], attempt: int) -> None:
        super().__init__(f"{options['log']}-{attempt}")
        self.cache = Path(options["data"]["cache_dir"])
        self.files = options.get("files", 0)
        self.kill = options.get("kill") if not attempt else None

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.kill == [self.global_rank, self.global_step]:
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.lines:
            self.wait_for_files()
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        epoch = self.current_epoch
        self.write_line({"stage": "epoch end", "epoch": epoch, "cached": self.cached()})

    def line_of(self, stage: str, batch: Batch) -> dict[str, Any]:
        return {**super().line_of(stage, batch), "cost": asdict(batch.cost)}

    def cached(self) -> list[str]:
        """Names of the files in the node's cache."""
        return sorted(path.name for path in self.cache.rglob("*.tar"))

    def wait_for_files(self) -> None:
        """Wait for the prefetchers, as a slow step would."""
        deadline = time.monotonic() + DEADLINE_S
        while len(self.cached()) < self.files:
            assert time.monotonic() < deadline, f"only {self.cached()} were fetched"
            time.sleep(0.02)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options = json.loads(sys.argv[1])
    folder = Path(options["checkpoints"])
    saved = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    saving = ModelCheckpoint(
        dirpath=folder,
        filename="{step}",
        every_n_train_steps=options["every"],
        save_top_k=-1,
        save_on_train_epoch_end=False,
    )
    fit = trainer(folder, callbacks=[saving], enable_checkpointing=True, **options["trainer"])
    model = NodeRecorder(options, attempt=int(os.environ["TORCHELASTIC_RESTART_COUNT"]))
    fit.fit(model, VOCDataModule(**options["data"]), ckpt_path=saved[-1] if saved else None)


if __name__ == "__main__":
    main()
