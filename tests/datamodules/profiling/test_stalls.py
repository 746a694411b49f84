"""What training waited for, added up, and what is said about it: arithmetic on made-up costs."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules import ShardDataset, ShardLoader, World
from datamodules.lightning.advice import Setup, advice
from datamodules.presets import detection_train
from datamodules.profiling.batch_cost import Cost
from datamodules.profiling.device_clock import Copied, Moment
from datamodules.profiling.stalls import Tally, Watch, metrics_of_ranks

CPU = torch.device("cpu")


def at(seconds: float) -> Moment:
    """A moment of the CPU."""
    moment = Moment(CPU)
    moment.host_s = seconds
    return moment


class Event:
    """A GPU's event, as far as ours are asked; `reached` says to what time the GPU has come."""

    reached = float("inf")

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    def query(self) -> bool:
        return self.at_s <= Event.reached

    def synchronize(self) -> None:
        Event.reached = max(Event.reached, self.at_s)

    def elapsed_time(self, later: Event) -> float:
        assert self.query()
        assert later.query()
        return 1000 * (later.at_s - self.at_s)


def on_gpu(host_s: float, device_s: float) -> Moment:
    """A moment noted at `host_s`, which the GPU comes to at `device_s`."""
    moment = at(host_s)
    moment._event = Event(device_s)
    return moment


def steps(*costs: Cost, seconds: float = 1.0, copy_s: float = 0.0) -> Tally:
    """Batches of these costs, one every so many seconds, a first one before them."""
    watch = Watch()
    watch.arrived(Cost(num_samples=1, wait_s=9.0, start_s=9.0), at(0.0))
    for number, cost in enumerate(costs, start=1):
        copied = Copied(at(0.0), at(copy_s)) if copy_s else None
        watch.arrived(cost, at(number * seconds), copied)
    return watch.take()


# Cost ----------------------------------------------------------------------------------------


def test_what_nobody_waited_for_is_no_hand_over() -> None:
    """Of a batch's way only what was waited for counts: it may lie ready for long."""
    waited, ready, first = Cost(made_at=5.0), Cost(made_at=1.0), Cost(made_at=5.0)
    waited.received(asked=3.0, now=5.5, is_first=False)
    assert (waited.wait_s, waited.hand_over_s, waited.start_s) == (2.5, 0.5, 0.0)
    ready.received(asked=3.0, now=3.25, is_first=False)
    assert (ready.wait_s, ready.hand_over_s, ready.start_s) == (0.25, 0.25, 0.0)
    first.received(asked=3.0, now=5.5, is_first=True)
    assert (first.wait_s, first.hand_over_s, first.start_s) == (2.5, 0.0, 2.5)


def test_sums_add_every_field_and_keep_the_later_time() -> None:
    one = Cost(*range(1, 15))
    total = one + Cost(*range(101, 115))
    names = [field.name for field in fields(Cost)]
    expected = {name: 2 * (i + 1) + 100 for i, name in enumerate(names)} | {"made_at": 114}
    assert {name: getattr(total, name) for name in names} == expected
    assert one == Cost(*range(1, 15))


# Tally ---------------------------------------------------------------------------------------


def test_a_span_says_means_of_seconds_and_sums_of_bytes() -> None:
    cost = Cost(
        num_samples=4,
        wait_s=0.5,
        hand_over_s=0.125,
        decode_s=1.0,
        transform_s=0.5,
        collate_s=0.25,
        fetch_s=0.25,
        disk_bytes=10,
        cache_bytes=20,
        read_through_bytes=10,
        network_bytes=7,
        queue_depth=3,
    )
    tally = steps(cost, cost, seconds=2.0, copy_s=0.5)
    tally.num_batches, tally.cost.num_samples = 2, 8  # as in a span that no pass begins in
    assert tally.metrics() == {
        "stall_share": 0.5,
        "samples_per_s": 2.0,
        "step_s": 1.5,
        "wait_s": 0.5,
        "hand_over_s": 0.125,
        "copy_s": 0.5,
        "fetch_s": 0.25,
        "decode_s": 1.0,
        "transform_s": 0.5,
        "collate_s": 0.25,
        "queue_depth": 3.0,
        "disk_bytes": 20.0,
        "cache_bytes": 40.0,
        "read_through_bytes": 20.0,
        "network_bytes": 14.0,
        "cache_hits": 0.75,
    }
    assert tally.lines() == [
        "2 samples/s, 0.0 MB/s; waited for data 50% of the time",
        "a step: 1500.0 ms, its batch waited for 500.0 ms (hand-over 125.0 ms), copied 500.0 ms",
        "a batch in a worker: fetch 250.0 ms (12%), decode 1000.0 ms (50%), "
        "transform 500.0 ms (25%), collate 250.0 ms (12%)",
        "0.0 MB read: disk 25%, cache 50%, by range 25%; 0.0 MB fetched into the cache",
    ]


def test_the_first_batch_of_a_pass_stands_by_itself() -> None:
    watch = Watch()
    watch.arrived(Cost(num_samples=2, wait_s=3.0, start_s=3.0, decode_s=1.0), at(10.0))
    alone = watch.take()
    assert alone.metrics()["first_batch_s"] == 3.0
    assert not {"stall_share", "samples_per_s", "step_s", "wait_s"} & alone.metrics().keys()
    assert len(alone.lines()) == 2
    watch.arrived(Cost(num_samples=2, wait_s=0.25), at(11.0))
    watch.arrived(Cost(num_samples=2, wait_s=5.0, start_s=5.0), at(100.0))  # the next epoch
    found = watch.take().metrics()
    assert (found["stall_share"], found["wait_s"], found["step_s"]) == (0.25, 0.25, 0.75)
    assert (found["samples_per_s"], found["first_batch_s"]) == (2.0, 5.0)


def test_what_is_done_elsewhere_in_a_step_is_no_part_of_it() -> None:
    watch = Watch()
    watch.arrived(Cost(num_samples=1, wait_s=1.0, start_s=1.0), at(0.0))
    watch.done(at(1.0))
    watch.was_elsewhere(30.0)  # validation
    watch.done(at(31.0))
    watch.arrived(Cost(num_samples=1, wait_s=0.5), at(32.0))
    watch.arrived(Cost(num_samples=1, wait_s=0.5), at(34.0))
    tally = watch.take()
    assert (tally.seconds, tally.num_steps, tally.stall_share) == (4.0, 2, 0.25)


numbers = st.floats(0, 1e9, allow_nan=False)
tallies = st.builds(
    Tally,
    num_batches=st.integers(0, 10**6),
    num_steps=st.integers(0, 10**6),
    seconds=numbers,
    idle_s=numbers,
    copy_s=numbers,
    cost=st.builds(
        Cost, num_samples=st.integers(0, 10**9), disk_bytes=st.integers(0, 10**15), wait_s=numbers
    ),
)


@given(tallies)
def test_a_tally_is_what_it_was_on_another_rank(tally: Tally) -> None:
    assert Tally.from_list(tally.to_list()) == tally


def test_the_rank_that_lacked_data_longest_is_shown() -> None:
    """The others wait for it where gradients are exchanged: their own steps look busy."""
    quick = steps(Cost(num_samples=4, wait_s=0.0, disk_bytes=5), seconds=2.0)
    starved = steps(Cost(num_samples=4, wait_s=1.5, disk_bytes=6), seconds=2.0)
    found = metrics_of_ranks([quick, starved, quick])
    assert (found["stall_share"], found["stall_rank"]) == (0.75, 1.0)
    assert found["wait_s"] == 0.5
    assert found["disk_bytes"] == 16.0
    assert found["samples_per_s"] == pytest.approx(3 * quick.samples_per_s)
    assert metrics_of_ranks([quick]) == quick.metrics(), "alone there is no rank to name"


# A device that works behind ------------------------------------------------------------------


def test_a_gpu_idles_only_from_the_end_of_its_work() -> None:
    """It was waited for from 1.0 to 3.0, and worked on until 2.5."""
    watch = Watch()
    watch.arrived(Cost(num_samples=1, wait_s=1.0, start_s=1.0), on_gpu(0.0, 0.0))
    watch.done(on_gpu(0.9, 2.5))
    watch.arrived(Cost(num_samples=1, wait_s=2.0), on_gpu(3.0, 3.0))
    watch.done(on_gpu(3.1, 9.0))
    watch.arrived(Cost(num_samples=1, wait_s=0.1), on_gpu(5.0, 9.0))
    tally = watch.take()
    assert (tally.num_steps, tally.seconds, tally.idle_s) == (2, 5.0, 0.5)


def test_a_gpu_that_idles_for_other_reasons_does_not_lack_data() -> None:
    watch = Watch()
    watch.arrived(Cost(num_samples=1, wait_s=1.0, start_s=1.0), on_gpu(0.0, 0.0))
    watch.done(on_gpu(0.9, 1.0))
    watch.arrived(Cost(num_samples=1, wait_s=0.25), on_gpu(3.0, 3.0))  # 1.75 s in some callback
    assert watch.take().idle_s == 0.25


def test_a_gpu_is_never_waited_for_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event, "reached", 2.0)
    watch = Watch()
    watch.arrived(Cost(num_samples=1, wait_s=1.0, start_s=1.0), on_gpu(0.0, 0.0))
    watch.done(on_gpu(0.9, 1.0))
    copied = Copied(on_gpu(1.5, 1.5), on_gpu(1.6, 2.5))
    watch.arrived(Cost(num_samples=1, wait_s=0.5), copied.begun, copied)
    early = watch.take()
    assert (early.num_steps, early.idle_s, early.copy_s) == (1, 0.0, 0.0)
    assert Event.reached == 2.0, "nothing was waited for"
    Event.reached = 3.0
    later = watch.take()
    assert (later.num_steps, later.idle_s, later.copy_s) == (0, 0.5, 1.0)
    watch.arrived(Cost(num_samples=1, wait_s=0.5), on_gpu(4.0, 4.0))
    assert watch.take(wait=True).idle_s == 0.5, "at the end of an epoch it is"
    assert Event.reached == 4.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_moments_of_a_gpu_are_those_of_its_work() -> None:
    device = torch.device("cuda")
    big = torch.ones(8192, 8192, device=device)
    begun = Moment(device)
    for _ in range(20):
        big = big @ big
    done = Moment(device)
    host_s = done.host_s - begun.host_s
    done.wait()
    seconds = begun.until(done)
    assert seconds is not None
    assert seconds > host_s


# Remedies ------------------------------------------------------------------------------------

SETUP = Setup(num_workers=2, num_cores=8, recipe_decode="exact")
WORK: dict[str, Any] = {"num_samples": 4, "wait_s": 0.5}


@pytest.mark.parametrize(
    ("cost", "setup", "text"),
    [
        pytest.param(
            {"decode_s": 1.42, "transform_s": 0.58},
            replace(SETUP, on_gpu=True),
            "decode takes 71 % of the workers' time: raise num_workers from 2 to 4, "
            'or decode="fast", or decode="cuda"',
            id="decode",
        ),
        pytest.param(
            {"decode_s": 1.42, "transform_s": 0.58},
            replace(SETUP, num_workers=0, recipe_decode="fast"),
            "decode takes 71 % of the time a batch takes to make: raise num_workers from 0 to 4, "
            "or store smaller pictures (`shard-tool convert --resize`)",
            id="decode-in-this-process",
        ),
        pytest.param(
            {"decode_s": 20.0},
            replace(SETUP, num_workers=7),
            "decode takes 100 % of the workers' time: raise num_workers from 7 to 8, "
            'or decode="fast"',
            id="never-more-workers-than-cores",
        ),
        pytest.param(
            {"decode_s": 20.0},
            replace(SETUP, num_workers=8),
            'decode takes 100 % of the workers\' time: decode="fast"',
            id="all-cores-have-one",
        ),
        pytest.param(
            {"decode_s": 20.0},
            replace(SETUP, num_workers=12),
            "decode takes 100 % of the workers' time: lower num_workers from 12 to 8, the cores "
            'there are for it, or decode="fast"',
            id="too-many-workers",
        ),
        pytest.param(
            {"transform_s": 0.9, "decode_s": 0.1},
            replace(SETUP, recipe_decode=None),
            "transform takes 90 % of the workers' time: raise num_workers from 2 to 3, "
            "or take a recipe, which does geometry and colours in one go",
            id="transform",
        ),
        pytest.param(
            {"transform_s": 0.9, "decode_s": 0.1},
            replace(SETUP, num_workers=8, on_gpu=True),
            "transform takes 90 % of the workers' time: change colours on the device",
            id="transform-of-a-recipe",
        ),
        pytest.param(
            {"transform_s": 0.9, "decode_s": 0.1},
            replace(SETUP, num_workers=8, has_after=True),
            "transform takes 90 % of the workers' time: move what follows the recipe to the device",
            id="transform-after-a-recipe",
        ),
        pytest.param(
            {"transform_s": 0.9, "collate_s": 0.1},
            replace(SETUP, num_workers=8, is_generic=True, recipe_decode=None),
            "transform takes 90 % of the workers' time: make transforms cheaper",
            id="transform-of-generic-samples",
        ),
        pytest.param(
            {"fetch_s": 3.0, "decode_s": 1.0, "network_bytes": 50, "read_through_bytes": 20},
            SETUP,
            "fetch takes 75 % of the workers' time: raise num_workers from 2 to 8, or keep "
            "cache_dir from run to run, or keep the data nearer (`shard-tool copy`)",
            id="fetch",
        ),
        pytest.param(
            {"fetch_s": 3.0, "decode_s": 1.0, "cache_bytes": 10, "read_through_bytes": 30},
            replace(SETUP, num_workers=8),
            "fetch takes 75 % of the workers' time: raise cache_limit or lower window: 75 % of it "
            "was read past the cache",
            id="fetch-past-the-cache",
        ),
        pytest.param(
            {"collate_s": 0.9, "decode_s": 0.1},
            replace(SETUP, num_workers=8, is_generic=True),
            "collate takes 90 % of the workers' time: make collate_fn cheaper",
            id="collate",
        ),
        pytest.param(
            {"hand_over_s": 0.4, "decode_s": 0.1},
            replace(SETUP, is_generic=True),
            "handing over batches that are made takes 80 % of the waiting: let collate_fn pack a "
            "batch into few tensors",
            id="hand-over-of-generic-samples",
        ),
        pytest.param(
            {"hand_over_s": 0.4, "decode_s": 0.1},
            replace(SETUP, recipe_decode=None),
            "handing over batches that are made takes 80 % of the waiting: let transforms return "
            "uint8 pictures, or smaller ones",
            id="hand-over",
        ),
        pytest.param(
            {"hand_over_s": 0.4, "decode_s": 0.1},
            replace(SETUP, num_workers=8),
            "handing over batches that are made takes 80 % of the waiting: lower num_workers from "
            "8 to 7",
            id="hand-over-where-workers-have-all-cores",
        ),
    ],
)
def test_advice_names_what_workers_spend_their_time_on(
    cost: dict[str, Any], setup: Setup, text: str
) -> None:
    tally = steps(Cost(**WORK | cost), Cost(**WORK | cost))
    # The span of a warning has no first batches of its own.
    tally.num_batches = 2
    assert advice(tally, setup) == text


def test_advice_knows_a_slow_copy() -> None:
    tally = steps(Cost(num_samples=4, wait_s=0.1, decode_s=9.0), copy_s=0.4)
    setup = replace(SETUP, on_gpu=True)
    found = "the copy to the device takes 40 % of the time: "
    assert advice(tally, setup) == found + "set pin_memory=True"
    smaller = "let transforms return uint8 pictures, or smaller ones"
    assert advice(tally, replace(setup, pin_memory=True)) == found + smaller


def test_cores_are_shared_by_the_ranks_of_a_node(
    mini_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    world = World(rank=5, world_size=8, node=1, num_nodes=2)
    recipe = detection_train(32).then(lambda image, target: (image, target))
    dataset = ShardDataset(str(mini_dataset), world=world, transform=recipe)
    loader = ShardLoader(dataset, num_workers=3)
    assert Setup.of(loader, "cuda") == Setup(
        num_workers=3, num_cores=4, on_gpu=True, recipe_decode="exact", has_after=True
    )
    assert Setup.of(ShardLoader(ShardDataset(str(mini_dataset), world=world)), "cpu") == Setup(
        num_workers=0, num_cores=4
    )
