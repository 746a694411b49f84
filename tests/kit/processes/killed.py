"""Runs conversions that kill themselves between two storage calls."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from shard_tool import ConvertOptions, convert
from shard_tool.dataset import publication
from shard_tool.dataset.writer_lock import hold_writer_lock
from shard_tool.storage.location import Folder

if TYPE_CHECKING:
    from collections.abc import Iterator

BEAT_S = 0.2
"""Seconds between two heartbeats in these tests; short, so that a dead process is soon known.

Only the dead are waited for in them, so no beat can come late."""

_CONTEXT = multiprocessing.get_context("forkserver")


def shorten_lock_timeouts() -> None:
    """Let this process take others for dead after 0.4 s."""
    publication.hold_writer_lock = partial(hold_writer_lock, beat_s=BEAT_S, patience=2)  # type: ignore[assignment]


def killed_conversion(options: dict[str, Any], *, call_number: int, when: str) -> bool:
    """Convert in a process that kills itself at one of its storage calls.

    Args:
        options: Of `ConvertOptions`; one worker.
        call_number: The storage call at which it dies, from 0: a publication or a removal.
        when: 'before' or 'after' its effect.

    Returns:
        Whether it was killed; False where there are not so many calls.
    """
    _CONTEXT.set_forkserver_preload(["tests.kit.processes.killed", "s3fs"])
    process = _CONTEXT.Process(target=_convert_and_die, args=(options, call_number, when))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL), f"exit status {process.exitcode}"
    return process.exitcode != 0


def _convert_and_die(options: dict[str, Any], call_number: int, when: str) -> None:
    shorten_lock_timeouts()
    num_calls = 0

    def reached(place: str, number: int) -> None:
        if (place, number) == (when, call_number):
            os.kill(os.getpid(), signal.SIGKILL)

    def counted() -> int:
        nonlocal num_calls
        num_calls += 1
        return num_calls - 1

    def around(call: Any) -> Any:
        def wrapped(folder: Folder, *arguments: Any, **options: Any) -> Any:
            number = counted()
            reached("before", number)
            result = call(folder, *arguments, **options)
            reached("after", number)
            return result

        return wrapped

    publish = Folder.publish

    @contextmanager
    def wrapped_publish(folder: Folder, name: str, **options: Any) -> Iterator[Any]:
        number = counted()
        with publish(folder, name, **options) as file:
            yield file
            reached("before", number)
        reached("after", number)

    Folder.publish = wrapped_publish  # type: ignore[method-assign, assignment]
    for name in ("remove", "remove_all", "put", "abort_uploads"):
        setattr(Folder, name, around(getattr(Folder, name)))
    convert(ConvertOptions(**{"workers": 1} | options))
