"""ShardDataset: sample ids, single samples, worlds and plain DataLoaders."""

from __future__ import annotations

import multiprocessing.spawn
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from datamodules import ShardDataset, World
from datamodules.reading import samples
from shard_tool.errors import (
    OptionError,
)
from tests.kit.datasets.opened import dataset
from tests.kit.datasets.stored import stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"  # the machine has 2 cores, a test 3 workers
)


def test_ids_count_over_all_splits_and_selection_keeps_them(mini_dataset: Path) -> None:
    train, val = dataset(mini_dataset, split="train"), dataset(mini_dataset, split="val")
    both = dataset(mini_dataset, split="trainval", shuffle=False)
    ids = [int(target["image_id"]) for _, target in both]
    assert ids == list(range(train.num_samples + val.num_samples))
    assert sorted(int(target["image_id"]) for _, target in val) == ids[train.num_samples :]
    assert len(both) == both.num_samples == len(ids)


def test_read_gives_the_sample_that_iteration_yields(mini_dataset: Path) -> None:
    data = dataset(mini_dataset, split="val")
    image, target = next(iter(data))
    again, same = data.read(int(target["image_id"]))
    assert torch.equal(image, again)
    assert torch.equal(target["boxes"], same["boxes"])
    with pytest.raises(OptionError, match="sample 0: is not in the chosen splits"):
        data.read(0)  # a sample of train


def test_a_sample_of_the_bare_dataset_has_all_fields_of_a_target(mini_dataset: Path) -> None:
    target = next(t for _, t in dataset(mini_dataset, transform=None) if len(t["boxes"]) > 1)
    kinds = {name: value.dtype for name, value in target.items() if name != "key"}
    assert kinds == {
        **dict.fromkeys(["boxes", "area"], torch.float32),
        **dict.fromkeys(["labels", "iscrowd", "image_id", "orig_size"], torch.int64),
        "difficult": torch.bool,
    }
    x0, y0, x1, y1 = target["boxes"].unbind(1)
    assert torch.equal(target["area"], (x1 - x0) * (y1 - y0))
    assert isinstance(target["key"], str)


def test_several_roots_form_one_order_with_distinct_ids(
    mini_dataset: Path, voc_sample: Path, tmp_path: Path
) -> None:
    from shard_tool import ConvertOptions, convert

    source = str(voc_sample / "VOCdevkit/VOC2007")
    report = convert(ConvertOptions(source=source, dest=str(tmp_path / "b"), workers=1))
    first = ShardDataset(str(mini_dataset), ["train", "val"]).num_samples
    data = ShardDataset([str(mini_dataset), str(tmp_path / "b")], "trainval", shuffle=True)
    ids = sorted(int(target["image_id"]) for _, target in data)
    test_ids = {i + first for i in range(report.manifest.num_samples)} - set(ids)
    assert ids[:first] == list(range(first))
    assert len(test_ids) == report.manifest.splits["test"].num_samples


def test_bare_dataset_splits_over_ranks_and_plain_loader_workers(mini_dataset: Path) -> None:
    def ids(rank: int, workers: int) -> list[int]:
        data = dataset(mini_dataset, world=World(rank=rank, world_size=2))
        assert len(data) in {data.num_samples // 2, -(-data.num_samples // 2)}
        plain = DataLoader(data, batch_size=None, num_workers=workers)
        return [int(target["image_id"]) for _, target in plain]

    everything = ids(0, 0) + ids(1, 0)
    assert sorted(everything) == list(range(len(everything)))
    assert ids(0, 2) == ids(0, 0)


def test_set_epoch_reaches_a_bare_dataset(mini_dataset: Path) -> None:
    data = dataset(mini_dataset)
    first = [int(target["image_id"]) for _, target in data]
    data.set_epoch(1)
    second = [int(target["image_id"]) for _, target in data]
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_set_epoch_reaches_persistent_workers_of_a_plain_loader(
    mini_dataset: Path, context: str
) -> None:
    data = dataset(mini_dataset)
    plain = DataLoader(
        data,
        batch_size=None,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=context,
    )
    epochs = []
    for epoch in range(2):
        data.set_epoch(epoch)
        epochs.append([int(target["image_id"]) for _, target in plain])
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


@pytest.fixture
def cold_spawn() -> Iterator[None]:
    """What is spawned imports everything for itself, as a user's does."""
    warm = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(sys.executable)
    yield
    multiprocessing.set_executable(warm)


@pytest.mark.slow
@pytest.mark.usefixtures("cold_spawn")
def test_spawned_workers_use_the_given_world(
    mini_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = dataset(mini_dataset, world=World())
    plain = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert len([1 for _ in plain]) == data.num_samples


def test_promise_3_undecoded_samples_feed_a_webdataset_pipeline(mini_dataset: Path) -> None:
    data = ShardDataset(str(mini_dataset), "val", decode=False)
    pipeline = wds.DataPipeline(
        data,
        wds.decode("torchrgb"),
        wds.map(lambda sample: (sample["__key__"], sample["jpg"], sample["json"])),
    )
    samples = list(pipeline)
    assert len(samples) == data.num_samples
    for key, image, annotation in samples:
        assert annotation["key"] == key
        assert tuple(image.shape) == (3, annotation["height"], annotation["width"])
    raw = next(iter(data))
    assert raw["__url__"].endswith(".tar")
    assert {type(raw["jpg"]), type(raw["json"])} == {bytes}


def test_user_transforms_draw_by_the_samples_key_and_leave_the_generators_alone(
    mini_dataset: Path,
) -> None:
    import random

    import numpy as np

    draws: dict[int, tuple[float, float, float]] = {}

    def transform(image: Any, target: Any) -> Any:
        drawn = (float(torch.rand(())), float(np.random.rand()), random.random())  # noqa: NPY002
        draws[int(target["image_id"])] = drawn
        return image, target

    data = dataset(mini_dataset, transform=transform)
    torch.manual_seed(1)
    list(data)
    first, draws_again = dict(draws), torch.rand(1)
    draws.clear()
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), draws_again)  # iteration had left the generator alone
    list(data)
    assert draws == first
    assert len(set(first.values())) == data.num_samples
    draws.clear()
    data.set_epoch(1)
    list(data)
    assert not set(draws.values()) & set(first.values())


def test_a_relative_root_does_not_follow_the_working_directory(
    mini_dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(mini_dataset.parent)
    data = ShardDataset("./voc/", decode=False)
    monkeypatch.chdir(tmp_path)
    assert len(list(data)) == data.num_samples


def test_shards_of_a_wide_window_are_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window holds more shards than a process otherwise keeps open: none is opened again."""
    root = stored(tmp_path / "voc", {"train": [3] * 90})
    opened: list[Path] = []
    real = samples._mapped
    monkeypatch.setattr(samples, "_mapped", lambda path: opened.append(path) or real(path))
    data = ShardDataset(str(root), decode=False, window=45, lanes=2)
    assert len({sample["__key__"] for sample in data}) == 270
    assert len(opened) == len(set(opened)) == 90


# Bad input ----------------------------------------------------------------------------------


def test_an_unknown_split_is_refused_and_the_known_ones_are_named(mini_dataset: Path) -> None:
    with pytest.raises(OptionError) as error:
        ShardDataset(str(mini_dataset), "test")
    assert str(error.value) == f"{mini_dataset}: has no split 'test', only train, val"


def test_a_transform_that_is_not_callable_is_refused_at_once(mini_dataset: Path) -> None:
    with pytest.raises(OptionError, match=r"transform: str is not callable as \(image, target\)"):
        dataset(mini_dataset, transform="flip")


def test_no_split_is_an_error(mini_dataset: Path) -> None:
    with pytest.raises(OptionError) as error:
        ShardDataset(str(mini_dataset), [])
    assert str(error.value) == "split: no split is chosen; there are train, val"
