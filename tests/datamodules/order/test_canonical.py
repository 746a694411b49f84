"""The canonical order: a permutation, the same for everybody, found anywhere at once."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datamodules.order.canonical import CanonicalOrder
from shard_tool.errors import OptionError
from shard_tool.keyed_random import permutation
from tests.kit.simulate import epoch_ids

lengths_of_shards = st.lists(st.integers(1, 12), min_size=1, max_size=14)
options = st.fixed_dictionaries(
    {
        "seed": st.integers(-3, 2**64),
        "lanes": st.integers(1, 7),
        "window": st.integers(1, 5),
        "shuffle": st.booleans(),
    }
)
epochs = st.integers(0, 5)

MANY = [20, 5, 13, 1, 1, 30, 8, 22, 17, 9, 40, 3, 11, 20]
"""200 samples."""


def make(lengths: list[int], **kwargs: Any) -> CanonicalOrder:
    return CanonicalOrder(np.array(lengths, np.int64), **({"seed": 0} | kwargs))


def places(order: CanonicalOrder, epoch: int) -> list[tuple[int, int]]:
    """(shard, row) at every position of an epoch."""
    shards, rows = order.epoch(epoch).locate(np.arange(order.num_samples))
    return list(zip(shards.tolist(), rows.tolist(), strict=True))


def lanes_of(order: CanonicalOrder, epoch: int) -> list[list[tuple[int, int]]]:
    """(shard, row) of every lane, in the lane's order."""
    found = places(order, epoch)
    return [found[lane :: order.lanes] for lane in range(order.lanes)]


def turned(items: list[Any], key: tuple[int | str, ...], *, shuffle: bool) -> list[Any]:
    return [items[i] for i in permutation(len(items), key)] if shuffle else items


def reference(
    lengths: list[int], epoch: int, *, seed: int, lanes: int, window: int, shuffle: bool
) -> list[tuple[int, int]]:
    """DESIGN.md's section, word for word, over lists of all samples."""
    shards = turned(list(range(len(lengths))), ("shards", seed), shuffle=shuffle)
    laid_out = iter([(shard, row) for shard in shards for row in range(lengths[shard])])
    num_samples = sum(lengths)
    of_lanes = []
    for lane in range(lanes):
        size = num_samples // lanes + (lane < num_samples % lanes)
        samples = list(itertools.islice(laid_out, size))
        spans = [list(span) for _, span in itertools.groupby(samples, key=lambda s: s[0])]
        spans = turned(spans, ("pieces", seed, epoch, lane), shuffle=shuffle)
        of_lane: list[tuple[int, int]] = []
        for number, start in enumerate(range(0, len(spans), window)):
            together = list(itertools.chain(*spans[start : start + window]))
            of_lane += turned(together, ("window", seed, epoch, lane, number), shuffle=shuffle)
        of_lanes.append(of_lane)
    return [of_lanes[p % lanes][p // lanes] for p in range(num_samples)]


@given(lengths_of_shards, epochs, options)
@example([1], 0, {"seed": 0, "lanes": 7, "window": 1, "shuffle": True})
def test_order_is_a_permutation_for_any_shards_lanes_window_seed_and_epoch(
    lengths: list[int], epoch: int, options: dict[str, Any]
) -> None:
    found = places(make(lengths, **options), epoch)
    everything = [(shard, row) for shard, length in enumerate(lengths) for row in range(length)]
    assert sorted(found) == everything


@given(lengths_of_shards, epochs, options)
@example([10], 0, {"seed": 0, "lanes": 3, "window": 1, "shuffle": True})
@example([1, 1], 0, {"seed": 0, "lanes": 5, "window": 2, "shuffle": True})
def test_order_is_the_one_the_design_describes(
    lengths: list[int], epoch: int, options: dict[str, Any]
) -> None:
    assert places(make(lengths, **options), epoch) == reference(lengths, epoch, **options)


@pytest.mark.slow
@given(lengths_of_shards, epochs, options, st.data())
def test_locate_gives_the_same_at_any_positions_in_any_sequence(
    lengths: list[int], epoch: int, options: dict[str, Any], data: st.DataObject
) -> None:
    """Random access is what resumption is made of: nothing may hang on what was asked before."""
    expected = places(make(lengths, **options), epoch)
    positions = st.lists(st.integers(0, sum(lengths) - 1), max_size=20)
    order = make(lengths, **options).epoch(epoch)
    for asked in data.draw(st.lists(positions, min_size=1, max_size=4)):
        shards, rows = order.locate(np.array(asked, np.int64))
        assert shards.dtype == rows.dtype == np.int64
        found = list(zip(shards.tolist(), rows.tolist(), strict=True))
        assert found == [expected[position] for position in asked]


@pytest.mark.slow
@given(lengths_of_shards, options)
def test_lane_membership_does_not_depend_on_the_epoch(
    lengths: list[int], options: dict[str, Any]
) -> None:
    """So a node that keeps reading its lanes keeps the shards it has cached."""
    order = make(lengths, **options)
    first = [set(lane) for lane in lanes_of(order, 0)]
    assert [set(lane) for lane in lanes_of(order, 1)] == first
    assert [set(lane) for lane in lanes_of(order, 7)] == first


@given(lengths_of_shards, options)
def test_first_lanes_hold_one_sample_more_where_lanes_do_not_divide(
    lengths: list[int], options: dict[str, Any]
) -> None:
    order = make(lengths, **options)
    size, larger = divmod(sum(lengths), order.lanes)
    sizes = [len(lane) for lane in lanes_of(order, 0)]
    assert sizes == [size + (lane < larger) for lane in range(order.lanes)]
    bounds = [order.lane_bounds(lane) for lane in range(order.lanes)]
    assert [stop - start for start, stop in bounds] == sizes
    assert [order.lane(lane).lengths.sum() for lane in range(order.lanes)] == sizes


def test_shard_may_straddle_lanes() -> None:
    order = make([10], lanes=3)
    rows = [sorted(row for _, row in lane) for lane in lanes_of(order, 0)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


@given(lengths_of_shards, epochs, options)
def test_samples_of_a_window_come_from_its_spans_alone_and_from_all_of_them(
    lengths: list[int], epoch: int, options: dict[str, Any]
) -> None:
    order = make(lengths, **options)
    of_epoch = order.epoch(epoch)
    for number, lane in enumerate(lanes_of(order, epoch)):
        windows = [
            tuple(of_epoch.coming_shards(number + order.lanes * item).tolist())
            for item in range(len(lane))
        ]
        runs = [
            (shards, [lane[i] for i, _ in run])
            for shards, run in itertools.groupby(enumerate(windows), key=lambda pair: pair[1])
        ]
        spans = order.lane(number)
        samples_of = {
            shard: {(shard, row) for row in range(start, start + length)}
            for shard, start, length in zip(
                spans.shards.tolist(), spans.starts.tolist(), spans.lengths.tolist(), strict=True
            )
        }
        for shards, samples in runs:
            assert set(samples) == set().union(*(samples_of[shard] for shard in shards))
        full = [len(shards) == order.window for shards, _ in runs]
        assert all(full[:-1])
        assert all(0 < len(shards) <= order.window for shards, _ in runs)


@pytest.mark.slow
@given(lengths_of_shards, epochs, options, st.integers(1, 4))
def test_coming_shards_are_those_of_the_windows_that_follow(
    lengths: list[int], epoch: int, options: dict[str, Any], num_windows: int
) -> None:
    order = make(lengths, **options)
    of_epoch = order.epoch(epoch)
    for number, lane in enumerate(lanes_of(order, epoch)):
        for item in range(len(lane)):
            position = number + order.lanes * item
            now = of_epoch.coming_shards(position).tolist()
            coming = of_epoch.coming_shards(position, num_windows).tolist()
            assert coming[: len(now)] == now
            assert len(coming) <= num_windows * order.window
            ahead = {shard for shard, _ in lane[item:]}
            assert ahead <= set(coming) or len(coming) == num_windows * order.window


def test_coming_shards_of_one_window_are_what_is_read_next() -> None:
    order = make(MANY, window=4)
    of_epoch = order.epoch(0)
    first = of_epoch.coming_shards(0).tolist()
    size = sum(MANY[shard] for shard in first)
    read = [shard for shard, _ in places(order, 0)]
    assert set(read[:size]) == set(first)
    assert of_epoch.coming_shards(size - 1).tolist() == first
    second = of_epoch.coming_shards(size).tolist()
    assert not set(second) & set(first)
    assert of_epoch.coming_shards(0, num_windows=2).tolist() == first + second
    everything = of_epoch.coming_shards(0, num_windows=99).tolist()
    assert sorted(everything) == list(range(len(MANY)))


def test_window_mixes_the_samples_of_its_shards() -> None:
    read = [shard for shard, _ in places(make([50] * 8, window=4), 0)[:200]]
    changes = sum(a != b for a, b in itertools.pairwise(read))
    assert changes > 100  # 150 expected; 3 if shards were read one after another


@given(lengths_of_shards, epochs)
def test_order_without_shuffle_is_manifest_order(lengths: list[int], epoch: int) -> None:
    order = make(lengths, seed=epoch + 1, shuffle=False)
    assert epoch_ids(order, epoch) == list(range(sum(lengths)))


@pytest.mark.slow
@given(lengths_of_shards, epochs, st.integers(1, 7))
def test_order_without_shuffle_is_manifest_order_within_each_lane(
    lengths: list[int], epoch: int, lanes: int
) -> None:
    order = make(lengths, shuffle=False, lanes=lanes)
    ids = epoch_ids(order, epoch)
    in_lanes = [ids[lane::lanes] for lane in range(lanes)]
    assert list(itertools.chain(*in_lanes)) == list(range(sum(lengths)))


def test_orders_of_other_epochs_seeds_lanes_and_windows_differ() -> None:
    base = make(MANY, lanes=2, window=3)
    orders = {
        "epoch": epoch_ids(base, 1),
        "seed": epoch_ids(make(MANY, seed=1, lanes=2, window=3)),
        "lanes": epoch_ids(make(MANY, lanes=3, window=3)),
        "window": epoch_ids(make(MANY, lanes=2, window=4)),
        "shuffle": epoch_ids(make(MANY, lanes=2, window=3, shuffle=False)),
        "base": epoch_ids(base),
    }
    assert len({tuple(ids) for ids in orders.values()}) == len(orders)


def test_seed_and_epoch_do_not_add_up() -> None:
    """One shard, so that only the keys of (seed, epoch) decide, not the order of shards."""
    found = {
        (seed, epoch): tuple(epoch_ids(make([64], seed=seed), epoch))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(found.values())) == len(found)


def test_lanes_and_windows_of_one_epoch_are_permuted_independently() -> None:
    lanes = lanes_of(make([64] * 4, lanes=2, window=1), 0)
    rows = [tuple(row for _, row in part) for lane in lanes for part in (lane[:64], lane[64:])]
    assert len(set(rows)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lanes": 0}, "order: lanes 0 and window 8 must be at least 1"),
        ({"window": 0}, "order: lanes 1 and window 0 must be at least 1"),
        ({"lanes": -2, "window": -1}, "order: lanes -2 and window -1 must be at least 1"),
    ],
)
def test_order_refuses_numbers_below_one(options: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        make([3], **options)
    assert str(caught.value) == message


def test_order_refuses_an_empty_split() -> None:
    with pytest.raises(OptionError) as caught:
        make([])
    assert str(caught.value) == "order: there are no samples to order"


# Golden values. Whoever changes them breaks the resumption of every run in the world: what was
# trained before a checkpoint and what comes after it would no longer be one epoch. Raise the
# cursor's version, and say so in the changelog.
GOLDEN_LENGTHS = [5, 2, 7, 1, 4]
GOLDEN_ORDERS = {
    (0, 1): [5, 15, 18, 6, 17, 16, 7, 9, 8, 14, 11, 13, 12, 10, 0, 1, 4, 3, 2],
    (1, 1): [1, 14, 3, 2, 0, 4, 9, 13, 8, 7, 10, 6, 12, 11, 5, 17, 16, 18, 15],
    (0, 3): [15, 9, 5, 17, 8, 12, 16, 2, 11, 14, 7, 10, 18, 3, 6, 0, 4, 13, 1],
    (1, 3): [1, 9, 13, 14, 3, 12, 0, 2, 11, 17, 7, 10, 16, 4, 5, 15, 8, 6, 18],
}
"""(epoch, lanes) to sample ids, at seed 0 and window 2."""


def test_order_is_pinned() -> None:
    found = {
        (epoch, lanes): epoch_ids(make(GOLDEN_LENGTHS, lanes=lanes, window=2), epoch)
        for epoch, lanes in GOLDEN_ORDERS
    }
    assert found == GOLDEN_ORDERS


# The package's __init__ imports torch and Lightning (700 MB); the arithmetic needs neither, which
# the child shows by leaving it out.
BILLION = """
import json, sys, time, types
package = types.ModuleType("datamodules")
package.__path__ = ["datamodules"]
sys.modules["datamodules"] = package
import numpy as np
from datamodules.order.canonical import CanonicalOrder
from datamodules.order.partition import EpochPartition

more = np.arange(500_000) % 900
lengths = np.stack([1000 + more, 1000 - more], axis=1).reshape(-1)
began = time.process_time()
order = CanonicalOrder(lengths, seed=0, lanes=int(sys.argv[1]))
partition = EpochPartition(
    num_samples=order.num_samples, start=order.num_samples // 2, world_size=64, batch_size=32
)
shards, rows = order.epoch(3).locate(np.array(partition.positions(0, 17), np.int64))
seconds = time.process_time() - began
status = open("/proc/self/status").read()  # not ru_maxrss: it survives exec, and our parent is big
print(json.dumps({
    "samples": order.num_samples,
    "shards": len(lengths),
    "first": [int(shards[0]), int(rows[0])],
    "located": len(set(zip(shards.tolist(), rows.tolist()))),
    "in_range": bool((rows < lengths[shards]).all() and (rows >= 0).all()),
    "peak_mb": int(status.split("VmHWM:")[1].split()[0]) / 1024,
    "seconds": seconds,
    "heavy": sorted({"torch", "pytorch_lightning"} & sys.modules.keys()),
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read memory from")
@pytest.mark.parametrize("lanes", [1, 8])
def test_billion_samples_are_planned_and_their_middle_found_in_300_mb(lanes: int) -> None:
    """CPU seconds are printed (about 0.6), and bound only what is absurd."""
    command = [sys.executable, "-c", BILLION, str(lanes)]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=root, timeout=120
    )
    found = json.loads(done.stdout)
    sys.stdout.write(f"{found}\n")
    assert (found["samples"], found["shards"]) == (10**9, 10**6)
    assert found["located"] == 32
    assert found["in_range"]
    assert found["heavy"] == []
    assert found["peak_mb"] < 300
    assert found["seconds"] < 30
