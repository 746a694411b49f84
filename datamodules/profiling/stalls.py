"""Measures data stalls: how long training steps wait for their batches, and why.

A `StepMeter` watches one loop and adds its batches' costs up into `StepTotals`. A step lasts from
one batch's arrival to the next one's. The first batch of a pass ends no step: the time it was
waited for, while workers started, is `first_batch_s`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple

from datamodules.profiling.batch_cost import Cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datamodules.profiling.device_clock import DeviceCopy, DeviceEvent

WORK = ("fetch", "decode", "transform", "collate")
"""What workers spend time on: the fields of `Cost` without ``_s``."""


@dataclass(slots=True)
class StepTotals:
    """Costs of the batches of a span, and times of its steps, added up."""

    num_batches: int = 0
    """Batches that arrived, first batches of passes included."""
    num_steps: int = 0
    """Batches that arrived after another one of the same pass."""
    seconds: float = 0.0
    """Duration of those steps, waiting included."""
    idle_s: float = 0.0
    """Of `seconds`: the device had no work while its next batch was waited for."""
    copy_s: float = 0.0
    """Of `seconds`: the device copied the batch."""
    cost: Cost = field(default_factory=Cost)
    """Of all batches."""

    def __add__(self, other: StepTotals) -> StepTotals:
        return StepTotals(*(getattr(self, name) + getattr(other, name) for name in _NAMES))

    @property
    def wait_s(self) -> float:
        """Seconds the steps waited for their batches."""
        return self.cost.wait_s - self.cost.start_s

    @property
    def stall_share(self) -> float:
        """Share of the steps' time in which the device waited for a batch or copied it."""
        return min(1.0, (self.idle_s + self.copy_s) / self.seconds) if self.seconds else 0.0

    @property
    def step_s(self) -> float:
        """Mean seconds of a step without the wait for its batch; 0 without steps."""
        return max(0.0, self.seconds - self.wait_s) / max(self.num_steps, 1)

    @property
    def samples_per_s(self) -> float:
        """Samples per second over the steps; 0 without steps."""
        samples = self.cost.num_samples * self.num_steps / max(self.num_batches, 1)
        return samples / self.seconds if self.seconds else 0.0

    @property
    def worker_shares(self) -> dict[str, float]:
        """Each of `WORK` to its share of the workers' time."""
        total = self.cost.worker_s or 1.0
        return {name: getattr(self.cost, f"{name}_s") / total for name in WORK}

    @property
    def cache_hits(self) -> float:
        """Share of the bytes read from this machine: from the cache or from local shards."""
        local = self.cost.cache_bytes + self.cost.disk_bytes
        return local / max(self.cost.sample_bytes, 1)

    def metrics(self) -> dict[str, float]:
        """All values that are logged, by name; docs/guides/monitor.md explains each.

        Values of steps are left out without steps, `first_batch_s` without a first batch.
        """
        found: dict[str, float] = {}
        cost, num_firsts = self.cost, self.num_batches - self.num_steps
        if self.num_steps:
            found["stall_share"] = self.stall_share
            found["samples_per_s"] = self.samples_per_s
            found["step_s"] = self.step_s
            found["wait_s"] = self.wait_s / self.num_steps
            found["hand_over_s"] = cost.hand_over_s / self.num_steps
            found["copy_s"] = self.copy_s / self.num_steps
        if self.num_batches:
            for name in WORK:
                found[f"{name}_s"] = getattr(cost, f"{name}_s") / self.num_batches
            found["queue_depth"] = cost.queue_depth / self.num_batches
            for name in ("disk", "cache", "read_through", "network"):
                found[f"{name}_bytes"] = float(getattr(cost, f"{name}_bytes"))
            found["cache_hits"] = self.cache_hits
        if num_firsts:
            found["first_batch_s"] = cost.start_s / num_firsts
        return found

    def lines(self) -> list[str]:
        """The same as lines of text."""
        return [*self._step_lines(), self._worker_line(), self._bytes_line()]

    def _step_lines(self) -> list[str]:
        if not self.num_steps:
            return []
        means, cost = self.metrics(), self.cost
        return [
            f"{self.samples_per_s:.0f} samples/s, "
            f"{self.samples_per_s * cost.sample_bytes / max(cost.num_samples, 1) / 1e6:.1f} "
            f"MB/s; waited for data {self.stall_share:.0%} of the time",
            f"a step: {_ms(means['step_s'])}, its batch waited for {_ms(means['wait_s'])} "
            f"(hand-over {_ms(means['hand_over_s'])}), copied {_ms(means['copy_s'])}",
        ]

    def _worker_line(self) -> str:
        shares, per_batch = self.worker_shares, max(self.num_batches, 1)
        work = [
            f"{name} {_ms(getattr(self.cost, f'{name}_s') / per_batch)} ({shares[name]:.0%})"
            for name in WORK
        ]
        return f"a batch in a worker: {', '.join(work)}"

    def _bytes_line(self) -> str:
        cost, total = self.cost, self.cost.sample_bytes
        sources = {
            "disk": cost.disk_bytes,
            "cache": cost.cache_bytes,
            "by range": cost.read_through_bytes,
        }
        read = [f"{name} {size / total:.0%}" for name, size in sources.items() if size]
        return (
            f"{total / 1e6:.1f} MB read: {', '.join(read) or 'nothing'}; "
            f"{cost.network_bytes / 1e6:.1f} MB fetched into the cache"
        )

    def to_list(self) -> list[float]:
        """All fields as numbers, to send to other ranks."""
        own = [float(getattr(self, name)) for name in _NAMES[:-1]]
        return own + [float(getattr(self.cost, one.name)) for one in fields(Cost)]

    @classmethod
    def from_list(cls, values: Sequence[float]) -> StepTotals:
        """Restore what `to_list` returned; counts become floats."""
        num_own = len(_NAMES) - 1
        names = [one.name for one in fields(Cost)]
        cost = Cost(**dict(zip(names, values[num_own:], strict=True)))  # type: ignore[arg-type]
        return cls(**dict(zip(_NAMES, values[:num_own], strict=False)), cost=cost)  # type: ignore[arg-type]


_NAMES = [one.name for one in fields(StepTotals)]


def metrics_of_ranks(ranks: Sequence[StepTotals]) -> dict[str, float]:
    """Combine what all ranks measured over the same span into one set of metrics.

    Bytes and samples/s are sums, seconds are means. `stall_share` is the largest one, and
    `stall_rank` is its rank: the other ranks wait for it when gradients are exchanged.
    """
    if len(ranks) == 1:
        return ranks[0].metrics()
    total = ranks[0]
    for totals in ranks[1:]:
        total = total + totals
    found = total.metrics()
    if total.num_steps:
        shares = [totals.stall_share for totals in ranks]
        found["samples_per_s"] *= len(ranks)
        found["stall_share"] = max(shares)
        found["stall_rank"] = float(shares.index(max(shares)))
    return found


class StepMeter:
    """Measures the steps of one loop."""

    def __init__(self) -> None:
        self._totals = StepTotals()
        self._arrived: DeviceEvent | None = None
        self._queued: DeviceEvent | None = None
        self._excluded_s = 0.0
        self._open: deque[_OpenStep] = deque()

    def arrived(self, cost: Cost, at: DeviceEvent, copy: DeviceCopy | None = None) -> None:
        """Note that a batch arrived.

        Args:
            cost: What the batch cost.
            at: When it arrived.
            copy: Its copy to the device, where known.
        """
        totals = self._totals
        totals.num_batches += 1
        totals.cost = totals.cost + cost
        if not cost.start_s and self._arrived is not None:
            totals.num_steps += 1
            totals.seconds += at.host_s - self._arrived.host_s - self._excluded_s
            self._open.append(_OpenStep(self._queued, at, cost.wait_s, copy))
        self._arrived, self._queued, self._excluded_s = at, None, 0.0

    def work_queued(self, at: DeviceEvent) -> None:
        """Note that the device has been given all work on the latest batch."""
        self._queued = at

    def exclude(self, seconds: float) -> None:
        """Leave time out of the current step, such as that of a validation."""
        self._excluded_s += seconds

    @property
    def num_steps(self) -> int:
        """Steps since the last call of `take`."""
        return self._totals.num_steps

    def take(self, *, wait: bool = False) -> StepTotals:
        """Return the totals since the last call.

        Args:
            wait: Wait until the device has done its work. Otherwise the times of what it has not
                done yet are part of the next totals.
        """
        while self._open and self._close(self._open[0], wait=wait):
            self._open.popleft()
        totals, self._totals = self._totals, StepTotals()
        return totals

    def _close(self, step: _OpenStep, *, wait: bool) -> bool:
        """Add a step's times on the device; False while the device has not reached its end."""
        last = step.copy.end if step.copy else step.arrived
        if wait:
            last.synchronize()
        idle_s, copy_s = step.idle_s(), step.copy_s()
        if idle_s is None or copy_s is None:
            return False
        self._totals.idle_s += idle_s
        self._totals.copy_s += copy_s
        return True


class _OpenStep(NamedTuple):
    """A step whose times on the device are not known yet."""

    queued: DeviceEvent | None
    """After all work of the step before."""
    arrived: DeviceEvent
    wait_s: float
    copy: DeviceCopy | None

    def idle_s(self) -> float | None:
        """Seconds without work while the batch was waited for: both end when it arrives."""
        gap_s = self.queued.seconds_until(self.arrived) if self.queued else self.wait_s
        return None if gap_s is None else max(0.0, min(gap_s, self.wait_s))

    def copy_s(self) -> float | None:
        return self.copy.start.seconds_until(self.copy.end) if self.copy else 0.0


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
