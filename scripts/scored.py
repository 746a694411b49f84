"""Defines the base class of models whose validation and test are scored over all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pytorch_lightning import LightningModule

from datamodules import VOCDataModule
from shard_tool.errors import OptionError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest

if TYPE_CHECKING:
    from datamodules import Batch


class Scored(LightningModule):
    """A model with an evaluator, which scores each sample of a pass once, at the end of the pass.

    Every rank has the same scores. They are logged with reduction "max", which keeps every digit;
    the mean over ranks would round.
    """

    task: ClassVar[str]
    """Task of the data that it needs."""
    evaluator: Any
    """One of `datamodules.evaluation`."""

    def named_scores(self, scores: Any) -> dict[str, float]:
        """Scores to log, by name without the stage; the progress bar shows the first."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Check that the data are for the task of the model.

        Raises:
            OptionError: They are for another task; the hint says which options to give.
        """
        trainer: Any = self.trainer
        data = trainer.datamodule
        if not isinstance(data, VOCDataModule):
            return
        folder = Folder(data.roots[0], data.storage_options)
        found = data.task or load_manifest(folder).task
        if found != self.task:
            hint = f"give --data.task {self.task} where the shards have that, or another --model"
            raise OptionError(str(folder), f"is for {found}, this model for {self.task}", hint)

    def on_validation_epoch_start(self) -> None:
        """Clear what an interrupted pass has left."""
        self.evaluator.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Do as in validation."""
        self.evaluator.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Do as in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the scores under names of test."""
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        num_samples = samples_of_pass(self.trainer, stage)
        named = self.named_scores(self.evaluator.compute(num_samples))
        self.evaluator.reset()
        for number, (name, value) in enumerate(named.items()):
            self.log(
                f"{stage}_{name}",
                value,
                prog_bar=number == 0,
                batch_size=num_samples,
                sync_dist=True,
                reduce_fx="max",
            )


def samples_of_pass(trainer: Any, stage: str) -> int:
    """Number of samples of an evaluation pass on all ranks, which its scores must count.

    Args:
        trainer: At the end of the pass.
        stage: 'val' (also the sanity check, with its own number of batches) or 'test'.
    """
    if stage == "test":
        return int(trainer.test_dataloaders.num_samples_of(*trainer.num_test_batches))
    sanity, usual = trainer.num_sanity_val_batches, trainer.num_val_batches
    num_batches = sanity if trainer.sanity_checking else usual
    return int(trainer.val_dataloaders.num_samples_of(*num_batches))
