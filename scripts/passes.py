"""What a model must know of its Trainer's data: for which task, and how many samples a pass has."""

from __future__ import annotations

from typing import Any

from datamodules import VOCDataModule
from shard_tool.errors import OptionError
from shard_tool.storage import Folder, load_manifest


def check_task(trainer: Any, task: str) -> None:
    """Refuse data that are for another task than a model.

    Raises:
        OptionError: They are; says what is meant to be given.
    """
    data = trainer.datamodule
    if not isinstance(data, VOCDataModule):
        return
    folder = Folder(data.roots[0], data.storage_options)
    found = data.task or load_manifest(folder).task
    if found != task:
        hint = f"give --data.task {task} where the shards have what it needs, or another --model"
        raise OptionError(str(folder), f"is for {found}, this model for {task}", hint)


def samples_of_pass(trainer: Any, stage: str) -> int:
    """Samples over all ranks.

    Args:
        trainer: At the end of the pass.
        stage: 'val' (the sanity check's batches where it is one) or 'test'.
    """
    if stage == "test":
        return int(trainer.test_dataloaders.num_samples_of(*trainer.num_test_batches))
    sanity, usual = trainer.num_sanity_val_batches, trainer.num_val_batches
    num_batches = sanity if trainer.sanity_checking else usual
    return int(trainer.val_dataloaders.num_samples_of(*num_batches))
