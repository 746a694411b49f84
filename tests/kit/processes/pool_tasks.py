"""Functions that pools run; other processes import them by name."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from shard_tool.errors import BoxError
from tests.kit.processes.shard_tool_process import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shard_tool.storage.location import Folder


def square(number: int) -> int:
    return number * number


def process_id() -> int:
    return os.getpid()


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_at(number: int, bad: int) -> int:
    if number == bad:
        raise BoxError("Annotations/1.xml", 1, "dog", (1.0, 2.0, 501.0, 4.0), (500, 375))
    return number


def fail_with(folder: Folder, options: dict[str, str]) -> None:
    raise OSError(f"{folder} with {len(options)} options")


def wait_for_go(number: int, folder: Path, options: dict[str, str] | None = None) -> int:
    """Write this process's id into ``NUMBER.begun``; end when ``go`` or ``NUMBER.go`` is there."""
    (folder / f"{number}.begun").write_text(str(os.getpid()))
    end = time.monotonic() + 60
    while not ((folder / "go").exists() or (folder / f"{number}.go").exists()):
        if time.monotonic() > end:
            raise TimeoutError(f"nobody lets task {number} go")
        time.sleep(0.01)
    (folder / f"{number}.done").touch()
    return number


def let_one_go(folder: Path) -> None:
    """Let the task that starts first end, while the caller waits for its result."""

    def let_go() -> None:
        assert eventually(lambda: bool(numbers_of(folder, "begun")))
        number = min(numbers_of(folder, "begun"))
        (folder / f"{number}.go").touch()

    threading.Thread(target=let_go).start()


def leave_while_tasks_run(
    leave: Callable[[], object], is_stopped: Callable[[], bool], folder: Path
) -> None:
    """Leave a run of `wait_for_go`, and check that it waits for exactly the running tasks.

    Args:
        leave: Leaves the run; must wait for its tasks, which end when this function says go.
        is_stopped: Tells whether every worker has been told to start no more tasks.
        folder: The folder of the tasks.
    """
    leaving = threading.Thread(target=leave)
    leaving.start()
    try:
        assert eventually(is_stopped)
        leaving.join(timeout=1)  # time for one that does not wait to show it
        assert leaving.is_alive(), "left while tasks run"
    finally:
        (folder / "go").touch()
        leaving.join(timeout=60)
    assert numbers_of(folder, "begun") == numbers_of(folder, "done")


def numbers_of(folder: Path, state: str) -> set[int]:
    """The numbers of the tasks of `wait_for_go` in a state: 'begun' or 'done'."""
    return {int(path.stem) for path in folder.glob(f"*.{state}")}
