#!/usr/bin/env python
"""Trains and evaluates torchvision's models on VOC shards, from the command line.

    python scripts/train.py fit --data.data_dir DIR --trainer.max_epochs 3
    python scripts/train.py fit --config configs/ssdlite_voc2007.yaml --ckpt_path last.ckpt
    python scripts/train.py validate --config … --ckpt_path …
    python scripts/train.py fit --model Segmenter --model.model lraspp --data.data_dir MASKS
    python scripts/train.py fit --model InstanceSegmenter --data.task instances --data.data_dir DIR

Every argument of the model (`--model.*`; `--model.help Segmenter` lists them), of `VOCDataModule`
(`--data.*`) and of Lightning's Trainer (`--trainer.*`) is an option; `--print_config` prints all.
The number of classes is that of the data; `--model.num_classes` may confirm it.
The model is a `Detector` unless `--model` names another LightningModule: `InstanceSegmenter`,
`Segmenter`, or `package.module.Class` of your own.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LightningCLI, SaveConfigCallback
from torchvision.models import detection

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datamodules import VOCDataModule
from datamodules.evaluation import DetectionEvaluator
from scripts.requeue import Requeue
from scripts.scored import Scored
from scripts.segmenter import Segmenter  # noqa: F401  (the command line finds it by name)
from scripts.tiny_detector import tiny_maskrcnn, tiny_ssd
from shard_tool.storage.location import public_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytorch_lightning.cli import LightningArgumentParser

    from datamodules import Batch
    from datamodules.evaluation import DetectionScores

_UNTRAINED = {"weights": None, "weights_backbone": None}
MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "ssdlite320": partial(detection.ssdlite320_mobilenet_v3_large, **_UNTRAINED),
    "ssd300": partial(detection.ssd300_vgg16, **_UNTRAINED),
    "fasterrcnn": partial(detection.fasterrcnn_resnet50_fpn, **_UNTRAINED),
    "retinanet": partial(detection.retinanet_resnet50_fpn, **_UNTRAINED),
    "tiny_ssd": tiny_ssd,
}
"""Functions that make a model, by name; each is called with num_classes."""
MASK_MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "maskrcnn": partial(detection.maskrcnn_resnet50_fpn, **_UNTRAINED),
    "tiny_maskrcnn": tiny_maskrcnn,
}
"""The same of models that learn masks, too."""


class Detector(Scored):
    """A torchvision detector, trained from scratch.

    Args:
        model: One of ssdlite320, ssd300, fasterrcnn, retinanet, and tiny_ssd (which learns a
            little in a minute on a CPU).
        num_classes: Labels, background included; None: those of the data.
        input_size: Height and width in pixels that ssdlite320, ssd300 or tiny_ssd scale pictures
            to; None: the model's own 320, 300 or 160. Smaller is faster.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises from 0.
    """

    task = "detection"
    evaluator_type = DetectionEvaluator
    models: ClassVar[dict[str, Callable[..., torch.nn.Module]]] = MODELS

    def __init__(
        self,
        model: str = "ssdlite320",
        num_classes: int | None = None,
        input_size: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__()
        if model not in self.models:
            message = f"model {model!r} is not one of {', '.join(self.models)}"
            raise ValueError(message)
        if input_size is not None and self.models is MODELS and "ssd" not in model:
            message = f"input_size is for ssdlite320, ssd300 and tiny_ssd, not for {model!r}"
            raise ValueError(message)
        self.save_hyperparameters()
        self.model, self.input_size = model, input_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_steps = warmup_steps
        self.set_classes(num_classes)

    def make_network(self, num_classes: int) -> None:
        """Make the detector with random weights."""
        self.detector = self.models[self.model](num_classes=num_classes)
        if self.input_size is not None:
            self._scale_to(self.detector.transform, self.input_size)

    def _scale_to(self, transform: Any, size: int) -> None:
        """Let the network's own transform scale pictures to a size."""
        transform.fixed_size = (size, size)

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Boxes, labels and scores of float pictures [3, H, W] in [0, 1]."""
        return self.detector(images)  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:  # noqa: ARG002
        """Sum of the detector's losses; crowds are neither objects nor background to learn."""
        images, targets = batch
        if batch.iscrowd.any():
            targets = [without_crowds(target) for target in targets]
        losses: Mapping[str, torch.Tensor] = self.detector(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        self.log("train_loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Record detections and true objects."""
        images, targets = batch
        self.evaluator.update(batch.sample_ids, self.detector(images), targets)

    def named_scores(self, scores: DetectionScores) -> dict[str, float]:
        """Scores of COCO and of VOC."""
        return {
            "ap50": scores.coco_ap50,
            "map": scores.coco_map,
            "voc_map": scores.voc_map,
            "voc07_map": scores.voc07_map,
        }

    def class_scores(self, scores: DetectionScores) -> tuple[str, Mapping[int | str, float]]:
        """VOC's average precision from 2010 on."""
        return "voc_ap", {name: ap.all_points for name, ap in scores.voc_ap.items()}

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


class InstanceSegmenter(Detector):
    """A torchvision detector that finds masks, too: from scratch, and scored by its boxes.

    Args:
        model: maskrcnn, or tiny_maskrcnn (which learns a little in a minute on a CPU).
        num_classes: Labels, background included; None: those of the data.
        input_size: Pixels that the model scales the shorter side of pictures to, the longer one to
            5/3 of it at most; None: the model's own 800 or 160. Smaller is faster.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises from 0.
    """

    task = "instances"
    models = MASK_MODELS

    def __init__(
        self,
        model: str = "maskrcnn",
        num_classes: int | None = None,
        input_size: int | None = None,
        learning_rate: float = 1e-4,
        weight_decay: float = 1e-4,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__(model, num_classes, input_size, learning_rate, weight_decay, warmup_steps)

    def _scale_to(self, transform: Any, size: int) -> None:
        transform.min_size, transform.max_size = (size,), size * 5 // 3


def without_crowds(target: dict[str, Any]) -> dict[str, Any]:
    """The target without its crowds."""
    is_single = target["iscrowd"] == 0
    names = {"boxes", "labels", "difficult", "iscrowd", "area", "masks"} & target.keys()
    return {**target, **{name: target[name][is_single] for name in names}}


def without_secrets(config: Any) -> Any:
    """Copy a run's configuration without passwords, signatures and storage options."""
    found = config.clone()
    data = found.data
    data.storage_options = None
    roots = data.data_dir
    several = isinstance(roots, list | tuple)
    data.data_dir = [public_url(str(r)) for r in roots] if several else public_url(str(roots))
    if data.source is not None:
        data.source = public_url(str(data.source))
    if found.get("ckpt_path"):
        found.ckpt_path = public_url(str(found.ckpt_path))
    return found


class SaveConfig(SaveConfigCallback):
    """Saves the configuration of a run without its secrets."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write the configuration."""
        self.config = without_secrets(self.config)
        super().setup(trainer, pl_module, stage)


class TrainCLI(LightningCLI):
    """LightningCLI with the `Requeue` callback, which SLURM jobs need."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--requeue.*``."""
        parser.add_lightning_class_args(Requeue, "requeue")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Arguments after the script's name; None: those of the process.
    """
    if arguments is None:  # LightningCLI warns if args repeat sys.argv
        sys.argv[1:] = _with_default_model(sys.argv[1:])
    TrainCLI(
        LightningModule,
        VOCDataModule,
        args=None if arguments is None else _with_default_model(list(arguments)),
        subclass_mode_model=True,
        save_config_callback=SaveConfig,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
    )


def _with_default_model(arguments: list[str]) -> list[str]:
    """Put ``--model Detector`` first; another ``--model`` comes later and wins.

    A default of the parser does not do: jsonargparse then passes values of the Detector, such as
    its learning rate, to another class that has an argument of the same name.
    """
    if not arguments or arguments[0].startswith("-"):
        return arguments
    return [arguments[0], "--model", f"{Detector.__module__}.Detector", *arguments[1:]]


if __name__ == "__main__":
    # Saved configurations and checkpoints name classes by their module; nobody can import
    # __main__.
    from scripts import train

    train.main()
