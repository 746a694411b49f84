"""`shard-tool` and conversions in processes of their own; none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kit.processes.warm_python import warm_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARD_TOOL = str(Path(sys.executable).with_name("shard-tool"))

STUCK_AFTER_A_SHARD = """
import sys, time
from shard_tool import ConvertOptions, convert
source, dest, shard_bytes, workers, on_existing = sys.argv[1:]
def get_stuck(at):
    print(at.shards, flush=True)
    time.sleep(300)
options = ConvertOptions(source=source, dest=dest, shard_bytes=int(shard_bytes),
                         workers=int(workers), on_existing=on_existing)
convert(options, on_progress=get_stuck)
"""


def shard_tool(
    *arguments: object, program: str = SHARD_TOOL, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the real entry point, or another program, to its end."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
        **options,
    )


def warm_shard_tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it with all imported, in a process of its own."""
    return shard_tool(*arguments, program=str(Path(warm_python()).with_name("shard-tool")))


def _listen_to_ctrl_c() -> None:
    """A shell lets what it runs in the background ignore SIGINT, and tests inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def group_of_processes(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command with its children in a group; whatever is left of it at the end is killed."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=_listen_to_ctrl_c,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


@contextmanager
def stuck_conversion(
    source: Path, dest: Path, *, shard_bytes: int, workers: int = 1, on_existing: str = "fail"
) -> Iterator[subprocess.Popen[str]]:
    """A conversion that has written its first shard and goes no further in its own process."""
    arguments = [str(source), str(dest), str(shard_bytes), str(workers), on_existing]
    with group_of_processes([sys.executable, "-c", STUCK_AFTER_A_SHARD, *arguments]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        yield process


def group_is_gone(process: subprocess.Popen[str]) -> bool:
    """Whether neither the process nor any child of its group runs; zombies do not count."""
    process.poll()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == process.pid and state != "Z":
                return False
    return True


def eventually(condition: Callable[[], bool], *, deadline_s: float = 20) -> bool:
    """Wait for a condition; False when it did not come true in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
