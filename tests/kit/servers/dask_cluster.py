"""Runs a real Dask scheduler and real workers, each in a process of its own, over TCP."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kit.processes.shard_tool_process import eventually
from tests.kit.processes.warm_python import warm_python

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
_COMMON = ("--no-dashboard",)
_LOGGING_ALL = """
import logging
from dask.__main__ import main
logging.getLogger("distributed").setLevel("DEBUG")
main()
"""
"""`python -m dask` that logs everything that could show a secret."""


@dataclass(slots=True)
class DaskCluster:
    """A running cluster."""

    folder: Path
    address: str = ""
    pids: list[int] = field(default_factory=list)
    """Process ids of the workers in the order of their start; without the scheduler's."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Name of each worker ('worker-0', 'worker-1', …) to its address."""
    scheduler_pid: int = 0

    def logs(self) -> str:
        """What the scheduler and the workers have logged so far."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


@contextmanager
def dask_cluster(
    folder: Path, workers: int = 2, *, preload: str = "", scheduler_preload: str = ""
) -> Iterator[DaskCluster]:
    """Run a scheduler and workers of one thread each; nothing restarts a killed worker.

    Args:
        folder: Where logs and spilled data go; made where it is missing.
        workers: How many workers are connected when the block begins.
        preload: Python code that each worker runs first.
        scheduler_preload: Python code that the scheduler runs first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cluster = DaskCluster(folder)
    with ExitStack() as stack:
        scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", *_COMMON]
        scheduler += _preload(folder / "scheduler_preload.py", scheduler_preload)
        stack.enter_context(_dask(scheduler, folder / "scheduler.log"))
        cluster.address = _said(folder / "scheduler.log", r"Scheduler at:\s+(tcp://\S+)")
        cluster.scheduler_pid = _pid_of(folder / "scheduler.log")
        for number in range(workers):
            stack.enter_context(add_worker(cluster, f"worker-{number}", preload=preload))
        yield cluster


@contextmanager
def add_worker(cluster: DaskCluster, name: str, *, preload: str = "") -> Iterator[int]:
    """Let one more worker join; yields its process id."""
    folder = cluster.folder
    command = ["worker", cluster.address, "--nthreads", "1", "--no-nanny", "--name", name]
    command += ["--local-directory", str(folder), "--death-timeout", "60", *_COMMON]
    command += _preload(folder / f"{name}_preload.py", preload)
    with _dask(command, folder / f"{name}.log"):
        _said(folder / f"{name}.log", r"Registered to:\s+(tcp://\S+)")
        cluster.addresses[name] = _said(folder / f"{name}.log", r"Start worker at:\s+(tcp://\S+)")
        cluster.pids.append(_pid_of(folder / f"{name}.log"))
        yield cluster.pids[-1]


def _preload(path: Path, code: str) -> list[str]:
    if not code:
        return []
    path.write_text(code)
    return ["--preload", str(path)]


@contextmanager
def _dask(command: list[str], log: Path) -> Iterator[None]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # workers import the tests' functions
    with log.open("wb") as output:
        process = subprocess.Popen(
            [warm_python(), "-c", _LOGGING_ALL, *command, "--pid-file", log.with_suffix(".pid")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
        )
    with process:
        try:
            yield
        finally:
            process.kill()


def _pid_of(log: Path) -> int:
    """The process that has this log."""
    return int(log.with_suffix(".pid").read_text())


def _said(log: Path, pattern: str) -> str:
    """Wait until a process has logged a line; what the pattern's group matches in it."""
    found = None

    def is_there() -> bool:
        nonlocal found
        found = re.search(pattern, log.read_text())
        return found is not None

    assert eventually(is_there, deadline_s=60), log.read_text()
    assert found is not None
    return found[1]
