"""Stalls of training steps, computed from made-up costs and device times."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.profiling.batch_cost import Cost
from datamodules.profiling.device_clock import DeviceCopy, DeviceEvent
from datamodules.profiling.stalls import StepMeter, StepTotals, metrics_of_ranks

CPU = torch.device("cpu")


def at(seconds: float) -> DeviceEvent:
    """An event of the CPU at this time."""
    event = DeviceEvent(CPU)
    event.host_s = seconds
    return event


class Event:
    """A fake CUDA event; the GPU has done its work up to the time `reached`."""

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


def on_gpu(host_s: float, device_s: float) -> DeviceEvent:
    """An event made at `host_s` that the GPU reaches at `device_s`."""
    event = at(host_s)
    event._event = Event(device_s)
    return event


def steps(*costs: Cost, seconds: float = 1.0, copy_s: float = 0.0) -> StepTotals:
    """Totals of a pass: a first batch, then one of each cost every so many seconds."""
    meter = StepMeter()
    meter.arrived(Cost(num_samples=1, wait_s=9.0, start_s=9.0), at(0.0))
    for number, cost in enumerate(costs, start=1):
        copy = DeviceCopy(at(0.0), at(copy_s)) if copy_s else None
        meter.arrived(cost, at(number * seconds), copy)
    return meter.take()


# Totals -------------------------------------------------------------------------------------


def test_metrics_are_means_of_seconds_and_sums_of_bytes() -> None:
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
    totals = steps(cost, cost, seconds=2.0, copy_s=0.5)
    totals.num_batches, totals.cost.num_samples = 2, 8  # as in a span that no pass begins in
    assert totals.metrics() == {
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
    assert totals.lines() == [
        "2 samples/s, 0.0 MB/s; waited for data 50% of the time",
        "a step: 1500.0 ms, its batch waited for 500.0 ms (hand-over 125.0 ms), copied 500.0 ms",
        "a batch in a worker: fetch 250.0 ms (12%), decode 1000.0 ms (50%), "
        "transform 500.0 ms (25%), collate 250.0 ms (12%)",
        "0.0 MB read: disk 25%, cache 50%, by range 25%; 0.0 MB fetched into the cache",
    ]


def test_the_first_batch_of_a_pass_counts_by_itself() -> None:
    meter = StepMeter()
    meter.arrived(Cost(num_samples=2, wait_s=3.0, start_s=3.0, decode_s=1.0), at(10.0))
    alone = meter.take()
    assert alone.metrics()["first_batch_s"] == 3.0
    assert not {"stall_share", "samples_per_s", "step_s", "wait_s"} & alone.metrics().keys()
    assert len(alone.lines()) == 2
    meter.arrived(Cost(num_samples=2, wait_s=0.25), at(11.0))
    meter.arrived(Cost(num_samples=2, wait_s=5.0, start_s=5.0), at(100.0))  # the next epoch
    found = meter.take().metrics()
    assert (found["stall_share"], found["wait_s"], found["step_s"]) == (0.25, 0.25, 0.75)
    assert (found["samples_per_s"], found["first_batch_s"]) == (2.0, 5.0)


def test_time_that_is_excluded_is_no_part_of_a_step() -> None:
    meter = StepMeter()
    meter.arrived(Cost(num_samples=1, wait_s=1.0, start_s=1.0), at(0.0))
    meter.work_queued(at(1.0))
    meter.exclude(30.0)  # validation
    meter.work_queued(at(31.0))
    meter.arrived(Cost(num_samples=1, wait_s=0.5), at(32.0))
    meter.arrived(Cost(num_samples=1, wait_s=0.5), at(34.0))
    totals = meter.take()
    assert (totals.seconds, totals.num_steps, totals.stall_share) == (4.0, 2, 0.25)


numbers = st.floats(0, 1e9, allow_nan=False)
totals_of_a_rank = st.builds(
    StepTotals,
    num_batches=st.integers(0, 10**6),
    num_steps=st.integers(0, 10**6),
    seconds=numbers,
    idle_s=numbers,
    copy_s=numbers,
    cost=st.builds(
        Cost, num_samples=st.integers(0, 10**9), disk_bytes=st.integers(0, 10**15), wait_s=numbers
    ),
)


@given(totals_of_a_rank)
def test_totals_survive_the_way_to_another_rank(totals: StepTotals) -> None:
    assert StepTotals.from_list(totals.to_list()) == totals


def test_the_rank_that_lacked_data_longest_is_shown() -> None:
    """Other ranks wait for its gradients, so their own steps look busy."""
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
    """The loop waited from 1.0 to 3.0, and the GPU worked until 2.5."""
    meter = StepMeter()
    meter.arrived(Cost(num_samples=1, wait_s=1.0, start_s=1.0), on_gpu(0.0, 0.0))
    meter.work_queued(on_gpu(0.9, 2.5))
    meter.arrived(Cost(num_samples=1, wait_s=2.0), on_gpu(3.0, 3.0))
    meter.work_queued(on_gpu(3.1, 9.0))
    meter.arrived(Cost(num_samples=1, wait_s=0.1), on_gpu(5.0, 9.0))
    totals = meter.take()
    assert (totals.num_steps, totals.seconds, totals.idle_s) == (2, 5.0, 0.5)


def test_a_gpu_that_idles_for_other_reasons_does_not_lack_data() -> None:
    meter = StepMeter()
    meter.arrived(Cost(num_samples=1, wait_s=1.0, start_s=1.0), on_gpu(0.0, 0.0))
    meter.work_queued(on_gpu(0.9, 1.0))
    meter.arrived(Cost(num_samples=1, wait_s=0.25), on_gpu(3.0, 3.0))  # 1.75 s in some callback
    assert meter.take().idle_s == 0.25


def test_a_gpu_is_never_waited_for_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event, "reached", 2.0)
    meter = StepMeter()
    meter.arrived(Cost(num_samples=1, wait_s=1.0, start_s=1.0), on_gpu(0.0, 0.0))
    meter.work_queued(on_gpu(0.9, 1.0))
    copy = DeviceCopy(on_gpu(1.5, 1.5), on_gpu(1.6, 2.5))
    meter.arrived(Cost(num_samples=1, wait_s=0.5), copy.start, copy)
    early = meter.take()
    assert (early.num_steps, early.idle_s, early.copy_s) == (1, 0.0, 0.0)
    assert Event.reached == 2.0, "nothing was waited for"
    Event.reached = 3.0
    later = meter.take()
    assert (later.num_steps, later.idle_s, later.copy_s) == (0, 0.5, 1.0)
    meter.arrived(Cost(num_samples=1, wait_s=0.5), on_gpu(4.0, 4.0))
    assert meter.take(wait=True).idle_s == 0.5, "at the end of an epoch it is"
    assert Event.reached == 4.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_events_of_a_gpu_measure_its_work() -> None:
    device = torch.device("cuda")
    big = torch.ones(8192, 8192, device=device)
    begun = DeviceEvent(device)
    for _ in range(20):
        big = big @ big
    done = DeviceEvent(device)
    host_s = done.host_s - begun.host_s
    done.synchronize()
    seconds = begun.seconds_until(done)
    assert seconds is not None
    assert seconds > host_s
