"""Workers end when their parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kit.processes.shard_tool_process import eventually

ROOT = Path(__file__).resolve().parents[3]

KILLED = """
import multiprocessing, os, signal, sys, time
from datamodules import ShardDataset, ShardLoader, presets

# Of 29 pictures 17 are asked for: a worker that is done with all it has may end before.
dataset = ShardDataset(sys.argv[1], "train", transform=presets.detection_eval(160))
batches = iter(ShardLoader(dataset, 1, num_workers=2, prefetch_factor=8))
next(batches)
time.sleep(2)  # all others are made, and more than a pipe holds
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_workers_of_a_killed_process_end_too(mini_dataset: Path) -> None:
    """Until they do, they hold its sockets open, and other ranks wait for a dead rank."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(mini_dataset)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert (process.wait(60), len(workers)) == (-signal.SIGKILL, 2)
    try:
        assert eventually(lambda: not any(map(is_running, workers)), deadline_s=60)
    finally:
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
