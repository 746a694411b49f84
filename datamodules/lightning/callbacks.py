"""Callbacks that `VOCDataModule` adds to a Trainer: to resume, and to explain batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pytorch_lightning import Callback

from datamodules.lightning import loop_counters
from datamodules.loading.loader import ShardLoader
from shard_tool.errors import ShardToolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytorch_lightning import LightningModule, Trainer


class Resumable(Protocol):
    """What `ResumeCallback` needs of the data module."""

    @property
    def restored(self) -> Mapping[str, Any]:
        """The state of the training loader that the checkpoint holds; empty without one."""

    def follow(self, loader: ShardLoader) -> None:
        """Make the loader count only the batches that Lightning has trained."""


class ResumeCallback(Callback):
    """Corrects Lightning's counts of epochs and batches by the cursor that was restored."""

    def __init__(self, datamodule: Resumable) -> None:
        self._datamodule = datamodule

    def on_load_checkpoint(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Correct the counts that Lightning is about to read from the checkpoint."""
        if state := self._datamodule.restored:
            loop_counters.correct_saved(checkpoint, epoch=state["epoch"], samples=state["samples"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Correct Lightning's count of the batches of this epoch."""
        loader = trainer.train_dataloader
        if isinstance(loader, ShardLoader):
            self._datamodule.follow(loader)
            loop_counters.correct(trainer.fit_loop, loader)


_NOTES = {
    ("got (list", "not list", "'list' object", "expects each tensor to be equal size"): (
        "VOCDataModule: a detection batch unpacks into lists, of images [3, H, W] and of targets, "
        "as torchvision's detectors take them; a model that wants one tensor gets it by "
        "`torch.stack(images)`, where transforms give all pictures one size, as the recipes 'ssd' "
        "and 'ssdlite' do; a classifier, with its labels, by task='classification'"
    ),
    ("too many indices for tensor", "only integers, slices"): (
        "VOCDataModule: a batch for segmentation or classification unpacks into one tensor of "
        "images [B, 3, H, W] and one of masks or labels; a detector gets its lists of images and "
        "of targets by task='detection'"
    ),
}
"""Words of the errors of models that expect another kind of batch, and what helps."""


class BatchNotesCallback(Callback):
    """Adds what a batch holds to the error of a model that expects another kind of batch."""

    def on_exception(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        exception: BaseException,
    ) -> None:
        """Add a note where a model seems to have taken a list for a tensor, or the reverse."""
        text = str(exception)
        for words, note in _NOTES.items():
            if any(word in text for word in words) and not isinstance(exception, ShardToolError):
                exception.add_note(note)
