#!/usr/bin/env python
"""Train and evaluate torchvision's detectors on VOC shards, from the command line.

    python scripts/train.py fit --data.data_dir DIR --trainer.max_epochs 3
    python scripts/train.py fit --config configs/ssdlite_voc2007.yaml --ckpt_path last.ckpt
    python scripts/train.py validate --config … --ckpt_path …

Every argument of the model (`--model.*`), of `VOCDataModule` (`--data.*`) and of Lightning's
Trainer (`--trainer.*`) is there; `--print_config` writes them down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LightningCLI, SaveConfigCallback
from torchvision.models import detection

from datamodules import VOCDataModule
from datamodules.evaluation import DetectionEvaluator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datamodules import Batch

MODELS = {
    "ssdlite320": detection.ssdlite320_mobilenet_v3_large,
    "ssd300": detection.ssd300_vgg16,
    "fasterrcnn": detection.fasterrcnn_resnet50_fpn,
    "retinanet": detection.retinanet_resnet50_fpn,
}


class Detector(LightningModule):
    """A torchvision detector, trained from scratch.

    Args:
        model: One of ssdlite320, ssd300, fasterrcnn, retinanet.
        num_classes: Labels, background included.
        input_size: Height and width in pixels that ssdlite320 or ssd300 scale pictures to; None:
            the model's own 320 or 300. Smaller is faster.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises from 0.
    """

    def __init__(
        self,
        model: str = "ssdlite320",
        num_classes: int = 21,
        input_size: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__()
        if model not in MODELS:
            message = f"model {model!r} is not one of {', '.join(MODELS)}"
            raise ValueError(message)
        self.save_hyperparameters()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_steps = warmup_steps
        build = MODELS[model]
        self.detector = build(weights=None, weights_backbone=None, num_classes=num_classes)
        if input_size is not None:
            if not model.startswith("ssd"):
                message = f"input_size is for ssdlite320 and ssd300, not for {model!r}"
                raise ValueError(message)
            self.detector.transform.fixed_size = (input_size, input_size)
        self.evaluator = DetectionEvaluator(num_classes)

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Boxes, labels and scores of float pictures [3, H, W] in [0, 1]."""
        return self.detector(images)  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:  # noqa: ARG002
        """The sum of the detector's losses."""
        images, targets = batch
        losses: Mapping[str, torch.Tensor] = self.detector(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        self.log("train_loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget what a pass that was broken off has left."""
        self.evaluator.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Take down detections and truths."""
        images, targets = batch
        self.evaluator.update(batch.sample_ids, self.detector(images), targets)

    def on_validation_epoch_end(self) -> None:
        """Log VOC's and COCO's scores over all ranks."""
        trainer: Any = self.trainer
        sanity, usual = trainer.num_sanity_val_batches, trainer.num_val_batches
        num_batches = sanity if trainer.sanity_checking else usual
        self._log_scores("val", trainer.val_dataloaders.num_samples_of(*num_batches))

    def on_test_epoch_start(self) -> None:
        """As validation."""
        self.evaluator.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As validation, under another name."""
        trainer: Any = self.trainer
        num_batches = trainer.num_test_batches
        self._log_scores("test", trainer.test_dataloaders.num_samples_of(*num_batches))

    def _log_scores(self, stage: str, num_samples: int) -> None:
        """Log the scores of a pass, which must have taken in that many samples.

        Every rank has the same scores. "max" keeps them to the last digit, where the mean over
        ranks would round.
        """
        scores = self.evaluator.compute(num_samples)
        self.evaluator.reset()
        values = {
            f"{stage}_ap50": scores.coco_ap50,
            f"{stage}_map": scores.coco_map,
            f"{stage}_voc_map": scores.voc_map,
            f"{stage}_voc07_map": scores.voc07_map,
        }
        for name, value in values.items():
            self.log(
                name,
                value,
                prog_bar=name == "val_ap50",
                batch_size=num_samples,
                sync_dist=True,
                reduce_fx="max",
            )

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:  # noqa: ARG002
        """Sample ids and detections."""
        images, _ = batch
        return batch.sample_ids.tolist(), self.detector(images)

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up, stepped every batch."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        warmup = max(1, self.warmup_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / warmup)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class SaveConfig(SaveConfigCallback):
    """Saves the configuration of a run, without what opens the storage."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write it."""
        self.config = self.config.clone()
        self.config.data.storage_options = None
        super().setup(trainer, pl_module, stage)


def main() -> None:
    """Run the command line."""
    LightningCLI(
        Detector,
        VOCDataModule,
        save_config_callback=SaveConfig,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
    )


if __name__ == "__main__":
    main()
