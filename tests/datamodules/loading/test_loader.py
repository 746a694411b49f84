"""ShardDataset and ShardLoader: order, workers, epochs, state."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from datamodules import ShardDataset, ShardLoader, World
from datamodules.presets import detection_train
from datamodules.reading import samples
from shard_tool.errors import (
    ObjectMissing,
    OptionError,
    ResumeError,
    SampleError,
    ShardError,
    ShardToolError,
)
from tests.kit.datasets.stored import stored
from tests.kit.models.recorder import digest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"  # the machine has 2 cores, a test 3 workers
)


def dataset(root: Path, **options: Any) -> ShardDataset:
    return ShardDataset(str(root), **{"transform": detection_train(64), "seed": 5, **options})


def seen(batches: Any) -> list[tuple[int, list[int], str]]:
    return [(batch.epoch, batch.sample_ids.tolist(), digest(batch)) for batch in batches]


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


def test_a_sample_of_the_dataset_itself_has_all_fields_of_a_target(mini_dataset: Path) -> None:
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


def test_several_roots_are_one_order_with_ids_of_their_own(
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


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_worker_count_never_changes_what_a_rank_sees(mini_dataset: Path, num_workers: int) -> None:
    expected = seen(ShardLoader(dataset(mini_dataset), batch_size=4))
    loader = ShardLoader(dataset(mini_dataset), batch_size=4, num_workers=num_workers)
    assert seen(loader) == expected
    assert len(expected) == len(loader)


@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("persistent", [False, True])
def test_epochs_advance_and_differ(mini_dataset: Path, context: str, persistent: bool) -> None:
    expected = ShardLoader(dataset(mini_dataset), batch_size=8)
    loader = ShardLoader(
        dataset(mini_dataset),
        batch_size=8,
        num_workers=2,
        persistent_workers=persistent,
        multiprocessing_context=context,
    )
    epochs = [seen(loader) for _ in range(2)]
    assert epochs == [seen(expected) for _ in range(2)]
    assert [epoch[0][0] for epoch in epochs] == [0, 1]
    ids = [[i for _, batch, _ in epoch for i in batch] for epoch in epochs]
    assert sorted(ids[0]) == sorted(ids[1])
    assert ids[0] != ids[1]


def test_promise_6_resume_after_every_batch_gives_the_same_tail(mini_dataset: Path) -> None:
    """Also with other workers and another batch size: only the samples matter."""
    whole = seen(ShardLoader(dataset(mini_dataset), batch_size=5, drop_last=False))
    ids = [i for _, batch, _ in whole for i in batch]
    assert len(whole) > 5
    source = ShardLoader(dataset(mini_dataset), batch_size=5)
    batches = iter(source)
    for done in range(len(whole)):
        state = source.state_dict()
        same = ShardLoader(dataset(mini_dataset), batch_size=5)
        same.load_state_dict(state)
        assert same.state_dict() == state
        assert seen(same) == whole[done:]
        other = ShardLoader(dataset(mini_dataset), batch_size=3)
        other.load_state_dict(state)
        assert [i for _, batch, _ in seen(other) for i in batch] == ids[state["samples"] :]
        assert state["samples"] == sum(len(batch) for _, batch, _ in whole[:done])
        next(batches)
    assert list(batches) == []
    assert (source.state_dict()["epoch"], source.state_dict()["samples"]) == (1, 0)


def test_resume_with_workers_starts_at_the_first_batch_not_trained(mini_dataset: Path) -> None:
    expected = seen(ShardLoader(dataset(mini_dataset), batch_size=4))
    loader = ShardLoader(dataset(mini_dataset), batch_size=4, num_workers=2)
    assert seen(islice(loader, 3)) == expected[:3]
    resumed = ShardLoader(dataset(mini_dataset), batch_size=4, num_workers=3)
    resumed.load_state_dict(loader.state_dict())
    assert seen(resumed) == expected[3:]


def test_a_pass_after_an_abandoned_one_continues_where_that_stopped(mini_dataset: Path) -> None:
    expected = seen(ShardLoader(dataset(mini_dataset), batch_size=4))
    loader = ShardLoader(dataset(mini_dataset), batch_size=4)
    assert seen(islice(loader, 2)) + seen(loader) == expected


def test_taking_exactly_all_batches_ends_the_epoch(mini_dataset: Path) -> None:
    """`zip(range(n), loader)` never sees the end of the iterator."""
    loader = ShardLoader(dataset(mini_dataset), batch_size=4)
    first = seen(batch for _, batch in zip(range(len(loader)), loader, strict=False))
    second = seen(loader)
    assert [epoch for epoch, _, _ in first] == [0] * len(loader)
    assert [epoch for epoch, _, _ in second] == [1] * len(loader)


def test_iter_is_lazy_and_set_epoch_moves_only_to_another_epoch(mini_dataset: Path) -> None:
    loader = ShardLoader(dataset(mini_dataset), batch_size=4)
    waiting = iter(loader)
    loader.sampler.set_epoch(3)  # Lightning: after iter, before next
    batch = next(waiting)
    assert batch.epoch == 3
    loader.set_epoch(3)
    assert loader.state_dict()["samples"] == batch.stop
    loader.set_epoch(4)
    assert (loader.state_dict()["epoch"], loader.state_dict()["samples"]) == (4, 0)


def test_evaluation_has_no_cursor(mini_dataset: Path) -> None:
    loader = ShardLoader(dataset(mini_dataset, split="val", shuffle=False), batch_size=4)
    loader.set_epoch(7)
    first = seen(islice(loader, 2))
    whole = seen(loader)
    assert whole[:2] == first
    assert whole[0][0] == 0
    assert len(whole) == len(loader)
    assert seen(loader) == whole


def test_length_is_that_of_a_full_epoch_wherever_the_cursor_is(mini_dataset: Path) -> None:
    loader = ShardLoader(dataset(mini_dataset), batch_size=4)
    full = len(loader)
    list(islice(loader, 3))
    assert len(loader) == full
    assert loader.remaining_batches == full - 3


def test_ranks_of_a_given_world_share_every_global_batch(mini_dataset: Path) -> None:
    alone = seen(ShardLoader(dataset(mini_dataset, lanes=2), batch_size=8))
    shares = []
    for rank in range(4):
        world = World(rank=rank, world_size=4, node=rank // 2, num_nodes=2)
        loader = ShardLoader(dataset(mini_dataset, lanes=2, world=world), batch_size=2)
        shares.append(seen(loader))
    assert {len(share) for share in shares} == {len(alone)}
    for step, (_, ids, _) in enumerate(alone):
        parts = [set(share[step][1]) for share in shares]
        assert set().union(*parts) == set(ids)
        assert sum(map(len, parts)) == len(ids)


def test_the_dataset_itself_splits_over_ranks_and_workers_of_a_plain_loader(
    mini_dataset: Path,
) -> None:
    def ids(rank: int, workers: int) -> list[int]:
        data = dataset(mini_dataset, world=World(rank=rank, world_size=2))
        assert len(data) in {data.num_samples // 2, -(-data.num_samples // 2)}
        plain = DataLoader(data, batch_size=None, num_workers=workers)
        return [int(target["image_id"]) for _, target in plain]

    everything = ids(0, 0) + ids(1, 0)
    assert sorted(everything) == list(range(len(everything)))
    assert ids(0, 2) == ids(0, 0)


def test_set_epoch_reaches_the_dataset_itself(mini_dataset: Path) -> None:
    data = dataset(mini_dataset)
    first = [int(target["image_id"]) for _, target in data]
    data.set_epoch(1)
    second = [int(target["image_id"]) for _, target in data]
    assert sorted(first) == sorted(second)
    assert first != second


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


def test_segmentation_batches_stack_pictures_and_masks(mini_masks: Path) -> None:
    from datamodules.presets import segmentation_train

    data = ShardDataset(str(mini_masks), transform=segmentation_train(48))
    images, masks = next(iter(ShardLoader(data, batch_size=3)))
    assert (images.shape, images.dtype) == ((3, 3, 48, 48), torch.uint8)
    assert (masks.shape, masks.dtype) == ((3, 48, 48), torch.int64)
    assert set(masks.unique().tolist()) <= {*range(21), 255}
    assert len(masks.unique()) > 1


def test_user_transforms_draw_by_key_and_global_generators_are_restored(mini_dataset: Path) -> None:
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


def test_a_given_world_travels_to_spawned_workers(
    mini_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = dataset(mini_dataset, world=World())
    plain = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert len([1 for _ in plain]) == data.num_samples


def test_an_older_pass_never_takes_batches_of_a_newer_pass(mini_dataset: Path) -> None:
    options: dict[str, Any] = {"split": "val", "shuffle": False}
    loader = ShardLoader(dataset(mini_dataset, **options), batch_size=4, num_workers=2)
    pairs = list(zip(loader, loader, strict=True))
    assert [a.start for a, _ in pairs] == [b.start for _, b in pairs]
    loader = ShardLoader(
        dataset(mini_dataset, **options), batch_size=4, num_workers=1, persistent_workers=True
    )
    older, newer = iter(loader), iter(loader)
    next(older)
    assert next(newer).start == 0
    with pytest.raises(OptionError, match="persistent workers serve one at a time"):
        next(older)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_after_an_error_a_pass_gives_nothing_and_the_epoch_is_not_over(
    mini_dataset: Path, num_workers: int
) -> None:
    """Going on would hide that a batch is missing."""
    bad = next(iter(dataset(mini_dataset)))[1]["key"]

    def transform(image: Any, target: Any) -> Any:
        if target["key"] == bad:
            raise ValueError
        return image, target

    loader = ShardLoader(
        dataset(mini_dataset, transform=transform), batch_size=2, num_workers=num_workers
    )
    batches = iter(loader)
    for _ in range(2):
        with pytest.raises(SampleError, match="raised ValueError"):
            next(batches)
    assert (loader.state_dict()["epoch"], loader.state_dict()["samples"]) == (0, 0)


def test_lanes_read_by_several_nodes_are_logged_once_with_a_hint(
    mini_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(rank=0, world_size=4, num_nodes=4)
    loader = ShardLoader(dataset(mini_dataset, world=world, lanes=2), batch_size=2)
    with caplog.at_level("INFO"):
        list(loader)
        list(loader)
    assert caplog.messages == [
        "each of the 2 lanes is read by 2 of 4 nodes: give lanes a multiple of the nodes"
    ]


def test_numpy_integers_make_a_plain_state(mini_dataset: Path) -> None:
    import numpy as np

    data = dataset(mini_dataset, seed=np.int64(5), lanes=np.int64(2), window=np.int64(3))
    loader = ShardLoader(data, batch_size=np.int64(4))
    state = loader.state_dict()
    assert {type(value) for value in state.values()} == {int, str}
    loader.load_state_dict(state)


def test_a_relative_root_stays_where_it_was(
    mini_dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(mini_dataset.parent)
    data = ShardDataset("./voc/", decode=False)
    monkeypatch.chdir(tmp_path)
    assert len(list(data)) == data.num_samples


# Bad input ----------------------------------------------------------------------------------


def test_batch_size_below_one_is_refused(mini_dataset: Path) -> None:
    with pytest.raises(OptionError) as error:
        ShardLoader(dataset(mini_dataset), batch_size=0)
    assert str(error.value) == "batch_size: 0 is below 1"


def test_a_folder_without_manifest_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing) as error:
        ShardDataset(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: no dataset here (no manifest.json); "
        "make a dataset with `shard-tool convert SOURCE DEST`"
    )


def test_an_unfinished_conversion_is_no_dataset(mini_dataset: Path, tmp_path: Path) -> None:
    for path in sorted(mini_dataset.glob("*.tar"))[:2]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ObjectMissing, match=r"conversion not finished \(2 shards, no manifest"):
        ShardDataset(str(tmp_path))


@pytest.fixture
def copied(mini_dataset: Path, tmp_path: Path) -> Path:
    for path in mini_dataset.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_short_shard_is_refused_with_both_lengths(copied: Path) -> None:
    shard = copied / "train-000001.tar"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(ShardError) as error:
        list(ShardDataset(str(copied)))
    assert str(error.value) == (
        f"{shard}: {size - 512} bytes, the manifest says {size}; "
        "copy it again, or find all such shards with `shard-tool verify`"
    )


def test_check_crc_finds_a_flipped_bit(copied: Path) -> None:
    shard = copied / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r"train-000000.tar: sample \d+: its bytes do not have"):
        list(ShardDataset(str(copied), check_crc=True, decode=False))


def test_a_shard_cut_while_mapped_is_reported_as_a_changed_shard(copied: Path) -> None:
    """The worker dies by SIGBUS: torch alone speaks of shared memory."""
    data = dataset(copied, shuffle=False, transform=None)
    loader = ShardLoader(data, num_workers=1, prefetch_factor=1, drop_last=True)
    batches = iter(loader)
    next(batches)
    for shard in copied.glob("*.tar"):
        with shard.open("r+b") as file:
            file.truncate(0)
    with pytest.raises(ShardError, match="a shard changed while mapped"):
        list(batches)


def test_an_index_of_another_shard_is_refused(copied: Path) -> None:
    other = (copied / "train-000001.tar.idx").read_bytes()
    (copied / "train-000000.tar.idx").write_bytes(other)
    with pytest.raises(ShardError, match="is not the index the manifest describes"):
        list(ShardDataset(str(copied)))


def test_a_missing_index_is_made_from_the_shard(copied: Path, mini_dataset: Path) -> None:
    for path in copied.glob("*.idx"):
        path.unlink()
    pairs = zip(
        ShardDataset(str(copied), decode=False),
        ShardDataset(str(mini_dataset), decode=False),
        strict=True,
    )
    assert all(a["jpg"] == b["jpg"] for a, b in pairs)


def test_an_unknown_split_is_refused_with_the_known_ones(mini_dataset: Path) -> None:
    with pytest.raises(OptionError) as error:
        ShardDataset(str(mini_dataset), "test")
    assert str(error.value) == f"{mini_dataset}: has no split 'test', only train, val"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 64}, "cursor: saved with fingerprint '000"),
        ({"seed": 6}, "saved with seed 6, this run has 5; the order would be another: give seed=6"),
        ({"version": 9}, r"cursor: version 9 is unknown \(this release reads 1\)"),
        ({"samples": 10**6}, "cursor: epoch 0, sample 1000000 of 30 is not a place in the data"),
    ],
)
def test_a_state_of_something_else_is_refused(
    mini_dataset: Path, change: dict[str, Any], message: str
) -> None:
    loader = ShardLoader(dataset(mini_dataset), batch_size=4)
    state = {**loader.state_dict(), **change}
    message = message.replace("of 30", f"of {loader.dataset.dataset.num_samples}")
    with pytest.raises(ResumeError, match=message):
        loader.load_state_dict(state)


def test_an_empty_state_is_refused(mini_dataset: Path) -> None:
    with pytest.raises(ResumeError, match="the saved state is empty"):
        ShardLoader(dataset(mini_dataset)).load_state_dict({})


def test_saved_lanes_and_window_win_and_are_logged_once(
    mini_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = ShardLoader(dataset(mini_dataset, lanes=3, window=2), batch_size=4)
    expected = seen(saved)
    state = {**saved.state_dict(), "epoch": 0, "samples": 0}
    loader = ShardLoader(dataset(mini_dataset), batch_size=4)
    with caplog.at_level("INFO"):
        loader.load_state_dict(state)
    assert seen(loader) == expected
    assert caplog.messages == ["taking lanes 3, window 2 from the state"]
    with pytest.raises(ResumeError, match="saved with lanes 3, this run has 2"):
        ShardLoader(dataset(mini_dataset, lanes=2)).load_state_dict(state)


def test_more_ranks_than_samples_is_an_error(mini_dataset: Path) -> None:
    data = dataset(mini_dataset, world=World(rank=0, world_size=1000))
    with pytest.raises(OptionError, match="so some would have none; use at most"):
        len(ShardLoader(data, batch_size=1))


def test_a_transform_that_is_no_function_is_refused_at_once(mini_dataset: Path) -> None:
    with pytest.raises(OptionError, match=r"transform: str is not callable as \(image, target\)"):
        dataset(mini_dataset, transform="flip")


def test_no_split_is_an_error(mini_dataset: Path) -> None:
    with pytest.raises(OptionError) as error:
        ShardDataset(str(mini_dataset), [])
    assert str(error.value) == "split: no split is chosen; there are train, val"


def test_an_error_in_a_worker_names_sample_and_transform(mini_dataset: Path) -> None:
    def broken(image: Any, target: Any) -> Any:
        raise KeyError("nothing")

    loader = ShardLoader(dataset(mini_dataset, transform=broken), num_workers=1)
    with pytest.raises(SampleError, match="transform 'broken' raised KeyError") as error:
        next(iter(loader))
    assert isinstance(error.value, ShardToolError)
    assert "sample '20" in str(error.value)


def test_shards_of_a_wide_window_are_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a process keeps open otherwise: each would be opened for each of its samples."""
    root = stored(tmp_path / "voc", {"train": [3] * 90})
    opened: list[Path] = []
    real = samples._mapped
    monkeypatch.setattr(samples, "_mapped", lambda path: opened.append(path) or real(path))
    data = ShardDataset(str(root), decode=False, window=45, lanes=2)
    assert len({sample["__key__"] for sample in data}) == 270
    assert len(opened) == len(set(opened)) == 90
