"""Defines the base class of models that take their classes from the data and are scored exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pytorch_lightning import LightningModule

from datamodules import VOCDataModule
from shard_tool.errors import OptionError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datamodules import Batch


class Scored(LightningModule):
    """A model with an evaluator, which scores each sample of a pass once, at the end of the pass.

    Every rank has the same scores. They are logged with reduction "max", which keeps every digit;
    the mean over ranks would round.

    The classes are those of the data. A model whose `num_classes` is None is made when a Trainer
    starts, from its data module, also where `prepare_data` makes the dataset first. Checkpoints
    hold the number and the names, and refuse data of other classes.
    """

    task: ClassVar[str]
    """Task of the data that it needs."""
    evaluator_type: ClassVar[Callable[..., Any]]
    """One of `datamodules.evaluation`."""
    evaluator: Any = None
    """None until the classes are known."""
    class_names: tuple[str, ...] | None = None
    """Names in the order of labels; None until data or a checkpoint say them."""

    def make_network(self, num_classes: int) -> None:
        """Make all that depends on the number of classes and has weights."""
        raise NotImplementedError

    def named_scores(self, scores: Any) -> dict[str, float]:
        """Scores to log, by name without the stage; the progress bar shows the first."""
        raise NotImplementedError

    def class_scores(self, scores: Any) -> tuple[str, Mapping[int | str, float]]:
        """Name of the score to print for each class, and its values."""
        raise NotImplementedError

    def set_classes(
        self, num_classes: int | None, class_names: tuple[str, ...] | None = None
    ) -> None:
        """Make the network, if there is none, and an evaluator; None: a Trainer will."""
        if num_classes is None:
            return
        if self.evaluator is None:
            self.make_network(num_classes)
        self.class_names = class_names
        self.evaluator = self.evaluator_type(num_classes, class_names=class_names)

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Check that the data are for the task of the model, and take their classes.

        Raises:
            OptionError: They are for another task, or of another number of classes than was given;
                the hint says which options to give.
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
        own, num_classes = self.hparams["num_classes"], data.num_classes
        if own is None:
            self.save_hyperparameters({"num_classes": num_classes})  # to load its checkpoints by
        elif own != num_classes:
            problem = f"{own} given, and {folder} has {num_classes} with the background"
            hint = "leave out --model.num_classes, and take no checkpoint of other classes"
            raise OptionError("num_classes", problem, hint)
        self.set_classes(num_classes, data.class_names)

    def configure_model(self) -> None:
        """Check that the network is there, or make it for a callback that needs it before `setup`.

        Raises:
            OptionError: There is no `VOCDataModule` to take the classes from, and none are given.
        """
        if self.evaluator is not None:
            return
        if self._trainer is None or not isinstance(self._trainer.datamodule, VOCDataModule):
            problem = "is not given, and there is no VOCDataModule to take it from"
            raise OptionError("num_classes", problem, "give it, background included")
        self.setup("fit")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the names of the classes."""
        if self.class_names is not None:
            checkpoint["class_names"] = list(self.class_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the names of the classes with those of the data, if there are data.

        Raises:
            OptionError: They differ.
        """
        saved = checkpoint.get("class_names")
        if saved is None:  # saved without a VOCDataModule, or by an older release
            return
        if self.class_names is not None:
            check_same_classes(saved, self.class_names)
        self.class_names = tuple(saved)

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
        scores = self.evaluator.compute(num_samples)
        named = self.named_scores(scores)
        self.evaluator.reset()
        if self.trainer.state.fn != "fit" and self.trainer.is_global_zero:
            what, values = self.class_scores(scores)
            print("\n".join([f"{what} by class", *(f"  {v:.4f}  {k}" for k, v in values.items())]))
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


def check_same_classes(saved: Sequence[str], found: Sequence[str]) -> None:
    """Refuse a checkpoint for data whose labels mean something else.

    Args:
        saved: The checkpoint's names, in the order of labels.
        found: The data's.

    Raises:
        OptionError: Names the first label that differs.
    """
    if list(saved) == list(found):
        return
    hint = "take data of the same classes in the same order (`shard-tool convert --classes`)"
    if len(saved) != len(found):
        problem = f"was trained on {len(saved)} classes, and the data have {len(found)}"
        raise OptionError("checkpoint", problem, hint)
    pairs = enumerate(zip(saved, found, strict=True), start=1)
    label, (own, other) = next((k, pair) for k, pair in pairs if pair[0] != pair[1])
    problem = f"was trained with label {label} for {own!r}, which is {other!r} in the data"
    raise OptionError("checkpoint", problem, hint)
