"""A Python for tests whose processes begin with torch and Lightning imported.

Importing them takes four seconds of CPU, and the tests start some hundred processes. A server
imports them once; `warm_python` is an executable that takes a Python command line as `python` does,
and has the server fork a child that runs it. The child has the caller's arguments, environment,
folder, standard streams and exit status; signals reach it, SIGKILL of the executable too. It is a
process like any other, but for what was imported before it began, and for its process group, which
is its own.

    subprocess.run([warm_python(), "scripts/train.py", "fit"], env={...})

With its folder first on PATH, a shell script's `python` and `shard-tool` are warm ones. torchrun
starts its ranks with the executable that PYTHON_EXEC names.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[3]
_IMPORTED = (
    "datamodules.lightning.datamodule",
    "datamodules.lightning.monitor",
    "datamodules.loading.loader",
    "datamodules.preview",
    "pytorch_lightning.cli",
    "s3fs",
    "scripts.train",
    "shard_tool.cli.app",
    "torch.distributed.run",
    "torch.utils.tensorboard",
    "webdataset",
)
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)

_PROGRAMS = {"python": [], "shard-tool": ["-m", "shard_tool.cli.app"]}
"""Names of executables to what stands before their arguments."""

# An executable: plain sockets and no imports of ours, so that it starts in 20 ms.
_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = {{"argv": {first!r} + sys.argv[1:], "executable": {python_program!r}}}
    call |= {{"env": dict(os.environ), "cwd": os.getcwd(), "cores": [*os.sched_getaffinity(0)]}}
    call = json.dumps(call).encode()
    socket.send_fds(server, [len(call).to_bytes(8, "little")], [0, 1, 2])
    server.sendall(call)
    with server.makefile("rb") as answers:
        pid = int(answers.readline())
        for number in {forwarded!r}:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: os.kill(pid, number))
        status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@functools.cache
def warm_python() -> str:
    """The path of the executable; the first call starts the server."""
    folder = tempfile.mkdtemp(prefix="warm-python-")
    address = f"{folder}/server"
    for name, first in _PROGRAMS.items():
        program = Path(folder, name)
        program.write_text(
            _CLIENT.format(
                python=sys.executable,
                address=address,
                first=first,
                python_program=f"{folder}/python",
                forwarded=[int(number) for number in _FORWARDED],
            )
        )
        program.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.kit.processes.warm_python", address]
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=pipe, stdout=pipe)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    atexit.register(_end, server)
    return f"{folder}/python"


def _end(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait(30)


class _Server:
    """Forks children, and tells who asked how they end."""

    def __init__(self, address: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._children: dict[socket.socket, tuple[int, int]] = {}
        """Connection of who asked to (process id, file descriptor of the process)."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(64)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._stop)

    def run(self) -> None:
        """Serve until standard input ends."""
        print("ready", flush=True)  # noqa: T201
        with contextlib.suppress(EOFError):
            while True:
                for key, _ in self._selector.select():
                    if self._selector.get_map().get(key.fd) is key:  # not closed meanwhile
                        key.data()
        for pid, _ in self._children.values():
            os.kill(pid, signal.SIGKILL)

    def _stop(self) -> None:
        raise EOFError

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        head, streams, _, _ = socket.recv_fds(connection, 8, 3)
        if len(head) < 8:
            connection.close()
            return
        with connection.makefile("rb") as incoming:
            length = int.from_bytes(head, "little")
            content = incoming.read(length)
        if len(content) < length:  # the caller was killed
            for stream in streams:
                os.close(stream)
            connection.close()
            return
        call = json.loads(content)
        pid = os.fork()
        if not pid:
            self._become(call, streams, connection)
        for stream in streams:
            os.close(stream)
        ended = os.pidfd_open(pid)
        self._children[connection] = pid, ended
        with contextlib.suppress(OSError):  # gone: its end is seen below
            connection.sendall(f"{pid}\n".encode())
        has_ended = functools.partial(self._has_ended, connection)
        self._selector.register(ended, selectors.EVENT_READ, has_ended)
        who_asked_is_gone = functools.partial(os.kill, pid, signal.SIGKILL)
        self._selector.register(connection, selectors.EVENT_READ, who_asked_is_gone)

    def _has_ended(self, connection: socket.socket) -> None:
        pid, ended = self._children.pop(connection)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(OSError):
            connection.sendall(f"{status}\n".encode())
        for source in (ended, connection):
            self._selector.unregister(source)
        os.close(ended)
        connection.close()

    def _become(
        self, call: dict[str, Any], streams: list[int], connection: socket.socket
    ) -> NoReturn:
        """Be the process that was asked for."""
        self._selector.close()
        for mine in (self._listener, connection, *self._children):
            mine.close()
        for _, ended in self._children.values():
            os.close(ended)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        for number in _FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()  # a group of its own: nobody's `killpg` reaches the tests
        os.sched_setaffinity(0, call["cores"])
        os.chdir(call["cwd"])
        os.environ.clear()
        os.environ.update(call["env"])
        sys.executable = call["executable"]  # what it starts by that begins warm, too
        status = 1
        try:
            _run_as_python(call["argv"])
            status = 0
        except SystemExit as exc:
            status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
            if isinstance(exc.code, str):
                print(exc.code, file=sys.stderr)  # noqa: T201
        except BaseException:  # noqa: BLE001  (as the interpreter does)
            traceback.print_exc()
        _leave(status)


def _run_as_python(arguments: list[str]) -> None:
    """Run ``[-u] -m MODULE …``, ``-c CODE …`` or ``SCRIPT …``."""
    words = [word for word in arguments if word != "-u"] if arguments[0] == "-u" else arguments
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [path for path in sys.path if path not in ("", str(ROOT))]
    if words[0] == "-m":
        again = r".* found in sys.modules after import"  # it is meant to be there
        warnings.filterwarnings("ignore", message=again, category=RuntimeWarning)
        sys.argv, sys.path[:0] = words[1:], [str(Path.cwd()), *paths]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv, sys.path[:0] = ["-c", *words[2:]], ["", *paths]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[:0] = words, [str(Path(words[0]).resolve().parent), *paths]
        runpy.run_path(words[0], run_name="__main__")


def _leave(status: int) -> NoReturn:
    """End as an interpreter does: threads are awaited, exit handlers run."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def main() -> None:
    """Import what takes long, then serve at the address given."""
    for name in _IMPORTED:
        __import__(name)
    gc.freeze()  # children share these pages as long as nobody writes to them
    _Server(sys.argv[1]).run()
    os._exit(0)  # libraries complain about a long good-bye


if __name__ == "__main__":
    main()
