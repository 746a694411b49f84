"""Runs a fault proxy in a process of its own, so that it costs a benchmark no time.

`proxy_process` starts it, or by hand
``python -m tests.kit.servers.proxy_process --upstream URL --latency-ms 20``. The process prints
{"url": ...}, answers every line of its standard input with a line of JSON, and ends with that
input. The lines: ``stats``, ``reset``, ``clear``, or a fault such as
``{"kind": "stall", "at": 0.1}``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kit.faults.kinds import (
    Fault,
)
from tests.kit.servers.fault_proxy import fault_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Sign = Callable[[str, str, Mapping[str, str]], Mapping[str, str]]


class ProxyProcess:
    """A proxy in a process of its own, which reads commands and prints answers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url: str = self._answer()["url"]

    def tell(self, command: str | dict[str, Any]) -> dict[str, Any]:
        """Send ``stats``, ``reset``, ``clear`` or the fields of a fault; returns the statistics."""
        assert self._process.stdin is not None
        line = command if isinstance(command, str) else json.dumps(command)
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def proxy_process(
    upstream_url: str, latency_s: float = 0.0, bytes_per_s: float | None = None
) -> Iterator[ProxyProcess]:
    """Run a proxy whose work costs this process no time; it cannot sign."""
    command = [sys.executable, "-m", "tests.kit.servers.proxy_process", "--upstream", upstream_url]
    command += ["--latency-ms", str(latency_s * 1e3)]
    command += ["--mb-per-s", str(bytes_per_s / 1e6)] if bytes_per_s else []
    root = Path(__file__).resolve().parents[3]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, cwd=root, stdin=pipe, stdout=pipe) as process:
        yield ProxyProcess(process)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kit.servers.proxy_process")
    parser.add_argument("--upstream", required=True, help="the URL of the server behind")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of every request")
    parser.add_argument("--mb-per-s", type=float, help="the most one connection gets")
    options = parser.parse_args()
    bytes_per_s = options.mb_per_s and options.mb_per_s * 1e6
    with fault_proxy(options.upstream, options.latency_ms / 1e3, bytes_per_s) as proxy:
        print(json.dumps({"url": proxy.url}), flush=True)  # noqa: T201
        commands = {"stats": lambda: None, "reset": proxy.reset, "clear": proxy.clear}
        for line in map(str.strip, sys.stdin):
            if line in commands:
                commands[line]()
            else:
                proxy.inject(Fault(**json.loads(line)))
            print(json.dumps(proxy.stats()), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main()
