"""Defines the protocol of an engine, the place where tasks run, and checks an engine's name.

There are three engines: `this_process`, `local_processes` and `dask_cluster`. Each is a
`concurrent.futures` executor behind the same few calls, and each is opened as a context. An engine
does not know what its tasks do. Results do not depend on which engine ran them.
"""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING, Any, Protocol

from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

LOCAL = "local"
_DASK_ADDRESS = re.compile(r"(tcp|tls)://\S+:\d+")


def check_engine(engine: str) -> None:
    """Refuse an engine that cannot be opened.

    Args:
        engine: 'local', or the address of a Dask scheduler.

    Raises:
        OptionError: The name is neither, or Dask is not installed.
    """
    if engine == LOCAL:
        return
    if not _DASK_ADDRESS.fullmatch(engine):
        hint = "give 'local', or a Dask scheduler as 'tcp://host:8786'"
        raise OptionError("--engine", f"{engine!r} is no engine", hint)
    if importlib.util.find_spec("distributed") is None:
        raise OptionError("--engine", f"{engine!r} needs Dask", "pip install 'voc-shards[dask]'")


class Engine(Protocol):
    """Runs the tasks of one pool."""

    def max_in_flight(self) -> int:
        """How many tasks may be submitted and unfinished at a time; at least 1."""

    def submit(self, function: Callable[..., Any], task: tuple[Any, ...]) -> Future[Any]:
        """Call `function` with the arguments in `task`, now or later."""

    def check(self) -> None:
        """Raise an error if no result can come any more; the pool calls this while it waits."""

    def finish(self) -> None:
        """Start no more tasks and wait for those that run; Ctrl-C ends the waiting."""

    def errors(self, label: str) -> AbstractContextManager[None]:
        """Turn the engine's own errors into ours; the task called `label` keeps its errors."""
