"""Runs coroutines in the loop thread of fsspec, of which each process has one."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.asyn import AsyncFileSystem, get_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")

_CLEANUP_S = 10.0
"""Seconds an interrupted request may take to undo what it began."""
_AWAKE_S = 1.0
"""Longest wait in one call: Python handles signals only between calls."""


def coroutine_of(fs: Any, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return a method as a coroutine function; a synchronous file system's runs in a thread."""
    if isinstance(fs, AsyncFileSystem):
        method: Callable[..., Coroutine[Any, Any, Any]] = getattr(fs, f"_{name}")
        return method
    return partial(asyncio.to_thread, getattr(fs, name))


def is_s3(fs: Any) -> bool:
    """Tell whether a file system is s3fs's."""
    return "s3" in protocols(fs)


def protocols(fs: Any) -> tuple[str, ...]:
    """Return the protocols of a file system."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def loop_of(fs: Any) -> asyncio.AbstractEventLoop:
    """Return the loop that a file system's coroutines run in."""
    loop: asyncio.AbstractEventLoop = getattr(fs, "loop", None) or get_loop()
    return loop


def run(fs: Any, function: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine in the loop thread and wait for it.

    Unlike fsspec's `sync`, Ctrl-C cancels it and waits a little for its cleanup.
    """
    loop, has_ended, tasks = loop_of(fs), threading.Event(), list[asyncio.Task[_T]]()

    def start() -> None:
        tasks.append(loop.create_task(function()))
        tasks[0].add_done_callback(lambda _: has_ended.set())

    loop.call_soon_threadsafe(start)
    try:
        while not has_ended.wait(_AWAKE_S):
            pass
    except BaseException:
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())
        has_ended.wait(_CLEANUP_S)
        raise
    return tasks[0].result()


async def together(coroutines: list[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Await all coroutines; the first that fails cancels the others and waits for them."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
