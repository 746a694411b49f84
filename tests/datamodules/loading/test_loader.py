"""ShardLoader: order of batches, workers, epochs and saved states."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
import torch

from datamodules import ShardDataset, ShardLoader, World
from shard_tool.errors import (
    OptionError,
    ResumeError,
    SampleError,
    ShardToolError,
)
from tests.kit.datasets.opened import dataset
from tests.kit.models.recorder import digest

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"  # the machine has 2 cores, a test 3 workers
)


def seen(batches: Any) -> list[tuple[int, list[int], str]]:
    return [(batch.epoch, batch.sample_ids.tolist(), digest(batch)) for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_worker_count_never_changes_what_a_rank_sees(mini_dataset: Path, num_workers: int) -> None:
    expected = seen(ShardLoader(dataset(mini_dataset), batch_size=4))
    loader = ShardLoader(dataset(mini_dataset), batch_size=4, num_workers=num_workers)
    assert seen(loader) == expected
    assert len(expected) == len(loader)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_resume_with_workers_starts_at_the_first_batch_not_trained(mini_dataset: Path) -> None:
    expected = seen(ShardLoader(dataset(mini_dataset), batch_size=4))
    loader = ShardLoader(dataset(mini_dataset), batch_size=4, num_workers=2)
    assert seen(islice(loader, 3)) == expected[:3]
    resumed = ShardLoader(dataset(mini_dataset), batch_size=4, num_workers=3)
    resumed.load_state_dict(loader.state_dict())
    assert seen(resumed) == expected[3:]


def test_iterating_again_continues_an_abandoned_pass(mini_dataset: Path) -> None:
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


def test_segmentation_batches_stack_pictures_and_masks(mini_masks: Path) -> None:
    from datamodules.presets import segmentation_train

    data = ShardDataset(str(mini_masks), transform=segmentation_train(48))
    images, masks = next(iter(ShardLoader(data, batch_size=3)))
    assert (images.shape, images.dtype) == ((3, 3, 48, 48), torch.uint8)
    assert (masks.shape, masks.dtype) == ((3, 48, 48), torch.int64)
    assert set(masks.unique().tolist()) <= {*range(21), 255}
    assert len(masks.unique()) > 1


@pytest.mark.slow
def test_an_older_pass_never_takes_batches_of_a_newer_one(mini_dataset: Path) -> None:
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
def test_a_pass_yields_nothing_after_an_error_and_does_not_end_the_epoch(
    mini_dataset: Path, num_workers: int
) -> None:
    """Continuing would hide that a batch is missing."""
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


def test_lanes_shared_by_nodes_are_logged_once_with_advice(
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


def test_numpy_integers_give_a_state_of_plain_types(mini_dataset: Path) -> None:
    import numpy as np

    data = dataset(mini_dataset, seed=np.int64(5), lanes=np.int64(2), window=np.int64(3))
    loader = ShardLoader(data, batch_size=np.int64(4))
    state = loader.state_dict()
    assert {type(value) for value in state.values()} == {int, str}
    loader.load_state_dict(state)


# Bad input ----------------------------------------------------------------------------------


def test_batch_size_below_one_is_refused(mini_dataset: Path) -> None:
    with pytest.raises(OptionError) as error:
        ShardLoader(dataset(mini_dataset), batch_size=0)
    assert str(error.value) == "batch_size: 0 is below 1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 64}, "cursor: saved with fingerprint '000"),
        ({"seed": 6}, "saved with seed 6, this run has 5; the order would be another: give seed=6"),
        ({"version": 9}, r"cursor: version 9 is unknown \(this release reads 1\)"),
        ({"samples": 10**6}, "cursor: epoch 0, sample 1000000 of 30 is not a place in the data"),
    ],
)
def test_a_state_of_another_run_is_refused(
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


def test_saved_lanes_and_window_are_used_and_logged_once(
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


def test_an_error_in_a_worker_names_sample_and_transform(mini_dataset: Path) -> None:
    def broken(image: Any, target: Any) -> Any:
        raise KeyError("nothing")

    loader = ShardLoader(dataset(mini_dataset, transform=broken), num_workers=1)
    with pytest.raises(SampleError, match="transform 'broken' raised KeyError") as error:
        next(iter(loader))
    assert isinstance(error.value, ShardToolError)
    assert "sample '20" in str(error.value)
