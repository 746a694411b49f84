"""A detector learns: it overfits 32 pictures, from an archive to drawn detections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from pytorch_lightning import seed_everything
from torchvision.ops import box_iou

from datamodules import ShardDataset, VOCDataModule, presets
from scripts import draw_predictions
from scripts.mini_voc import draw_archive
from scripts.train import Detector
from tests.kit.datasets.converted import converted
from tests.kit.models.recorder import trainer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # half a minute of one core, which tests share
    pytest.mark.filterwarnings("ignore"),  # of Lightning and torch, not of ours
]

NUM_PICTURES = 32
SIZE = 160
EPOCHS = 28


@dataclass(frozen=True)
class Trained:
    dataset: Path
    checkpoint: Path
    metrics: dict[str, Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train a detector on 32 pictures of the mini-VOC, without augmentation."""
    folder = tmp_path_factory.mktemp("learning")
    draw_archive(folder / "mini.tar", num_pictures=66)  # every other one is train
    converted(folder / "mini.tar", folder / "voc", splits=("train",))
    assert ShardDataset(str(folder / "voc")).num_samples == NUM_PICTURES
    seed_everything(0)
    data = VOCDataModule(
        str(folder / "voc"),
        batch_size=8,
        train_transforms=presets.resize(SIZE),
        image_size=SIZE,
        val_split="train",
        num_workers=0,
    )
    model = Detector("tiny_ssd", learning_rate=2e-3, warmup_steps=20)
    options = {"gradient_clip_val": 5.0, "max_epochs": EPOCHS, "check_val_every_n_epoch": EPOCHS}
    fit = trainer(folder, **options)
    fit.fit(model, data)
    fit.save_checkpoint(folder / "trained.ckpt")
    return Trained(folder / "voc", folder / "trained.ckpt", dict(fit.callback_metrics))


def test_a_detector_from_scratch_overfits_32_pictures(trained: Trained) -> None:
    """It could not with wrong boxes, labels, scales or channels anywhere on the way."""
    assert trained.metrics["val_ap50"] >= 0.8


def test_draw_predictions_draws_detections_beside_true_objects(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script reads the checkpoint."""
    out = tmp_path / "sheets/predictions.png"
    arguments = [str(trained.checkpoint), str(trained.dataset), str(out)]
    draw_predictions.main([*arguments, "--split", "train", "--samples", "6"])
    assert capsys.readouterr().out == f"{out}: 6 pictures\n"
    side, padding = draw_predictions.SIDE, draw_predictions.PADDING
    with Image.open(out) as sheet:
        assert sheet.size == (4 * (side + padding) + padding, 3 * (side + padding) + padding)
        colors = {color for _, color in sheet.getcolors(1 << 24)}
    assert {(255, 255, 0), (0, 255, 0)} <= colors  # boxes of both kinds


def test_detections_match_the_objects_of_stored_pictures(trained: Trained) -> None:
    """Boxes are in pixels of the stored picture, whatever size the model saw."""
    model = Detector.load_from_checkpoint(trained.checkpoint).eval()
    dataset = ShardDataset(str(trained.dataset), shuffle=False)
    found, total = 0, 0
    for sample_id in range(NUM_PICTURES):
        image, target = dataset.read(sample_id)
        with torch.no_grad():
            (detected,) = model([torch.as_tensor(image).float() / 255])
        sure = detected["scores"] >= 0.5
        overlaps = box_iou(target["boxes"].as_subclass(torch.Tensor), detected["boxes"][sure])
        is_same = target["labels"][:, None] == detected["labels"][sure]
        found += int(((overlaps >= 0.5) & is_same).any(1).sum())
        total += len(target["boxes"])
    assert found >= 0.7 * total
