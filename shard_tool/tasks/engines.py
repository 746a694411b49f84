"""Where tasks run: in this process, in processes of this machine, or on a Dask cluster.

Each engine is a `concurrent.futures` executor behind the same few calls, and is opened as a context
that yields it. None knows what its tasks do; results do not depend on who ran them.
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
    """Refuse an engine nobody can open.

    Raises:
        OptionError: It is no engine, or what it needs is not installed.
    """
    if engine == LOCAL:
        return
    if not _DASK_ADDRESS.fullmatch(engine):
        hint = "give 'local', or a Dask scheduler as 'tcp://host:8786'"
        raise OptionError("--engine", f"{engine!r} is no engine", hint)
    if importlib.util.find_spec("distributed") is None:
        raise OptionError("--engine", f"{engine!r} needs Dask", "pip install 'voc-shards[dask]'")


class Engine(Protocol):
    """What a pool asks of the place where its tasks run."""

    def room(self) -> int:
        """How many tasks to have submitted at a time, at least 1."""

    def submit(self, function: Callable[..., Any], task: tuple[Any, ...]) -> Future[Any]:
        """Have `function` called with the arguments in `task`."""

    def check(self) -> None:
        """Called while nothing comes back; raises where nothing ever will."""

    def finish(self) -> None:
        """Begin no task more, and wait for those that have begun. A Ctrl-C ends the waiting."""

    def errors(self, label: str) -> AbstractContextManager[None]:
        """Turn errors of the engine, not of the task called `label`, into ours."""
