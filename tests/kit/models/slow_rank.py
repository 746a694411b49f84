"""A detector whose rank 1 is slower than its rank 0, which then waits for its gradients."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from scripts.train import Detector

if TYPE_CHECKING:
    import torch

    from datamodules import Batch


class SlowRank(Detector):
    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.global_rank == 1:
            time.sleep(1)
        return super().training_step(batch, batch_idx)
