"""The server of warm processes outlasts callers that are killed."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.kit.processes.warm_python import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LIMIT_S = 60
_IMPORTS_NOTHING = "from tests.kit.processes import warm_server as w; w._IMPORTED = (); w.main()"


class Server:
    """A server that imports nothing before it serves."""

    def __init__(self, folder: Path) -> None:
        self._address, pipe = str(folder / "server"), subprocess.PIPE
        self.owner = subprocess.Popen(["sleep", "infinity"])
        command = [sys.executable, "-c", _IMPORTS_NOTHING, self._address, str(self.owner.pid)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=pipe)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def ask(self, code: str, *, stdin: int = 0, part: slice = slice(None)) -> socket.socket:
        """Send a call, or a part of it, as the executable does."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_LIMIT_S)
        connection.connect(self._address)
        cores = [*os.sched_getaffinity(0)]
        call = {"argv": ["-c", code], "executable": sys.executable, "env": {}, "cwd": str(ROOT)}
        call |= {"cores": cores, "files": [0, 1, 2]}
        content = json.dumps(call).encode()
        socket.send_fds(connection, [len(content).to_bytes(8, "little")], [stdin, 1, 2])
        connection.sendall(content[part])
        return connection

    def assert_serves(self) -> None:
        with self.ask("raise SystemExit(7)") as connection, connection.makefile() as answers:
            assert int(answers.readline()) > 0
            assert answers.readline() == "7\n"

    @contextmanager
    def busy(self) -> Iterator[None]:
        """The server sees nothing meanwhile, and then all at once."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.owner.kill()
    server.owner.wait()
    server.process.communicate(timeout=_LIMIT_S)
    assert server.process.returncode == 0


def test_a_caller_that_is_killed_in_the_middle_of_its_call_ends_no_server(server: Server) -> None:
    server.ask("pass", part=slice(9)).close()
    server.assert_serves()


def test_a_caller_that_is_killed_right_after_its_call_ends_no_server(server: Server) -> None:
    with server.busy():
        server.ask("pass").close()
    server.assert_serves()


@pytest.mark.parametrize("first", ["child", "caller"])
def test_a_caller_that_is_killed_as_its_child_ends_ends_no_server(
    server: Server, first: str
) -> None:
    reading, writing = os.pipe()
    connection = server.ask("import sys; sys.stdin.read()", stdin=reading)
    os.close(reading)
    ended = os.pidfd_open(int(connection.recv(20)))
    with server.busy():
        if first == "caller":
            connection.close()
        os.close(writing)
        assert select.select([ended], [], [], _LIMIT_S)[0]
        connection.close()
    os.close(ended)
    server.assert_serves()
