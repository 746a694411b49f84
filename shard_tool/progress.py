"""Progress for people, on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LINE_EVERY_S = 5.0


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """Show how far something is while the block runs.

    Yields:
        advance(done, total or None where it is not known, a note such as '33 MiB').
    """
    console = Console(stderr=True)
    with _bar(console, what) if console.is_terminal else _lines(console, what) as advance:
        yield advance


@contextmanager
def _bar(console: Console, what: str) -> Iterator[Callable[[int, int | None, str], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)


@contextmanager
def _lines(console: Console, what: str) -> Iterator[Callable[[int, int | None, str], None]]:
    last = time.monotonic()

    def advance(done: int, total: int | None, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S:
            last = now
            share = f"{done}/{total}" if total is not None else f"{done}"
            console.print(f"{what}: {share} {note}".rstrip(), highlight=False, soft_wrap=True)

    yield advance


def human_bytes(num_bytes: float) -> str:
    """A size for people, in binary units.

    >>> human_bytes(67_108_864)
    '64.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
