"""Shows on stderr how far a job is: a bar on a terminal, a plain line every 5 s elsewhere.

rich draws the bar. The speed is our own: rich's `Task.speed` remembers 1,000 updates, which a fast
job fills in less than a second, forgets a slow job's last shard after 30 s, and does not fall while
nothing happens. rich's columns also show a time left from the first second on, and decimal units.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column

from shard_tool.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LINE_EVERY_S = 5.0
_WINDOW_S = 30.0
"""The speed is measured over at least this time."""
_WINDOW_POINTS = 10
"""The speed is measured over at least this many points: two shards a minute need five minutes."""
_SPACING_S = 0.5
"""Time between two points that are kept."""
_SETTLED_S = 1.0
"""Work reported in the first second was done before: by an earlier run that this one resumes."""
_ETA_AFTER_S = 5.0
_ETA_AFTER_SHARE = 0.02
_ETA_AFTER_S_ANYWAY = 60.0
"""After a minute a time left is shown below 2 % as well: a job of hours needs long for them."""


class _Point(NamedTuple):
    at_s: float
    done: int


class Pace:
    """Measures the speed of one count over the recent past.

    A count that falls starts the measurement again. One thread may read while another reports:
    all points are replaced at once.
    """

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._points: tuple[_Point, ...] = (_Point(began_s, 0),)

    def report(self, now_s: float, done: int) -> None:
        """Add a point."""
        points = self._points
        if done < points[-1].done:
            self._began_s = now_s
        if now_s - self._began_s <= _SETTLED_S:
            points = ()
        elif len(points) > 1 and now_s - points[-2].at_s < _SPACING_S:
            points = points[:-1]
        while len(points) >= _WINDOW_POINTS and points[1].at_s <= now_s - _WINDOW_S:
            points = points[1:]
        self._points = (*points, _Point(now_s, done))

    def rate(self, now_s: float) -> float | None:
        """Units per second until now; None before the second point."""
        points = self._points
        if len(points) < 2:
            return None
        return (points[-1].done - points[0].done) / (now_s - points[0].at_s)

    def left_s(self, now_s: float, total: int | None) -> float | None:
        """Seconds until `total` is done; None while that would be a guess."""
        rate, done, took_s = self.rate(now_s), self._points[-1].done, now_s - self._began_s
        if total is None or not rate or done >= total or took_s < _ETA_AFTER_S:
            return None
        if done < total * _ETA_AFTER_SHARE and took_s < _ETA_AFTER_S_ANYWAY:
            return None
        return (total - done) / rate


class Meter:
    """Holds how far a job is and says it in words; `progress` makes one, the job calls it.

    Attributes:
        on_report: Called after each report, to show it.
    """

    def __init__(self, what: str, unit: str, clock: Callable[[], float]) -> None:
        self.what = what
        self.done = 0
        self.total: int | None = None
        self.on_report: Callable[[], None] = lambda: None
        self._unit, self._note, self._clock = unit, "", clock
        self._start()

    def _start(self) -> None:
        now_s = self._clock()
        self._pace, self._bytes_pace = Pace(now_s), Pace(now_s)

    def __call__(
        self,
        done: int,
        total: int | None,
        note: str = "",
        *,
        num_bytes: int | None = None,
        what: str | None = None,
    ) -> None:
        """Report how far the job is.

        Args:
            done: In the meter's unit.
            total: In the meter's unit; None where it is unknown. Another total starts a new
                measurement of speed.
            note: More to show, such as '3/12 shards'.
            num_bytes: Bytes so far, where `done` counts something else: the speed shown is theirs.
            what: What goes on from now on; another name starts a new measurement of speed.
        """
        what = what or self.what
        if what != self.what or self.total not in (None, total):
            self._start()
        self.what, self.done, self.total, self._note = what, done, total, note
        now_s = self._clock()
        self._pace.report(now_s, done)
        if num_bytes is None and self._unit == "bytes":
            num_bytes = done
        if num_bytes is not None:
            self._bytes_pace.report(now_s, num_bytes)
        self.on_report()

    def words(self) -> list[str]:
        """Time left, speed and how far it is, most wanted first; unknown ones are left out."""
        now_s = self._clock()
        left_s = self._pace.left_s(now_s, self.total)
        left = "" if left_s is None else f"{human_seconds(left_s)} left"
        return [words for words in (left, self._speed(now_s), self._far()) if words]

    def __str__(self) -> str:
        return ", ".join(self.words())  # narrow terminals cut its end

    def _far(self) -> str:
        """'1200/5011 samples, 3/12 shards'."""
        shown, unit = (human_bytes, "") if self._unit == "bytes" else (str, f" {self._unit}")
        total = "" if self.total is None else f"/{shown(self.total)}"
        return f"{shown(self.done)}{total}{unit}" + (f", {self._note}" if self._note else "")

    def _speed(self, now_s: float) -> str:
        """'34.5 MiB/s', or '120 samples/s' where the job reports no bytes; '' while unknown."""
        if (bytes_rate := self._bytes_pace.rate(now_s)) is not None:
            return f"{human_bytes(bytes_rate)}/s"
        if (rate := self._pace.rate(now_s)) is None:
            return ""
        return f"{rate:{'.0f' if rate >= 10 else '.2g'}} {self._unit}/s"


@contextmanager
def progress(
    what: str, *, unit: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Meter]:
    """Show how far a job is while the block runs.

    Args:
        what: The job: 'converting'.
        unit: What is counted, in the plural: 'samples'. 'bytes' are shown as sizes.
        clock: Seconds, from any start.

    Yields:
        The meter to call. Report at once what an earlier run has done: what is reported within the
        first second does not count as speed.
    """
    meter = Meter(what, unit, clock)
    console = Console(stderr=True)
    # rich's own guess would follow FORCE_COLOR, which many CI systems set, and move the cursor in
    # a log.
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        with _bar(meter, console):
            yield meter
    else:
        _print_lines(meter, clock)
        yield meter


def _bar(meter: Meter, console: Console) -> Progress:
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TextColumn(
            "{task.fields[meter]}",  # put into words at each refresh
            style="none",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        console=console,
        transient=True,
        expand=True,
    )
    task = bar.add_task(meter.what, total=None, meter=meter)
    meter.on_report = lambda: bar.update(
        task, description=meter.what, completed=meter.done, total=meter.total
    )
    return bar


def _print_lines(meter: Meter, clock: Callable[[], float]) -> None:
    last_s = clock()

    def print_line() -> None:
        nonlocal last_s
        if clock() - last_s >= _LINE_EVERY_S:
            last_s = clock()
            words = ", ".join(reversed(meter.words()))
            print(f"{meter.what}: {words}", file=sys.stderr, flush=True)  # noqa: T201

    meter.on_report = print_line


class StderrHandler(logging.Handler):
    """Writes log lines to the current `sys.stderr`, above the bar while one is shown.

    `logging.StreamHandler` would keep the stream it was made with, and write into the bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201
