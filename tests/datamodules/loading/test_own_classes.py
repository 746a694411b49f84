"""Datasets of 3, 25 and 300 classes of one's own, through dataset, loader, recipes and module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from datamodules import ShardDataset, ShardLoader, VOCDataModule, finish, presets
from shard_tool.errors import ObjectMissing, OptionError
from tests.kit.datasets.own_classes import BOXES, THREE, WH, labels_of, many, own_classes

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = (3, 25, 300)


def names_of(count: int) -> tuple[str, ...]:
    return THREE if count == 3 else many(count)


@pytest.mark.parametrize("count", COUNTS)
def test_the_dataset_says_its_classes_in_the_order_of_labels(count: int, tmp_path: Path) -> None:
    names = names_of(count)
    root = own_classes(tmp_path / "own", names)
    for task, background in (("detection", 1), ("classification", 0)):
        dataset = ShardDataset(str(root), task=task)
        assert dataset.class_names == names
        assert [dataset.classes[name] for name in names] == list(range(1, count + 1))
        assert dataset.num_classes == count + background


def test_the_module_says_them_as_soon_as_there_is_a_dataset(tmp_path: Path) -> None:
    data = VOCDataModule(str(tmp_path / "own"))
    for said in ("classes", "class_names", "num_classes"):
        with pytest.raises(ObjectMissing, match="own: no dataset here"):
            getattr(data, said)
    own_classes(tmp_path / "own")
    assert (data.class_names, data.num_classes) == (THREE, 4)
    assert data.classes == {name: label for label, name in enumerate(THREE, start=1)}
    data.prepare_data()
    data.setup("fit")
    assert (data.class_names, data.num_classes) == (THREE, 4)
    assert VOCDataModule(str(tmp_path / "own"), task="classification").num_classes == 3


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["ssd", "ssdlite", "retinanet", "letterbox"])
def test_labels_pass_through_every_recipe_for_detection(
    count: int, name: str, tmp_path: Path
) -> None:
    root = own_classes(tmp_path / "own", names_of(count))
    recipe = presets.recipe_by_name(name, "detection", size=64, train=False)
    dataset = ShardDataset(str(root), shuffle=False, transform=recipe)
    (batch,) = ShardLoader(dataset, batch_size=8)
    _, targets = batch
    found = [tuple(target["labels"].tolist()) for target in targets]
    assert found == [labels_of(row, count) for row in range(8)]


@pytest.mark.parametrize("count", [3, 25, 254])
def test_masks_hold_up_to_254_classes(count: int, tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own", names_of(count), task="segmentation")
    data = VOCDataModule(str(root), batch_size=8, image_size=64, shuffle=False)
    assert data.num_classes == count + 1
    stored = ShardDataset(str(root), shuffle=False)
    for row, (_, mask) in enumerate(stored):
        assert mask.shape == (WH[1], WH[0])
        values = [int(mask[int(y0 + 1), int(x0 + 1)]) for x0, y0, _, _ in BOXES]
        assert tuple(values) == labels_of(row, count)
    masks = finish(next(iter(data.train_dataloader()))).targets
    assert set(masks.unique().tolist()) <= {*range(count + 1), 255}


@pytest.mark.parametrize("count", [255, 300])
def test_masks_of_more_classes_are_refused(count: int, tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own", many(count), task="segmentation")
    with pytest.raises(OptionError) as caught:
        ShardDataset(str(root))
    assert str(caught.value) == (
        f"{root}: has labels up to {count}, and a mask holds 254 at most (255: void); "
        "give task='detection' if its samples have boxes, or convert with fewer --classes"
    )
    assert ShardDataset(str(root), task="detection").num_classes == count + 1


@pytest.mark.parametrize("count", COUNTS)
def test_classification_has_a_column_for_each_class(count: int, tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own", names_of(count))
    data = VOCDataModule(
        str(root), task="classification", batch_size=8, image_size=32, shuffle=False
    )
    images, labels = finish(next(iter(data.train_dataloader())))
    assert labels.shape == (8, count)
    assert images.dtype == torch.float32
    for row, columns in enumerate(labels):
        easy, difficult = labels_of(row, count)
        expected = torch.zeros(count)
        expected[difficult - 1] = -1
        expected[easy - 1] = 1
        assert torch.equal(columns, expected)


def test_datasets_of_other_classes_do_not_mix(tmp_path: Path) -> None:
    roots = [str(own_classes(tmp_path / str(n), names_of(n))) for n in (3, 25)]
    with pytest.raises(OptionError, match="classes differ"):
        ShardDataset(roots)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_workers_know_the_classes(workers: int, tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own", many(25))
    dataset = ShardDataset(str(root), shuffle=False, task="classification")
    loader = ShardLoader(dataset, batch_size=4, num_workers=workers)
    assert [tuple(batch.targets.shape) for batch in loader] == [(4, 25)] * 2
