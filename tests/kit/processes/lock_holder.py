"""Runs a process that holds the writer's lock of a folder, to be stopped, killed or ended.

The process prints ``in`` or ``refused``. Then it answers each line of its standard input with
``held`` or ``lost``, and ends when that input does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shard_tool.dataset.writer_lock import WriterLock, hold_writer_lock
from shard_tool.errors import ObjectExists, StoreError
from shard_tool.storage.location import Folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class LockHolder:
    """The process, spoken to through its standard input and output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.said = self._line()

    def check(self) -> str:
        """Ask whether it still holds the folder: 'held' or 'lost'."""
        assert self._process.stdin is not None
        self._process.stdin.write("check\n")
        self._process.stdin.flush()
        return self._line()

    def stop(self) -> None:
        """Stop it (SIGSTOP)."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue it after `stop`."""
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Let it give the lock back and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=60) == 0

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def lock_holder(
    url: str, options: Mapping[str, Any] | None = None, *, beat_s: float = 0.2, patience: float = 4
) -> Iterator[LockHolder]:
    """Run such a process; if it still runs when the block ends, it is killed."""
    arguments = [url, json.dumps(dict(options or {})), str(beat_s), str(patience)]
    pipe, root = subprocess.PIPE, Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "tests.kit.processes.lock_holder", *arguments]
    process = subprocess.Popen(command, text=True, cwd=root, stdin=pipe, stdout=pipe)
    try:
        yield LockHolder(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


def _answer(lock: WriterLock) -> str:
    try:
        lock.check()
    except StoreError:
        return "lost"
    return "held"


def _main() -> None:
    url, options, beat_s, patience = sys.argv[1:]
    folder = Folder(url, json.loads(options))
    try:
        with hold_writer_lock(folder, beat_s=float(beat_s), patience=float(patience)) as lock:
            print("in", flush=True)  # noqa: T201  (what the test reads)
            for _ in sys.stdin:
                print(_answer(lock), flush=True)  # noqa: T201
    except ObjectExists:
        print("refused", flush=True)  # noqa: T201


if __name__ == "__main__":
    _main()
