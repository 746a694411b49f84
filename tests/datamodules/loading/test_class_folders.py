"""Folders of classes train a classifier: their names are its classes, their pictures its labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch.nn.functional import binary_cross_entropy_with_logits

from datamodules import VOCDataModule
from tests.kit.datasets.class_folders import class_folders
from tests.kit.datasets.converted import converted
from tests.kit.models.recorder import trainer

if TYPE_CHECKING:
    from pathlib import Path


class Classifier(LightningModule):
    """One linear layer over the mean colour of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        pictures, labels = batch
        self.seen.append(labels.clone())
        return binary_cross_entropy_with_logits(self.layer(pictures.mean((2, 3))), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        _, labels = batch
        self.seen.append(labels.clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_folders_of_classes_train_a_classifier(tmp_path: Path) -> None:
    converted(class_folders(tmp_path / "in"), tmp_path / "out", task="classification")
    data = VOCDataModule(str(tmp_path / "out"), batch_size=4, image_size=32, num_workers=0)
    model = Classifier()
    trainer(tmp_path, max_epochs=1).fit(model, data)
    assert data.class_names == ("cat", "dog")
    labels = torch.cat(model.seen)
    assert sorted(labels.tolist()) == [[0, 1]] * 10 + [[1, 0]] * 10
