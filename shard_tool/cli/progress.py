"""Progress for people, on stderr: a bar on a terminal, a plain line now and then elsewhere.

`Pace` is what is known of the speed, pure and with the clock's readings given to it; the rest
shows it. A time that is left is only named once it can be: after a few seconds and a few percent,
from the recent past, and counted up to now, so that it grows while nothing happens.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from shard_tool.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Task

_LINE_EVERY_S = 5.0
_WINDOW_S = 30.0
"""How far back speed is measured, at least."""
_WINDOW_POINTS = 10
"""Of how many points, at least: shards that take a minute each say nothing one by one."""
_SPACING_S = 0.5
"""What is kept of the past: one point in so many seconds."""
_SETTLED_S = 1.0
"""What the first second brings was there before (a download that is continued, say)."""
_ETA_AFTER_S = 5.0
_ETA_AFTER_SHARE = 0.02
_ETA_AFTER_S_ANYWAY = 60.0
"""A minute tells enough of a job that takes hours to do its first percents."""


class Advance(Protocol):
    """Says how far something is."""

    def __call__(
        self,
        done: int,
        total: int | None,
        note: str = "",
        *,
        num_bytes: int | None = None,
        what: str | None = None,
    ) -> None:
        """Show it.

        Args:
            done: In the unit of the progress.
            total: None where it is not known.
            note: What else to say, such as '3/12 shards'.
            num_bytes: Bytes so far, where `done` counts something else: the rate is theirs.
            what: From now on something else is going on, which starts anew.
        """


class _Point(NamedTuple):
    at_s: float
    done: int
    num_bytes: int | None


@dataclass(slots=True)
class Pace:
    """How fast something goes on.

    Falling back, or another total, is a new beginning. One thread may ask while another tells.
    """

    began_s: float
    total: int | None = None
    _points: tuple[_Point, ...] = ()
    """From the first one that counts to the last; replaced as a whole."""

    def saw(self, now_s: float, done: int, total: int | None, num_bytes: int | None = None) -> None:
        """Take note of how far it is."""
        points = self._points or (_Point(self.began_s, 0, None if num_bytes is None else 0),)
        if total != self.total or done < points[-1].done:
            if self._points:
                self.began_s = now_s
            self.total = total
        if now_s - self.began_s <= _SETTLED_S:
            points = ()
        elif len(points) > 1 and now_s - points[-2].at_s < _SPACING_S:
            points = points[:-1]
        while len(points) >= _WINDOW_POINTS and points[1].at_s <= now_s - _WINDOW_S:
            points = points[1:]
        self._points = (*points, _Point(now_s, done, num_bytes))

    def rate(self, now_s: float) -> float | None:
        """Units a second up to now; None: not known yet."""
        points = self._points
        return _rate(now_s, points, [point.done for point in points])

    def bytes_rate(self, now_s: float) -> float | None:
        """Bytes a second up to now; None: not known."""
        points = self._points
        counts = [point.num_bytes for point in points if point.num_bytes is not None]
        return _rate(now_s, points, counts) if len(counts) == len(points) else None

    def left_s(self, now_s: float) -> float | None:
        """Seconds it will still take; None where that would be a guess."""
        total, points, rate = self.total, self._points, self.rate(now_s)
        if total is None or not rate:
            return None
        took_s, done = now_s - self.began_s, points[-1].done
        is_enough = done >= total * _ETA_AFTER_SHARE or took_s >= _ETA_AFTER_S_ANYWAY
        if took_s < _ETA_AFTER_S or not is_enough or done >= total:
            return None
        return (total - done) / rate


def _rate(now_s: float, points: tuple[_Point, ...], counts: list[int]) -> float | None:
    if len(counts) < 2:
        return None
    return (counts[-1] - counts[0]) / (now_s - points[0].at_s)


@dataclass(slots=True)
class _State:
    """What there is to show."""

    what: str
    unit: str
    pace: Pace
    done: int = 0
    total: int | None = None
    note: str = ""

    def __call__(
        self, now_s: float, done: int, total: int | None, note: str, num_bytes: int | None
    ) -> None:
        self.done, self.total, self.note = done, total, note
        self.pace.saw(now_s, done, total, num_bytes)

    def far(self) -> str:
        """How far it is: '1200/5011 samples, 3/12 shards'."""
        shown = human_bytes if self.unit == "bytes" else str
        share = shown(self.done) + ("" if self.total is None else f"/{shown(self.total)}")
        if self.unit in ("", "bytes"):
            return f"{share} {self.note}".rstrip()
        return f"{share} {self.unit}" + (f", {self.note}" if self.note else "")

    def speed(self, now_s: float) -> str:
        """'34.5 MiB/s', or '120 samples/s' where bytes are not told; empty where unknown."""
        rate, of_bytes = self.pace.rate(now_s), self.pace.bytes_rate(now_s)
        if self.unit == "bytes":
            of_bytes = rate
        if of_bytes is not None:
            return f"{human_bytes(of_bytes)}/s"
        return "" if rate is None else f"{_human_rate(rate)} {self.unit}".rstrip() + "/s"

    def left(self, now_s: float) -> str:
        """'2 min left'; empty where that would be a guess."""
        left_s = self.pace.left_s(now_s)
        return "" if left_s is None else f"{human_seconds(left_s)} left"


@contextmanager
def progress(
    what: str, *, unit: str = "", clock: Callable[[], float] = time.monotonic
) -> Iterator[Advance]:
    """Show how far something is while the block runs.

    Args:
        what: What is going on: 'converting'.
        unit: What is counted, in the plural: 'samples'. 'bytes' are written as sizes. Empty: the
            note begins with it.
        clock: Seconds, from any start.

    Yields:
        The function to say it with. Say at once what an earlier run has done: what comes within
        the first second does not count as speed.
    """
    state = _State(what, unit, Pace(clock()))
    # Not rich's own guess: FORCE_COLOR, which many a CI sets, would move the cursor in its log.
    console = Console(stderr=True)
    is_watched = sys.stderr.isatty() and not console.is_dumb_terminal
    with _bar(console, state, clock) if is_watched else _lines(state, clock) as show:

        def advance(
            done: int,
            total: int | None,
            note: str = "",
            *,
            num_bytes: int | None = None,
            what: str | None = None,
        ) -> None:
            now_s = clock()
            if what is not None and what != state.what:
                state.what, state.pace = what, Pace(now_s)
            state(now_s, done, total, note, num_bytes)
            show(now_s)

        yield advance


@contextmanager
def _bar(
    console: Console, state: _State, clock: Callable[[], float]
) -> Iterator[Callable[[float], None]]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        _Words(state, clock),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task(state.what, total=None)

        def show(_now_s: float) -> None:
            bar.update(task, description=state.what, completed=state.done, total=state.total)

        yield show


class _Words(ProgressColumn):
    """What the bar cannot say, what is most wanted first: narrow terminals cut the end."""

    def __init__(self, state: _State, clock: Callable[[], float]) -> None:
        super().__init__(Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        self.state, self.clock = state, clock

    def render(self, task: Task) -> Text:  # noqa: ARG002  (rich asks with it)
        now_s, state = self.clock(), self.state
        return Text(", ".join(filter(None, (state.left(now_s), state.speed(now_s), state.far()))))


@contextmanager
def _lines(state: _State, clock: Callable[[], float]) -> Iterator[Callable[[float], None]]:
    last_s = clock()

    def show(now_s: float) -> None:
        nonlocal last_s
        if now_s - last_s >= _LINE_EVERY_S:
            last_s = now_s
            words = (state.far(), state.speed(now_s), state.left(now_s))
            print(f"{state.what}: {', '.join(filter(None, words))}", file=sys.stderr, flush=True)  # noqa: T201

    yield show


class StderrHandler(logging.Handler):
    """Log lines on whatever stderr is when they come: while a bar is shown, above the bar.

    `logging.StreamHandler` would keep the stream of its own beginning, and write into the bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201


def _human_rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
