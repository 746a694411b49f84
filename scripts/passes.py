"""How many samples an evaluation pass of a Trainer goes over: its scores must count as many."""

from __future__ import annotations

from typing import Any


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
