"""What models have in common whose validation and test passes are scored over all ranks."""

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
    """A model whose evaluator takes down a pass and scores it at its end, each sample counted once.

    Every rank has the same scores. They are logged by "max", which keeps them to the last digit,
    where the mean over ranks would round.
    """

    task: ClassVar[str]
    """What its data must be for."""
    evaluator: Any
    """One of `datamodules.evaluation`."""

    def named_scores(self, scores: Any) -> dict[str, float]:
        """What is logged of the evaluator's scores: name after the stage's, the first is shown."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Refuse data for another task, which would end somewhere inside the model.

        Raises:
            OptionError: They are; says what is meant to be given.
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
        """Forget what a pass that was broken off has left."""
        self.evaluator.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """As validation."""
        self.evaluator.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As validation, under other names."""
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
    """Samples that an evaluation pass goes over on all ranks: its scores must count as many.

    Args:
        trainer: At the end of the pass.
        stage: 'val' (the sanity check's batches where it is one) or 'test'.
    """
    if stage == "test":
        return int(trainer.test_dataloaders.num_samples_of(*trainer.num_test_batches))
    sanity, usual = trainer.num_sanity_val_batches, trainer.num_val_batches
    num_batches = sanity if trainer.sanity_checking else usual
    return int(trainer.val_dataloaders.num_samples_of(*num_batches))
