"""The server behind `warm_python`: imports what takes long, and forks a process for each caller.

``python -m tests.kit.processes.warm_server ADDRESS OWNER`` serves at a socket of this path until
the process of this id has ended.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import json
import multiprocessing
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
import types
import warnings
from pathlib import Path
from typing import Any, NoReturn

from botocore.session import Session

from tests.kit.processes.warm_python import FORWARDED, ROOT
from tests.kit.servers.s3 import REGION

_IMPORTED = (
    "datamodules.lightning.datamodule",
    "datamodules.lightning.monitor",
    "datamodules.loading.loader",
    "datamodules.presets",
    "datamodules.preview",
    "distributed.cli.dask_scheduler",
    "distributed.cli.dask_worker",
    "pytorch_lightning.cli",
    "s3fs",
    "scripts.train",
    "shard_tool.cli.app",
    "torch.distributed.run",
    "torch.utils.tensorboard",
    "webdataset",
)
_MAX_FILES = 250
"""That one message of a socket can carry."""


class _Server:
    """Forks children, and tells who asked how they end."""

    def __init__(self, address: str, owner: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._children: dict[socket.socket, tuple[int, int]] = {}
        """Connection of who asked to (process id, file descriptor of the process)."""
        self._owner = os.pidfd_open(owner)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{address}.{os.getpid()}")
        self._listener.listen(64)
        Path(f"{address}.{os.getpid()}").replace(address)  # now who connects is served
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._owner, selectors.EVENT_READ, self._stop)

    def run(self) -> None:
        """Serve until the owner has ended."""
        with contextlib.suppress(BrokenPipeError):  # who started this was killed
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
        head, files, _, _ = socket.recv_fds(connection, 8, _MAX_FILES)
        if len(head) < 8:
            connection.close()
            return
        with connection.makefile("rb") as incoming:
            length = int.from_bytes(head, "little")
            content = incoming.read(length)
        if len(content) < length:  # the caller was killed
            for file in files:
                os.close(file)
            connection.close()
            return
        call = json.loads(content)
        pid = os.fork()
        if not pid:
            self._become(call, files, connection)
        for file in files:
            os.close(file)
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
        self, call: dict[str, Any], files: list[int], connection: socket.socket
    ) -> NoReturn:
        """Be the process that was asked for."""
        self._selector.close()
        for mine in (self._listener, connection, *self._children):
            mine.close()
        for ended in (self._owner, *[ended for _, ended in self._children.values()]):
            os.close(ended)
        _give_numbers(files, call["files"])
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()  # a group of its own: nobody's `killpg` reaches the tests
        os.sched_setaffinity(0, call["cores"])
        os.chdir(call["cwd"])
        os.environ.clear()
        os.environ.update(call["env"])
        sys.executable = call["executable"]  # what it starts by that begins warm, too
        multiprocessing.set_executable(sys.executable)
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


def _give_numbers(files: list[int], numbers: list[int]) -> None:
    """Let open files have these file descriptors, and no others."""
    free = 1 + max(*files, *numbers)
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, free) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def _run_as_python(arguments: list[str]) -> None:
    """Run ``[options] -m MODULE …``, ``-c CODE …`` or ``SCRIPT …``; options are for no import."""
    words = list(arguments)
    while words[0].startswith("-") and words[0] not in ("-m", "-c"):
        del words[: 2 if words[0] in ("-W", "-X") else 1]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [path for path in sys.path if path not in ("", str(ROOT))]
    again = r".* found in sys.modules after import"  # it is meant to be there
    warnings.filterwarnings("ignore", message=again, category=RuntimeWarning)
    if words[0] == "-m":
        sys.argv, sys.path[:0] = words[1:], [str(Path.cwd()), *paths]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv, sys.path[:0] = ["-c", *words[2:]], ["", *paths]
        main = sys.modules["__main__"] = types.ModuleType("__main__")  # pickle looks into it
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
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
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as in pytest
        for name in _IMPORTED:
            __import__(name)
    Session().create_client("s3", REGION).close()  # it reads the description of S3
    gc.freeze()  # children share these pages as long as nobody writes to them
    _Server(sys.argv[1], int(sys.argv[2])).run()
    os._exit(0)  # libraries complain about a long good-bye


if __name__ == "__main__":
    main()
