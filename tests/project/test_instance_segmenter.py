"""Mask R-CNN learns the masks of our batches, and crowds are no objects to learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from datamodules import VOCDataModule
from scripts.train import Detector, InstanceSegmenter, without_crowds
from tests.kit.datasets.instances import outlined
from tests.kit.models.recorder import trainer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning and torch, not of ours


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> VOCDataModule:
    folder = tmp_path_factory.mktemp("instances") / "set"
    root = outlined(folder, {"train": [8], "val": [4]}, wh=(160, 120))
    return VOCDataModule(str(root), task="instances", batch_size=4, image_size=120)


@pytest.mark.slow
def test_a_small_mask_r_cnn_learns_a_batch(data: VOCDataModule) -> None:
    """After 25 steps its surest detections have the masks of their objects."""
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    images, targets = batch
    torch.manual_seed(0)
    model = InstanceSegmenter("tiny_maskrcnn", num_classes=data.num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    known = [without_crowds(target) for target in targets]
    totals = []
    for _ in range(25):
        losses = model.detector(images, known)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < totals[0] / 4
    model.eval()
    ious = []
    with torch.no_grad():
        for found, target in zip(model.detector(images), targets, strict=True):
            if len(found["scores"]) and found["scores"][0] > 0.5:
                mask = found["masks"][0, 0] > 0.5
                true = target["masks"].bool()
                ious.append(((true & mask).sum((1, 2)) / (true | mask).sum((1, 2))).max())
    assert len(ious) >= 2
    assert min(ious) > 0.5


def test_crowds_are_left_out_with_all_that_is_theirs() -> None:
    """`orig_size` has two numbers, but not one for each of two objects."""
    target = {
        "boxes": torch.tensor([[0.0, 0, 4, 4], [1, 1, 3, 3]]),
        "labels": torch.tensor([1, 2]),
        "difficult": torch.tensor([False, True]),
        "iscrowd": torch.tensor([1, 0]),
        "masks": torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).byte(),
        "orig_size": torch.tensor([4, 4]),
        "key": "a",
    }
    found = without_crowds(target)
    assert found.keys() == target.keys()
    assert (found["labels"].tolist(), found["orig_size"].tolist()) == ([2], [4, 4])
    assert found["masks"].sum() == 16
    del target["masks"]
    assert "masks" not in without_crowds(target)


@pytest.mark.slow
def test_training_takes_crowds_and_pictures_of_crowds_alone(
    data: VOCDataModule, tmp_path: Path
) -> None:
    batches = list(data.train_dataloader())
    assert any(batch.iscrowd.any() for batch in batches)
    model = InstanceSegmenter("tiny_maskrcnn", input_size=64)
    trainer(tmp_path, max_steps=2, limit_val_batches=1).fit(model, data)
    assert model.detector.transform.min_size == (64,)
    assert model.evaluator.num_classes == 4


@pytest.mark.slow
def test_a_detector_trains_on_the_same_shards(data: VOCDataModule, tmp_path: Path) -> None:
    boxes = VOCDataModule(data.roots[0], batch_size=4, image_size=64)
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(Detector("tiny_ssd"), boxes)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="'ssd300' is not one of maskrcnn, tiny_maskrcnn"):
        InstanceSegmenter("ssd300")
