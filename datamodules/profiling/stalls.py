"""What training waited for: the costs of batches added up over a span of steps.

Steps are counted from one batch's arrival to the next one's. The first batch of a pass ends no
step: what it was waited for, while workers started, stands by itself, as `first_batch_s`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple

from datamodules.profiling.batch_cost import Cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datamodules.profiling.device_clock import Copied, Moment

WORK = ("fetch", "decode", "transform", "collate")
"""What workers spend time on; the fields of `Cost` without ``_s``."""


@dataclass(slots=True)
class Tally:
    """Batches of a span, added up."""

    num_batches: int = 0
    """Batches that came, first ones of passes included."""
    num_steps: int = 0
    """Batches that came after another one of the same pass."""
    seconds: float = 0.0
    """Of those steps: waiting for their batch, and all else from the arrival of the one before."""
    idle_s: float = 0.0
    """Of that: the device had nothing to do while its next batch was waited for."""
    copy_s: float = 0.0
    """Of that: the device copied the batch."""
    cost: Cost = field(default_factory=Cost)
    """Of all batches."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in _NAMES))

    @property
    def wait_s(self) -> float:
        """Seconds the steps waited for their batch."""
        return self.cost.wait_s - self.cost.start_s

    @property
    def stall_share(self) -> float:
        """Share of the steps in which the device lacked data: it waited for it, or copied it."""
        return min(1.0, (self.idle_s + self.copy_s) / self.seconds) if self.seconds else 0.0

    @property
    def step_s(self) -> float:
        """Mean seconds of a step without waiting for its batch; 0 where there is none."""
        return max(0.0, self.seconds - self.wait_s) / max(self.num_steps, 1)

    @property
    def samples_per_s(self) -> float:
        """Samples a second over the steps; 0 where there is none."""
        samples = self.cost.num_samples * self.num_steps / max(self.num_batches, 1)
        return samples / self.seconds if self.seconds else 0.0

    @property
    def worker_shares(self) -> dict[str, float]:
        """What workers spent their time on: the share of each kind in all of them."""
        total = self.cost.worker_s or 1.0
        return {name: getattr(self.cost, f"{name}_s") / total for name in WORK}

    @property
    def cache_hits(self) -> float:
        """Share of the bytes read that lay on this machine already: in the cache or on its disk."""
        local = self.cost.cache_bytes + self.cost.disk_bytes
        return local / max(self.cost.sample_bytes, 1)

    def metrics(self) -> dict[str, float]:
        """Everything that is logged, by name: docs/guides/monitor.md says what each means.

        What cannot be said is left out: of a span without steps, or without a first batch.
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
        """The same for people."""
        cost = self.cost
        lines = []
        if self.num_steps:
            lines.append(
                f"{self.samples_per_s:.0f} samples/s, "
                f"{self.samples_per_s * cost.sample_bytes / max(cost.num_samples, 1) / 1e6:.1f} "
                f"MB/s; waited for data {self.stall_share:.0%} of the time"
            )
            means = self.metrics()
            lines.append(
                f"a step: {_ms(means['step_s'])}, its batch waited for {_ms(means['wait_s'])} "
                f"(hand-over {_ms(means['hand_over_s'])}), copied {_ms(means['copy_s'])}"
            )
        shares = self.worker_shares
        per_batch = max(self.num_batches, 1)
        work = [
            f"{name} {_ms(getattr(cost, f'{name}_s') / per_batch)} ({shares[name]:.0%})"
            for name in WORK
        ]
        lines.append(f"a batch in a worker: {', '.join(work)}")
        lay = {
            "disk": cost.disk_bytes,
            "cache": cost.cache_bytes,
            "by range": cost.read_through_bytes,
        }
        total = cost.sample_bytes
        read = [f"{name} {size / total:.0%}" for name, size in lay.items() if size]
        lines.append(
            f"{total / 1e6:.1f} MB read: {', '.join(read) or 'nothing'}; "
            f"{cost.network_bytes / 1e6:.1f} MB fetched into the cache"
        )
        return lines

    def to_list(self) -> list[float]:
        """As numbers alone, to send to other ranks."""
        own = [float(getattr(self, name)) for name in _NAMES[:-1]]
        return own + [float(getattr(self.cost, one.name)) for one in fields(Cost)]

    @classmethod
    def from_list(cls, values: Sequence[float]) -> Tally:
        """What `to_list` made numbers of; counts come back as floats."""
        num_own = len(_NAMES) - 1
        names = [one.name for one in fields(Cost)]
        cost = Cost(**dict(zip(names, values[num_own:], strict=True)))  # type: ignore[arg-type]
        return cls(**dict(zip(_NAMES, values[:num_own], strict=False)), cost=cost)  # type: ignore[arg-type]


_NAMES = [one.name for one in fields(Tally)]


def metrics_of_ranks(tallies: Sequence[Tally]) -> dict[str, float]:
    """What the ranks of a run found in the same span, as one.

    Bytes and samples/s are sums, seconds means; `stall_share` is that of the rank that lacked data
    longest, `stall_rank`, since the others wait for it in the exchange of gradients.
    """
    if len(tallies) == 1:
        return tallies[0].metrics()
    total = tallies[0]
    for tally in tallies[1:]:
        total = total + tally
    found = total.metrics()
    if total.num_steps:
        shares = [tally.stall_share for tally in tallies]
        found["samples_per_s"] *= len(tallies)
        found["stall_share"] = max(shares)
        found["stall_rank"] = float(shares.index(max(shares)))
    return found


class Watch:
    """Sees one loop's batches come, and makes tallies of them."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._arrived: Moment | None = None
        self._done: Moment | None = None
        self._elsewhere_s = 0.0
        self._open: deque[_Step] = deque()

    def arrived(self, cost: Cost, at: Moment, copied: Copied | None = None) -> None:
        """A batch was handed over: `at` is when, `copied` its way to the device, where known."""
        tally = self._tally
        tally.num_batches += 1
        tally.cost = tally.cost + cost
        if not cost.start_s and self._arrived is not None:
            tally.num_steps += 1
            tally.seconds += at.host_s - self._arrived.host_s - self._elsewhere_s
            self._open.append(_Step(self._done, at, cost.wait_s, copied))
        self._arrived, self._done, self._elsewhere_s = at, None, 0.0

    def done(self, at: Moment) -> None:
        """The device was given all the work of the batch that came last."""
        self._done = at

    def was_elsewhere(self, seconds: float) -> None:
        """The loop stood still for so long since its last batch came, as while it validates."""
        self._elsewhere_s += seconds

    @property
    def num_steps(self) -> int:
        """Steps since `take` was last called."""
        return self._tally.num_steps

    def take(self, *, wait: bool = False) -> Tally:
        """What came since this was last asked.

        What the device has not come to yet is counted the next time; with `wait` it is waited for.
        """
        while self._open and self._settle(self._open[0], wait=wait):
            self._open.popleft()
        tally, self._tally = self._tally, Tally()
        return tally

    def _settle(self, step: _Step, *, wait: bool) -> bool:
        last = step.copied.done if step.copied else step.arrived
        if wait:
            last.wait()
        idle_s, copy_s = step.idle_s(), step.copy_s()
        if idle_s is None or copy_s is None:
            return False
        self._tally.idle_s += idle_s
        self._tally.copy_s += copy_s
        return True


class _Step(NamedTuple):
    """What must be asked of the device to know what a step lacked."""

    done: Moment | None
    """When it had nothing left to do of the step before."""
    arrived: Moment
    wait_s: float
    copied: Copied | None

    def idle_s(self) -> float | None:
        """Seconds without work while the batch was waited for: both end when it arrives."""
        gap_s = self.done.until(self.arrived) if self.done else self.wait_s
        return None if gap_s is None else max(0.0, min(gap_s, self.wait_s))

    def copy_s(self) -> float | None:
        return self.copied.begun.until(self.copied.done) if self.copied else 0.0


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
