"""Scores that a LightningModule logs count every sample once."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from datamodules import ShardDataset, ShardLoader, VOCDataModule
from datamodules.evaluation import (
    DetectionEvaluator,
    DetectionScores,
)
from datamodules.presets import detection_eval
from scripts.train import Detector
from shard_tool.errors import EvaluationError
from tests.kit.datasets.detections import near_the_truth
from tests.kit.models.recorder import trainer

if TYPE_CHECKING:
    from datamodules import Batch

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),  # on purpose
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),  # Lightning's own
]

ROOT = Path(__file__).resolve().parents[3]


class Prompted(torch.nn.Module):
    """A detector with given answers, whose loss is the brightness of the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answers: list[dict[str, torch.Tensor]] = []

    def forward(self, images: list[torch.Tensor], targets: Any = None) -> Any:
        if targets is None:
            return self.answers
        brightness = torch.stack([image.mean() for image in images]).mean()
        return {"loss": brightness + 0 * self.weight.sum()}


class Watched(Detector):
    """Logs means over epochs, and keeps each sample's batch size and brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float]] = []  # of each sample: its batch's size, brightness

    def make_network(self, num_classes: int) -> None:
        self.detector = Prompted()

    def log(self, name: str, value: Any, **options: Any) -> None:  # type: ignore[override]
        super().log(name, value, **{**options, "on_step": False, "on_epoch": True})

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.seen += [(len(batch), float(image.mean())) for image in batch.images]
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.detector.answers = near_the_truth(batch)
        super().validation_step(batch, batch_idx)


def fitted(mini_dataset: Path, tmp_path: Path, **options: Any) -> tuple[Watched, Any]:
    model = Watched()
    data = VOCDataModule(str(mini_dataset), batch_size=4, image_size=64)
    lightning = trainer(tmp_path, **{"max_epochs": 1, **options})
    lightning.fit(model, data)
    return model, lightning


def test_logged_scores_are_those_of_every_sample_counted_once(
    mini_dataset: Path, tmp_path: Path
) -> None:
    """Also after a sanity check, which counts some of them before."""
    _, lightning = fitted(mini_dataset, tmp_path, num_sanity_val_steps=2, limit_train_batches=1)
    logged = lightning.callback_metrics
    dataset = ShardDataset(str(mini_dataset), "val", shuffle=False, transform=detection_eval(64))
    expected = DetectionEvaluator(21)
    for batch in ShardLoader(dataset, batch_size=7):
        expected.update(batch.sample_ids, near_the_truth(batch), batch.targets)
    scores = expected.compute(dataset.num_samples)
    assert 0.1 < scores.voc_map < 1
    assert {name: float(value) for name, value in logged.items() if name.startswith("val")} == {
        "val_ap50": float(np.float32(scores.coco_ap50)),
        "val_map": float(np.float32(scores.coco_map)),
        "val_voc_map": float(np.float32(scores.voc_map)),
        "val_voc07_map": float(np.float32(scores.voc07_map)),
    }


def test_a_logged_score_is_not_rounded_by_a_mean_over_samples_or_ranks(
    mini_dataset: Path, tmp_path: Path
) -> None:
    dataset = ShardDataset(str(mini_dataset), "val", shuffle=False)
    weight = np.float32(dataset.num_samples)
    score = next(v for v in np.arange(0.1, 1, 1e-3, np.float32) if v * weight / weight != v)
    scores = DetectionScores(num_samples=1, voc_ap={}, coco_map=float(score), coco_ap50=0.5)
    with patch.object(DetectionEvaluator, "_scores", lambda *_: scores):
        _, lightning = fitted(mini_dataset, tmp_path, limit_train_batches=1)
    assert float(lightning.callback_metrics["val_map"]) == score


def test_a_logged_mean_over_uneven_batches_is_the_mean_over_samples(
    mini_dataset: Path, tmp_path: Path
) -> None:
    model, lightning = fitted(mini_dataset, tmp_path, limit_val_batches=0)
    sizes = {size for size, _ in model.seen}
    assert len(sizes) > 1, "batches are even: the check would be vacuous"
    mean = np.mean([brightness for _, brightness in model.seen])
    assert float(lightning.callback_metrics["train_loss"]) == pytest.approx(mean, rel=1e-6)


def test_a_pass_cut_short_is_scored_and_one_that_lost_a_batch_is_an_error(
    mini_dataset: Path, tmp_path: Path
) -> None:
    _, lightning = fitted(mini_dataset, tmp_path, limit_train_batches=1, limit_val_batches=2)
    assert "val_voc_map" in lightning.callback_metrics

    class Forgetful(Watched):
        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            if batch_idx:
                super().validation_step(batch, batch_idx)

    data = VOCDataModule(str(mini_dataset), batch_size=4, image_size=64)
    with pytest.raises(EvaluationError, match="4 samples were counted, expected 8"):
        trainer(tmp_path, limit_val_batches=2).validate(Forgetful(), data, verbose=False)


@pytest.mark.slow
def test_every_log_passes_the_batch_size() -> None:
    """Without it Lightning takes the channels of a list of pictures for the batch size."""
    calls = 0
    for path in sorted([*(ROOT / "scripts").glob("*.py"), *(ROOT / "datamodules").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "self.log",
                "self.log_dict",
                "pl_module.log",
                "pl_module.log_dict",
            }:
                calls += 1
                names = {keyword.arg for keyword in node.keywords}
                assert "batch_size" in names, f"{path.name}:{node.lineno}"
    assert calls >= 2
