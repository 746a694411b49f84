"""The processes that convert and verify."""

from __future__ import annotations

import os
import signal

import pytest

from shard_tool.errors import ShardToolError
from shard_tool.pool import process_pool


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_an_error_of_ours() -> None:
    with pytest.raises(ShardToolError) as caught, process_pool(2) as pool:
        pool.submit(be_killed).result()
    assert str(caught.value) == (
        "2 workers: a worker process died (killed, or out of memory?); "
        "try fewer workers; a script must call this under `if __name__ == '__main__':`"
    )


def test_one_worker_is_this_process() -> None:
    with process_pool(1) as pool:
        assert pool.submit(os.getpid).result() == os.getpid()


def test_workers_are_other_processes() -> None:
    with process_pool(2) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
