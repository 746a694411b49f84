"""Progress is true and readable, on a terminal and in a log file."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_tool.cli.progress import Pace, StderrHandler, progress

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20


class Clock:
    """Stands still until `wait`."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def walked(*points: tuple[float, int]) -> Pace:
    """Make a pace that began at 0 s and got these reports of (seconds, done)."""
    pace = Pace(0)
    for at_s, done in points:
        pace.report(at_s, done)
    return pace


# --- speed and time left -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "total", "left_s"),
    [
        pytest.param([(0, 0), (4, 400)], 1000, None, id="too early"),
        pytest.param([(0, 0), (5, 500)], 1000, 5, id="five seconds and two percent"),
        pytest.param([(0, 0), (10, 19)], 1000, None, id="less than two percent"),
        pytest.param([(0, 0), (10, 20)], 1000, 490, id="two percent"),
        pytest.param([(0, 0), (60, 6)], 1000, 9940, id="less than two percent, but a minute"),
        pytest.param([(0, 0), (10, 500)], None, None, id="unknown total"),
        pytest.param([(0, 0), (10, 1000)], 1000, None, id="done"),
        pytest.param([(0, 500), (10, 500)], 1000, None, id="no progress"),
        pytest.param([(20, 500)], 1000, 20, id="the first report comes late"),
        pytest.param([], 1000, None, id="no report yet"),
    ],
)
def test_time_left_is_known_only_after_enough_time_and_work(
    points: list[tuple[float, int]], total: int | None, left_s: float | None
) -> None:
    now_s = points[-1][0] if points else 100
    assert walked(*points).left_s(now_s, total) == left_s


def test_speed_is_measured_over_the_recent_past() -> None:
    """Half a minute after a fall from 100 to 10 per second, the old speed does not count."""
    fast = [(float(s), 100 * s) for s in range(601)]
    slow = [(600.0 + s, 60_000 + 10 * s) for s in range(1, 32)]
    pace = walked(*fast, *slow)
    assert pace.rate(631) == pytest.approx(10)
    assert pace.left_s(631, 100_000) == pytest.approx((100_000 - 60_310) / 10)


def test_time_left_grows_while_nothing_happens() -> None:
    pace = walked((0, 0), (10, 500))
    assert [pace.left_s(now_s, 1000) for now_s in (10, 20, 40)] == [10, 20, 40]


def test_rare_reports_in_pairs_give_a_steady_speed() -> None:
    """Two workers finish a shard of 700 samples each minute: 23.3 samples per second."""
    pace = Pace(0)
    for minute in range(1, 60):
        for worker in range(2):
            done = 700 * (2 * minute - 1 + worker)
            pace.report(60.0 * minute + worker, done)
            if minute > 6:
                rates = [pace.rate(60.0 * minute + s) for s in range(worker, worker + 59)]
                assert rates == pytest.approx([1400 / 60] * 59, rel=0.25)


def test_work_of_an_earlier_run_does_not_count_as_speed() -> None:
    resumed = walked((0.3, 600), (10.3, 700))
    assert resumed.rate(10.3) == 10
    assert resumed.left_s(10.3, 1000) == 30


def test_a_falling_count_starts_a_new_measurement() -> None:
    pace = walked((0, 0), (10, 500), (11, 3), (13, 23))
    assert pace.rate(13) == 10
    assert pace.left_s(13, 1000) is None
    pace.report(21, 103)
    assert pace.left_s(21, 1000) == pytest.approx(89.7)


@given(st.floats(0.01, 100), st.floats(0.001, 40), st.integers(3, 200))
def test_a_steady_speed_is_found_for_every_step_size(
    rate: float, step_s: float, steps: int
) -> None:
    pace = Pace(0)
    for step in range(steps):
        pace.report(step * step_s, round(step * step_s * rate * 1e6))
    now_s = (steps - 1) * step_s
    found = pace.rate(now_s)
    if now_s > 1:
        assert found == pytest.approx(rate * 1e6, rel=1e-3)
    else:
        assert found is None


def test_memory_of_points_is_bounded() -> None:
    pace = Pace(0)
    for step in range(20_000):
        pace.report(step / 100, step)
    assert len(pace._points) <= 65
    assert pace.rate(199.99) == pytest.approx(100)


def test_one_thread_may_read_while_another_reports() -> None:
    """The bar reads ten times per second."""
    pace, stopped, wrong = Pace(0), threading.Event(), list[BaseException]()

    def ask() -> None:
        try:
            while not stopped.is_set():
                pace.left_s(1e6, 1000)
        except Exception as exc:  # noqa: BLE001  (whatever it is, the test names it)
            wrong.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    for step in range(30_000):
        pace.report(step, step % 900)
    stopped.set()
    thread.join()
    assert wrong == []


# --- plain lines ---------------------------------------------------------------------------------


def test_a_line_is_printed_every_five_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("converting", unit="samples", clock=clock) as advance:
        for second in range(13):
            advance(50 * second, 5000, f"{second}/99 shards", num_bytes=second * MIB)
            clock.wait(1)
    assert capsys.readouterr() == (
        "",
        "converting: 250/5000 samples, 5/99 shards, 1.0 MiB/s, 2 min left\n"
        "converting: 500/5000 samples, 10/99 shards, 1.0 MiB/s, 2 min left\n",
    )


def test_speed_is_in_samples_without_a_count_of_bytes(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("copying", unit="samples", clock=clock) as advance:
        for _ in range(2):
            advance(int(clock.now_s) - 1000, None)
            clock.wait(6)
    assert capsys.readouterr().err == "copying: 6 samples, 1 samples/s\n"


def test_bytes_are_written_as_sizes(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("downloading a.tar", unit="bytes", clock=clock) as advance:
        advance(600 * MIB, 1000 * MIB)
        clock.wait(10)
        advance(700 * MIB, 1000 * MIB)
    line = "downloading a.tar: 700.0 MiB/1000.0 MiB, 10.0 MiB/s, 30 s left\n"
    assert capsys.readouterr().err == line


def test_a_note_follows_sizes_after_a_comma(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("copying", unit="bytes", clock=clock) as advance:
        clock.wait(20)
        advance(10 * MIB, 40 * MIB, "3/12 shards")
    line = "copying: 10.0 MiB/40.0 MiB, 3/12 shards, 512.0 KiB/s, 60 s left\n"
    assert capsys.readouterr().err == line


def test_a_slow_count_has_two_digits_of_speed(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("verifying", unit="shards", clock=clock) as advance:
        clock.wait(20)
        advance(3, 12)
    assert capsys.readouterr().err == "verifying: 3/12 shards, 0.15 shards/s, 60 s left\n"


def test_another_name_starts_a_new_measurement(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("fetching voc2007", unit="bytes", clock=clock) as advance:
        advance(10 * MIB, 200 * MIB, what="checking b.tar")
        clock.wait(6)
        advance(100 * MIB, 200 * MIB, what="downloading b.tar")
        clock.wait(10)
        advance(150 * MIB, 200 * MIB, what="downloading b.tar")
    assert capsys.readouterr().err.splitlines() == [
        "downloading b.tar: 100.0 MiB/200.0 MiB",
        "downloading b.tar: 150.0 MiB/200.0 MiB, 5.0 MiB/s, 10 s left",
    ]


def test_another_total_starts_a_new_measurement(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 GB on this disk are hashed in seconds; those of the download after them are not."""
    with progress("downloading a.tar", unit="bytes", clock=clock) as advance:
        clock.wait(4)
        advance(900 * MIB, 900 * MIB)
        advance(900 * MIB, 1020 * MIB)
        clock.wait(10)
        advance(910 * MIB, 1020 * MIB)
    line = "downloading a.tar: 910.0 MiB/1020.0 MiB, 1.0 MiB/s, 2 min left\n"
    assert capsys.readouterr().err == line


def test_a_log_gets_plain_lines_even_with_force_color(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many CI systems set FORCE_COLOR. Names are not read as markup."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with progress("reading [red]x[/red] :smile:", unit="files", clock=clock) as advance:
        clock.wait(6)
        advance(6, None)
    assert capsys.readouterr().err == "reading [red]x[/red] :smile:: 6 files, 1 files/s\n"


def test_a_short_job_prints_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("converting", unit="samples", clock=clock) as advance:
        advance(60, 60)
    assert capsys.readouterr() == ("", "")


# --- a terminal ----------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run work with stderr on a pseudoterminal; return what the terminal got."""

    def run(work: Callable[[], None], **environment: str) -> str:
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "LINES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in ({"TERM": "xterm-256color", "COLUMNS": "120"} | environment).items():
            monkeypatch.setenv(name, value)
        ours, theirs = os.openpty()
        with open(theirs, "w", encoding="utf-8") as stderr:  # noqa: PTH123  (a descriptor)
            monkeypatch.setattr(sys, "stderr", stderr)
            work()
        content = b""
        with suppress(OSError):  # how Linux says that the other end is closed
            while block := os.read(ours, 1 << 16):
                content += block
        os.close(ours)
        return content.decode()

    return run


def visible(content: str) -> list[str]:
    """The frames that were drawn, without colours and cursor moves."""
    frames = re.split(r"\r\n|\r|\n", content)
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).strip() for frame in frames]
    return [frame for frame in plain if frame]


COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-9]|9[0-7])(?:;\d+)*m")


def convert_a_little(clock: Clock) -> None:
    with progress("converting [x]", unit="samples", clock=clock) as advance:
        advance(0, 5000, num_bytes=0)
        clock.wait(10)
        advance(1250, 5000, "3/12 shards", num_bytes=5 * MIB)


def test_a_terminal_gets_a_bar_with_the_time_first(clock: Clock, shown: Callable[..., str]) -> None:
    content = shown(lambda: convert_a_little(clock))
    last = visible(content)[-1]
    assert last.startswith("converting [x] ━━━━")
    assert last.endswith("25% 30 s left, 512.0 KiB/s, 1250/5000 samples, 3/12 shards")
    assert COLOURS.search(content)


def test_a_narrow_terminal_cuts_the_end_and_keeps_one_line(
    clock: Clock, shown: Callable[..., str]
) -> None:
    last = visible(shown(lambda: convert_a_little(clock), COLUMNS="70"))[-1]
    assert len(last) <= 70
    assert last.startswith("converting [x] ━━━━")
    assert "25% 30 s left, 512.0 KiB/s" in last
    assert last.endswith("…")


def test_no_color_leaves_out_colours(clock: Clock, shown: Callable[..., str]) -> None:
    content = shown(lambda: convert_a_little(clock), NO_COLOR="1")
    assert "━" in content
    assert not COLOURS.search(content)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    clock: Clock, shown: Callable[..., str]
) -> None:
    assert shown(lambda: convert_a_little(clock), TERM="dumb") == (
        "converting [x]: 1250/5000 samples, 3/12 shards, 512.0 KiB/s, 30 s left\r\n"
    )


def test_a_log_line_stands_above_the_bar(clock: Clock, shown: Callable[..., str]) -> None:
    """For example of a retry: in the bar, neither could be read."""
    logger = logging.getLogger("tests.progress")
    logger.setLevel(logging.INFO)

    def work() -> None:
        with progress("converting", unit="samples", clock=clock) as advance:
            advance(1, 5)
            logger.info("s3://b/x: HTTP 503; next attempt in 1 s")
            advance(2, 5)

    logger.addHandler(handler := StderrHandler())
    try:
        content = shown(work)
    finally:
        logger.removeHandler(handler)
    assert "s3://b/x: HTTP 503; next attempt in 1 s" in visible(content)


def test_log_lines_go_to_the_current_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = StderrHandler()
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "said of %s", ("it",), None))
    assert stderr.getvalue() == "said of it\n"
