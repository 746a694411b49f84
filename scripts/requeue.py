"""Saves a SLURM job and puts it back into the queue before its time ends; no step is lost.

Lightning itself saves inside the signal handler. A rank that is interrupted in its forward pass
then waits for the others to save, while they wait in their backward pass for its gradients: if one
rank is slower than another, the job hangs until SLURM kills it, and nothing is saved. Here the
handler only sets a flag, and ranks compare their flags between two steps.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback
from pytorch_lightning.plugins.environments import SLURMEnvironment

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

log = logging.getLogger(__name__)


class Requeue(Callback):
    """Saves and requeues when SLURM sends SIGUSR1; does nothing outside a SLURM job.

    The checkpoint is ``hpc_ckpt_STEP.ckpt`` in the Trainer's default_root_dir, where Lightning
    looks for it when the job starts again. SLURM ends the job, as it does with Lightning's own.

    Args:
        every_n_steps: Optimizer steps between two comparisons of flags, each a reduction of one
            number. SLURM must send its signal early enough before the end for that many steps and
            a validation.
    """

    def __init__(self, every_n_steps: int = 20) -> None:
        if every_n_steps < 1:
            message = f"every_n_steps {every_n_steps} is below 1"
            raise ValueError(message)
        self.every_n_steps = every_n_steps
        self._is_wanted = False
        self._is_slurm = False
        self._compared_at = 0
        self._handler: Any = signal.SIG_DFL

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Set a handler for SIGUSR1; Lightning does not replace one that is set."""
        self._is_slurm = stage == "fit" and SLURMEnvironment.detect()
        if self._is_slurm:
            self._handler = signal.signal(signal.SIGUSR1, self._set_flag)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Restore the handler."""
        if self._is_slurm:
            signal.signal(signal.SIGUSR1, self._handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start to count steps."""
        self._compared_at = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Save if any rank got the signal; checked every n steps, on all ranks at the same step."""
        if not self._is_slurm or trainer.global_step < self._compared_at + self.every_n_steps:
            return
        self._compared_at = trainer.global_step
        if trainer.strategy.reduce_boolean_decision(self._is_wanted, all=False):
            self._is_wanted = False
            path = Path(str(trainer.default_root_dir), f"hpc_ckpt_{trainer.global_step}.ckpt")
            trainer.save_checkpoint(path)  # returns on all ranks once it is written
            if trainer.is_global_zero:
                _requeue()

    def _set_flag(self, *_: object) -> None:
        self._is_wanted = True


def _requeue() -> None:
    job_id = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job_id = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    done = subprocess.run(["scontrol", "requeue", job_id], check=False)
    if done.returncode:
        log.error("SLURM job %s: scontrol requeue failed (%d)", job_id, done.returncode)
