"""A model that learns nothing and records every batch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule, Trainer

if TYPE_CHECKING:
    from datamodules import Batch


def sample_digests(batch: Batch) -> list[str]:
    """A hash of each sample's pixels and boxes; it does not depend on batch or rank."""
    images, targets = batch
    digests = []
    for image, target in zip(images, targets, strict=True):
        sha = hashlib.sha256(image.contiguous().numpy().tobytes())
        for name in ("boxes", "labels", "difficult"):
            sha.update(target[name].contiguous().numpy().tobytes())
        digests.append(sha.hexdigest()[:16])
    return digests


def digest(batch: Batch) -> str:
    """A hash of all tensors of a batch."""
    sha = hashlib.sha256()
    for tensor in (
        batch.pixels,
        batch.sizes,
        batch.boxes,
        batch.labels,
        batch.difficult,
        batch.masks,
    ):
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


class Recorder(LightningModule):
    """One weight; appends a line for each step to a file of its rank.

    Lines are flushed at once, so that a killed process leaves those of the steps it finished.
    """

    def __init__(self, log: str | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.log_file = log
        self.lines: list[dict[str, Any]] = []
        self.val_epochs: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self._write("train", batch)
        images, _ = batch
        loss: torch.Tensor = self.weight * images[0].float().mean()
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._write("val", batch)
        self.log("val_size", float(len(batch)), batch_size=len(batch), sync_dist=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._write("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[int]:
        return [int(i) for i in batch.sample_ids]

    def on_validation_epoch_start(self) -> None:
        if not self.trainer.sanity_checking:
            self.val_epochs.append(self.current_epoch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def of(self, stage: str, epoch: int | None = None) -> list[dict[str, Any]]:
        """The lines of one stage, and of one epoch of it."""
        return [
            line for line in self.lines if line["stage"] == stage and epoch in (None, line["epoch"])
        ]

    def ids(self, stage: str = "train", epoch: int | None = None) -> list[int]:
        """Sample ids in the order they were seen."""
        return [i for line in self.of(stage, epoch) for i in line["ids"]]

    def line_of(self, stage: str, batch: Batch) -> dict[str, Any]:
        """What is written down of a batch."""
        return {
            "stage": stage,
            "epoch": batch.epoch,
            "start": batch.start,
            "stop": batch.stop,
            "ids": batch.sample_ids.tolist(),
            "digest": digest(batch),
            "digests": sample_digests(batch),
        }

    def _write(self, stage: str, batch: Batch) -> None:
        if self.trainer.sanity_checking:
            return
        self.write_line(self.line_of(stage, batch))

    def write_line(self, line: dict[str, Any]) -> None:
        """Append a line, here and to the rank's file."""
        self.lines.append(line)
        if self.log_file is not None:
            with Path(f"{self.log_file}.{self.global_rank}").open("a") as file:
                file.write(json.dumps(line) + "\n")


def trainer(root: Path, **options: Any) -> Trainer:
    """A quiet Trainer on one CPU process."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": root,
    }
    return Trainer(**{**defaults, **options})


def read_log(log: str, rank: int) -> list[dict[str, Any]]:
    """The lines a rank's recorder wrote; a line cut by a kill is left out."""
    path = Path(f"{log}.{rank}")
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]
