"""Bad samples, which fail to decode or to transform: raised, or replaced with counts unchanged.

A sample is bad only if its bytes are verified. Wrong bytes are an error, not a bad sample.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules import ShardDataset, ShardLoader, World
from datamodules.reading import samples
from shard_tool.errors import OptionError, SampleError, ShardError
from tests.kit.datasets.converted import resealed
from tests.kit.datasets.stored import in_memory, stored
from tests.kit.models.recorder import sample_digests
from tests.kit.processes.shard_tool_process import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.datasets.tars import Records

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"  # the machine may have fewer cores
)

LENGTHS = [4, 7, 3, 6, 5, 4, 6, 5]
"""40 samples."""
BAD = (3, 11, 25)
"""Ids of the damaged ones: of shards 0, 2 (its first) and 5 (its first)."""


def spoil(folder: Path, *rows: int) -> Path:
    """Cut the pictures with these ids short; every digest agrees with that."""

    def cut_short(samples: Records) -> None:
        for members in samples.values():
            if count[0] in rows:
                members["jpg"] = members["jpg"][:-200]
            count[0] += 1

    count = [0]
    resealed(folder, "train", cut_short)
    return folder


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with three bad samples. Read only."""
    folder = stored(tmp_path_factory.mktemp("damaged") / "voc", {"train": LENGTHS, "val": [4]})
    return spoil(folder, *BAD)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with none. Read only."""
    return stored(tmp_path_factory.mktemp("sound") / "voc", {"train": LENGTHS})


def dataset(root: Path | str, **options: Any) -> ShardDataset:
    defaults: dict[str, Any] = {"seed": 2, "window": 3, "on_bad_sample": "substitute"}
    return ShardDataset(str(root), **(defaults | options))


Seen = dict[int, tuple[int, str]]
"""Position to (sample id, digest of its pixels and boxes)."""


def seen(loader: ShardLoader, *, world: World | None = None) -> Seen:
    """What a rank gets in a pass; by position, so that ranks can be laid together."""
    world = world or World()
    found: Seen = {}
    for batch in loader:
        first = batch.start + (world.slot - batch.start) % world.world_size
        positions = range(first, batch.stop, world.world_size)
        pairs = zip(batch.sample_ids.tolist(), sample_digests(batch), strict=True)
        found |= dict(zip(positions, pairs, strict=True))
    return found


def ids(found: Seen) -> list[int]:
    return [sample_id for _, (sample_id, _) in sorted(found.items())]


def expected_ids(data: ShardDataset, *, lanes: int = 1, window: int = 3) -> list[int]:
    """The canonical order, bad samples included."""
    order = data.order(lanes, window)
    shards, rows = order.epoch(0).locate(np.arange(order.num_samples))
    first_ids = np.cumsum(order.shard_lengths) - order.shard_lengths
    found: list[int] = (first_ids[shards] + rows).tolist()
    return found


class Fails:
    """A transform that fails at some samples, or at some draws of torch's global generator."""

    def __init__(self, *sample_ids: int, share: float = 0.0) -> None:
        self.sample_ids, self.share = sample_ids, share

    def __call__(self, image: Any, target: Any) -> Any:
        drawn = float(torch.rand(()))
        if int(target["image_id"]) in self.sample_ids or drawn < self.share:
            raise ZeroDivisionError("no")
        return (image.float() * drawn).to(torch.uint8), target


# Substitutes ---------------------------------------------------------------------------------


def test_a_bad_sample_is_an_error_by_default(damaged: Path) -> None:
    with pytest.raises(SampleError, match=r"'voc-train-\d+-\d+'.jpg: does not decode"):
        list(ShardLoader(ShardDataset(str(damaged)), batch_size=5))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_only_bad_samples_are_replaced_and_by_samples_of_their_window(
    damaged: Path, num_workers: int
) -> None:
    data = dataset(damaged)
    found = ids(seen(ShardLoader(data, batch_size=5, num_workers=num_workers)))
    order = expected_ids(data)
    assert len(found) == data.num_samples == 40
    replaced = [p for p in range(40) if found[p] != order[p]]
    assert sorted(order[p] for p in replaced) == sorted(BAD)
    plan = data.order(1, 3).epoch(0)
    for position in replaced:
        window = [order[p] for p in plan.window_positions(position)]
        assert found[position] in set(window) - set(BAD)


def test_a_transform_that_fails_makes_a_sample_bad(sound: Path) -> None:
    data = dataset(sound, transform=Fails(*BAD))
    loader = ShardLoader(data, batch_size=5)
    found = ids(seen(loader))
    order = expected_ids(data)
    assert [p for p in range(40) if found[p] != order[p]] == [
        order.index(i) for i in order if i in BAD
    ]
    assert loader.bad_samples.keys() == set(BAD)
    assert set(loader.bad_samples.values()) == {
        f"{sound}/train-00000{shard}.tar: sample 'voc-train-00{shard}-000{row}': "
        "transform 'Fails' raised ZeroDivisionError: no"
        for shard, row in ((0, 3), (2, 0), (5, 0))
    }


def test_each_epoch_draws_other_substitutes(damaged: Path) -> None:
    loader = ShardLoader(dataset(damaged), batch_size=5)
    substitutes = []
    for _ in range(8):
        found = ids(seen(loader))
        substitutes.append(tuple(sorted(i for i in set(found) if found.count(i) > 1)))
    assert len(set(substitutes)) > 1


def test_each_bad_sample_draws_its_own_substitute(sound: Path) -> None:
    """In a window of many bad samples, substitutes differ, and so do their pixels."""
    bad = tuple(range(0, 40, 3))
    options: dict[str, Any] = {"window": 8, "max_bad_samples": 40, "transform": Fails(*bad)}
    found = seen(ShardLoader(dataset(sound, **options), batch_size=8))
    order = expected_ids(dataset(sound), window=8)
    substitutes = [found[p] for p in range(40) if order[p] in bad]
    own = [found[p] for p in range(40) if order[p] not in bad]
    assert len(substitutes) == len(bad) == 14
    assert len({sample_id for sample_id, _ in substitutes}) > 5
    assert not set(substitutes) & set(own), "its transform draws anew"


TOPOLOGIES = [
    pytest.param(4, 1, 1, id="4-ranks-on-1-node"),
    pytest.param(4, 2, 2, id="4-ranks-on-2-nodes"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "num_nodes", "lanes"), TOPOLOGIES)
def test_promise_5_substitutes_and_pixels_are_the_same_on_any_ranks_and_workers(
    damaged: Path, world_size: int, num_nodes: int, lanes: int
) -> None:
    """Also if what a transform draws decides whether a sample is bad."""
    options: dict[str, Any] = {
        "lanes": lanes,
        "transform": Fails(8, share=0.2),
        "max_bad_samples": 40,
    }
    alone = ShardLoader(dataset(damaged, **options), batch_size=8)
    whole = seen(alone)
    assert len(alone.bad_samples) > len(BAD) + 1
    together: Seen = {}
    bad: dict[int, str] = {}
    steps = set()
    for rank in range(world_size):
        per_node = world_size // num_nodes
        world = World(rank=rank, world_size=world_size, node=rank // per_node, num_nodes=num_nodes)
        data = dataset(damaged, world=world, **options)
        loader = ShardLoader(data, batch_size=2, num_workers=2)
        found = seen(loader, world=world)
        assert len(found) == len(data) == 40 // world_size
        steps.add(len(loader))
        together |= found
        bad |= loader.bad_samples
    assert together == whole
    assert bad == alone.bad_samples
    assert steps == {5}


@pytest.mark.slow
def test_promise_6_a_resumed_run_has_the_same_substitutes_and_pixels(damaged: Path) -> None:
    options: dict[str, Any] = {"transform": Fails(8, share=0.2), "max_bad_samples": 40}
    whole = seen(ShardLoader(dataset(damaged, **options), batch_size=8))
    for done in range(5):
        source = ShardLoader(dataset(damaged, **options), batch_size=8)
        list(islice(source, done))
        resumed = ShardLoader(dataset(damaged, **options), batch_size=3, num_workers=done % 3)
        resumed.load_state_dict(source.state_dict())
        assert seen(resumed) == {p: what for p, what in whole.items() if p >= 8 * done}


def test_a_remote_dataset_has_the_same_substitutes_cold_and_cached(
    damaged: Path, tmp_path: Path
) -> None:
    url = in_memory(damaged, f"memory://{tmp_path.name}")
    whole = seen(ShardLoader(dataset(damaged), batch_size=8))
    for _ in range(3):
        data = dataset(url, cache_dir=str(tmp_path / "cache"))
        assert seen(ShardLoader(data, batch_size=8)) == whole


def test_a_window_of_bad_samples_only_raises_the_first_error(tmp_path: Path) -> None:
    folder = spoil(stored(tmp_path / "voc", {"train": [3, 3, 3]}), 3, 4, 5)
    data = dataset(folder, window=1)
    with pytest.raises(SampleError, match=r"voc-train-001-000\d.*does not decode") as caught:
        list(ShardLoader(data, batch_size=1))
    position = next(p for p, i in enumerate(expected_ids(data, window=1)) if i in {3, 4, 5})
    first = expected_ids(data, window=1)[position]
    assert f"voc-train-001-000{first - 3}" in str(caught.value)
    wider = ShardLoader(dataset(folder, window=3), batch_size=1)
    assert len(seen(wider)) == 9


# Counted and listed --------------------------------------------------------------------------


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_samples_are_counted_listed_and_logged_once_each(
    damaged: Path, caplog: pytest.LogCaptureFixture, num_workers: int
) -> None:
    loader = ShardLoader(dataset(damaged), batch_size=5, num_workers=num_workers)
    of_batches: dict[int, str] = {}
    for batch in loader:
        assert not batch.bad_samples.keys() & set(batch.sample_ids.tolist())
        of_batches |= batch.bad_samples
    assert loader.bad_samples == of_batches
    assert loader.bad_samples.keys() == set(BAD)
    said = [f"sample {i} substituted: {reason}" for i, reason in of_batches.items()]
    assert messages(caplog) == said
    for _ in loader:  # the next epoch finds the same ones
        pass
    assert messages(caplog) == said
    assert loader.bad_samples.keys() == set(BAD)


def test_bad_samples_stay_with_a_batch_moved_to_a_device(damaged: Path) -> None:
    for batch in ShardLoader(dataset(damaged), batch_size=40):
        for copy in (batch.to("cpu"), batch.with_pixels(batch.pixels)):
            assert copy.bad_samples == batch.bad_samples
            assert copy.bad_samples.keys() == set(BAD)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_bad_samples_are_an_error_that_lists_the_first(
    damaged: Path, num_workers: int
) -> None:
    data = dataset(damaged, max_bad_samples=2)
    loader = ShardLoader(data, batch_size=1, num_workers=num_workers)
    batches = iter(loader)
    taken: list[object] = []
    with pytest.raises(SampleError) as caught:
        taken += batches
    order = expected_ids(data)
    third = [i for i in order if i in BAD][2]
    assert str(caught.value).startswith("bad samples: 3 exceed max_bad_samples 2; the first: ")
    first, second, _ = [i for i in order if i in BAD]
    listed = [loader.bad_samples[first], loader.bad_samples[second]]
    assert str(caught.value).count("does not decode") == 3
    assert all(reason in str(caught.value) for reason in listed)
    with pytest.raises(SampleError, match="3 exceed"):
        next(batches)  # it does not go on without the batch
    assert loader.state_dict()["samples"] == order.index(third)


def test_as_many_bad_samples_as_allowed_are_no_error(damaged: Path) -> None:
    loader = ShardLoader(dataset(damaged, max_bad_samples=3), batch_size=5)
    assert [len(seen(loader)) for _ in range(3)] == [40] * 3
    with pytest.raises(SampleError, match="bad samples: 1 exceed max_bad_samples 0"):
        list(ShardLoader(dataset(damaged, max_bad_samples=0), batch_size=1))


# The dataset itself --------------------------------------------------------------------------


def bare_ids(samples: Any) -> list[int]:
    return [int(target["image_id"]) for _, target in samples]


def test_the_dataset_itself_replaces_the_same_samples(damaged: Path) -> None:
    expected = ids(seen(ShardLoader(dataset(damaged), batch_size=8)))
    assert bare_ids(dataset(damaged)) == expected
    loader = DataLoader(dataset(damaged), batch_size=None, num_workers=2)
    assert bare_ids(loader) == expected


def test_the_dataset_itself_counts_lists_and_logs_bad_samples(
    damaged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = dataset(damaged)
    assert len(list(data)) == len(list(data)) == 40
    assert data.bad_samples.keys() == set(BAD)
    said = [f"sample {i} substituted: {reason}" for i, reason in data.bad_samples.items()]
    assert messages(caplog) == said
    with pytest.raises(SampleError, match="bad samples: 3 exceed max_bad_samples 2"):
        list(dataset(damaged, max_bad_samples=2))
    assert len(list(dataset(damaged, max_bad_samples=3))) == 40


def test_undecoded_samples_are_never_bad(damaged: Path) -> None:
    keys = [sample["__key__"] for sample in dataset(damaged, decode=False, max_bad_samples=0)]
    assert len(set(keys)) == 40


# Errors that are not bad samples --------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_always_raises(damaged: Path, num_workers: int) -> None:
    data = dataset(damaged, shuffle=False)
    with pytest.raises(SampleError, match="voc-train-000-0003"):
        list(ShardLoader(data, batch_size=5, num_workers=num_workers))
    with pytest.raises(SampleError, match="voc-train-000-0003"):
        list(data)


def overwritten(folder: Path, shard: int) -> None:
    """Damage the first picture of a local shard, which its index does not know of."""
    path = folder / f"train-{shard:06d}.tar"
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xd8")
    content[at : at + 20] = bytes(20)
    path.write_bytes(content)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_promise_7_wrong_bytes_of_a_local_shard_are_an_error_and_never_replaced(
    tmp_path: Path, num_workers: int
) -> None:
    folder = stored(tmp_path / "voc", {"train": LENGTHS})
    overwritten(folder, 3)
    loader = ShardLoader(dataset(folder), batch_size=5, num_workers=num_workers)
    with pytest.raises(ShardError) as caught:
        list(loader)
    assert str(caught.value) == (
        f"{folder}/train-000003.tar: sample 0: its bytes do not have the CRC-32 of the index; "
        "copy the shard again"
    )
    assert loader.bad_samples == {}
    with pytest.raises(ShardError, match="CRC-32"):
        list(dataset(folder))


def test_promise_7_wrong_bytes_are_noticed_where_a_batch_spans_more_shards_than_stay_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_OPEN_SHARDS", 2)
    for damaged_shard in range(6):
        folder = stored(tmp_path / str(damaged_shard), {"train": [1] * 6})
        overwritten(folder, damaged_shard)
        with pytest.raises(ShardError, match=f"train-00000{damaged_shard}.tar: .* CRC-32"):
            list(ShardLoader(dataset(folder, window=6), batch_size=6))


@pytest.mark.slow
@pytest.mark.parametrize("poll_s", [5.0, 0.01])
def test_an_error_ends_the_workers_at_once(
    sound: Path, poll_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch waits 5 s for each worker of an iterator that the garbage collector finds.

    Where a batch is not there when torch asks, frames of its own refer to the iterator.
    """
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (poll_s,))
    gc.collect()  # what other tests left is theirs; so is what a fork would inherit of them:
    # where a Dask client was in this process, forked workers do not end by themselves.
    loader = ShardLoader(
        dataset(sound, transform=Fails(share=1.0)),
        batch_size=5,
        num_workers=2,
        multiprocessing_context="forkserver",
    )
    gc.disable()  # so that only the loader itself can end them
    try:
        with pytest.raises(SampleError, match="ZeroDivisionError"):
            list(loader)
        assert eventually(lambda: not multiprocessing.active_children())
    finally:
        gc.enable()


def test_unknown_options_for_bad_samples_are_refused(damaged: Path) -> None:
    with pytest.raises(OptionError) as caught:
        dataset(damaged, on_bad_sample="skip")
    assert str(caught.value) == "on_bad_sample: 'skip' is not one of raise, substitute"
