"""A SLURM job that is put back into the queue before its time is over, and loses no step.

Lightning itself saves inside the handler of the signal. A rank that is interrupted in its forward
pass then waits for the others to save, while they wait in their backward pass for its gradients:
where one rank is slower than another, the job stands still until SLURM kills it, and nothing is
saved. So here the handler only takes a note, and ranks ask each other between two steps.
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
    looks for it when the job starts again. As Lightning does, it leaves ending the job to SLURM.

    Args:
        every_n_steps: Optimizer steps between two times that ranks ask each other, which takes a
            reduction of one number. SLURM must send its signal earlier before the end than so many
            steps and a validation take.
    """

    def __init__(self, every_n_steps: int = 20) -> None:
        if every_n_steps < 1:
            message = f"every_n_steps {every_n_steps} is below 1"
            raise ValueError(message)
        self.every_n_steps = every_n_steps
        self._is_wanted = False
        self._is_slurm = False
        self._asked_at = 0
        self._handler: Any = signal.SIG_DFL

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Listen to SIGUSR1; Lightning leaves alone what has a handler already."""
        self._is_slurm = stage == "fit" and SLURMEnvironment.detect()
        if self._is_slurm:
            self._handler = signal.signal(signal.SIGUSR1, self._take_note)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Listen no more."""
        if self._is_slurm:
            signal.signal(signal.SIGUSR1, self._handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Count from here."""
        self._asked_at = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Every n optimizer steps, on all ranks at the same one: save where any was signalled."""
        if not self._is_slurm or trainer.global_step < self._asked_at + self.every_n_steps:
            return
        self._asked_at = trainer.global_step
        if trainer.strategy.reduce_boolean_decision(self._is_wanted, all=False):
            self._is_wanted = False
            path = Path(str(trainer.default_root_dir), f"hpc_ckpt_{trainer.global_step}.ckpt")
            trainer.save_checkpoint(path)  # returns on all ranks when it is there
            if trainer.is_global_zero:
                _requeue()

    def _take_note(self, *_: object) -> None:
        self._is_wanted = True


def _requeue() -> None:
    job_id = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job_id = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    done = subprocess.run(["scontrol", "requeue", job_id], check=False)
    if done.returncode:
        log.error("SLURM job %s: scontrol requeue failed (%d)", job_id, done.returncode)
