"""Trains torchvision's segmentation models with cross entropy, and scores them by mIoU."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy
from torchvision.models import segmentation

from datamodules.evaluation import SegmentationEvaluator
from scripts.scored import Scored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datamodules import Batch
    from datamodules.evaluation import SegmentationScores

VOID = 255
"""Label of pixels that are never counted: the borders of VOC's objects."""
MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "lraspp": segmentation.lraspp_mobilenet_v3_large,
    "deeplabv3_mobilenet": segmentation.deeplabv3_mobilenet_v3_large,
    "deeplabv3_resnet50": segmentation.deeplabv3_resnet50,
}


class Segmenter(Scored):
    """A torchvision segmentation model, trained from scratch.

    Pictures of a training batch have one size; evaluation takes each picture in its own size.

    Args:
        model: One of lraspp, deeplabv3_mobilenet, deeplabv3_resnet50.
        num_classes: Labels, background included; None: those of the data.
        learning_rate: Of SGD with momentum 0.9 at the first step; falls to 0 over the run as a
            polynomial of power 0.9 (Chen et al., "Rethinking atrous convolution for semantic image
            segmentation", 2017, section 4.1).
        weight_decay: Of SGD.
    """

    task = "segmentation"
    evaluator_type = SegmentationEvaluator

    def __init__(
        self,
        model: str = "lraspp",
        num_classes: int | None = None,
        learning_rate: float = 0.01,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        if model not in MODELS:
            message = f"model {model!r} is not one of {', '.join(MODELS)}"
            raise ValueError(message)
        self.save_hyperparameters()
        self.model = model
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.set_classes(num_classes)

    def make_network(self, num_classes: int) -> None:
        """Make the network with random weights."""
        make = MODELS[self.model]
        self.network = make(weights=None, weights_backbone=None, num_classes=num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores [B, C, H, W] of float pictures [B, 3, H, W] in [0, 1]."""
        return self.network(images)["out"]  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:  # noqa: ARG002
        """Mean cross entropy over pixels that are not void."""
        images, masks = batch
        loss = _loss(self(images), masks)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Count the pixels of each pair of true and predicted label."""
        pairs = stacks(batch)
        predicted = [mask for images, _ in pairs for mask in self(images).argmax(1)]
        truths = [mask for _, masks in pairs for mask in masks]
        self.evaluator.update(batch.sample_ids, predicted, truths)

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:  # noqa: ARG002
        """Sample ids and a mask uint8 [H, W] for each."""
        masks = [mask for images, _ in stacks(batch) for mask in self(images).argmax(1)]
        return batch.sample_ids.tolist(), [mask.to(torch.uint8) for mask in masks]

    def configure_optimizers(self) -> Any:
        """SGD with a learning rate that falls at every step."""
        optimizer = torch.optim.SGD(
            self.parameters(), self.learning_rate, momentum=0.9, weight_decay=self.weight_decay
        )
        total = max(1.0, self.trainer.estimated_stepping_batches)  # may be infinite
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_polynomial, total))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def named_scores(self, scores: SegmentationScores) -> dict[str, float]:
        """The mIoU; exact over all ranks, for counts of pixels are integers."""
        return {"miou": scores.miou}

    def class_scores(self, scores: SegmentationScores) -> tuple[str, Mapping[int | str, float]]:
        """Intersection over union."""
        return "iou", scores.iou


def stacks(batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Split a batch into stacks: images [B, 3, H, W] with masks int64 [B, H, W].

    Pictures of one size make one stack. Pictures of several sizes, which `Batch.images` refuses,
    make a stack each.
    """
    sizes = batch.sizes.tolist()
    if all(size == sizes[0] for size in sizes):
        return [(batch.images, batch.targets)]
    areas = [height * width for height, width in sizes]
    pixels = torch.split(batch.pixels, [3 * area for area in areas])
    masks = torch.split(batch.masks, areas)
    return [
        (
            rgb.view(1, height, width, 3).permute(0, 3, 1, 2),
            mask.view(1, height, width).to(torch.int64),
        )
        for rgb, mask, (height, width) in zip(pixels, masks, sizes, strict=True)
    ]


def _loss(scores: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy; 0, not NaN, if every pixel is void."""
    total = cross_entropy(scores, masks, ignore_index=VOID, reduction="sum")
    return total / (masks != VOID).sum().clamp(min=1)


def _polynomial(total_steps: float, step: int) -> float:
    return max(0.0, 1 - step / total_steps) ** 0.9
