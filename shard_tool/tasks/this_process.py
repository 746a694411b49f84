"""Runs tasks in this process, one after another.

A task runs when it is submitted. So Ctrl-C and errors act at once.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shard_tool.tasks.engines import Engine


class _ThisProcess:
    """Runs each task when it is submitted."""

    def max_in_flight(self) -> int:
        return 1

    def submit(self, function: Callable[..., Any], task: tuple[Any, ...]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*task))
        return future

    def check(self) -> None:
        pass

    def finish(self) -> None:
        pass

    @contextmanager
    def errors(self, label: str) -> Iterator[None]:  # noqa: ARG002  (this engine has no errors of its own)
        yield


@contextmanager
def this_process() -> Iterator[Engine]:
    """Open an engine that needs no other process."""
    yield _ThisProcess()
