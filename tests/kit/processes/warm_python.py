"""A Python for tests whose processes begin with torch and Lightning imported.

Importing them takes four seconds of CPU, and the tests start some hundred processes. A server
imports them once; `warm_python` is an executable that takes a Python command line as `python` does,
and has the server fork a child that runs it. The child has the caller's arguments, environment,
folder, open files and exit status; signals reach it, SIGKILL of the executable too. It is a process
like any other, but for what was imported before it began, and for its process group, which is its
own.

    subprocess.run([warm_python(), "scripts/train.py", "fit"], env={...})

With its folder first on PATH, a shell script's `python` and `shard-tool` are warm ones. torchrun
starts its ranks with the executable that PYTHON_EXEC names, multiprocessing what it spawns with the
one of `multiprocessing.set_executable`.

The first caller starts the server. All processes of a run of pytest share it; it ends with them.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)

_FOLDER = "VOC_SHARDS_WARM_PYTHON"
"""Environment variable: the folder of the executables, for the processes that pytest starts."""
_PROGRAMS = {"python": [], "shard-tool": ["-m", "shard_tool.cli.app"], "python-of-pytest": []}
"""Names of executables to what stands before their arguments."""
_FOR_IMPORTS = {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "DASK_CONFIG": "none",  # nothing that this machine has configured
}
"""Environment of the server. What libraries read as they are imported is fixed by it."""

# An executable: plain sockets and no imports of ours, so that it starts in 20 ms.
_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
if "resource_tracker" in sys.argv[-1]:  # of multiprocessing: it imports next to nothing
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
def connect():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect({address!r})
    return connection
def start_and_connect():
    import fcntl, subprocess
    with open({address!r} + ".lock", "w") as lock, open({address!r} + ".log", "ab") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return connect()
        except OSError:  # nobody was faster
            streams = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
            process = subprocess.Popen(
                {server!r}, env={environment!r}, cwd={root!r}, start_new_session=True, **streams
            )
            if process.stdout.readline() != b"ready\\n":
                sys.exit("no warm Python: " + open(log.name).read())
            return connect()
try:
    server = connect()
except OSError:
    server = start_and_connect()
files = [0, 1, 2]
for number in map(int, os.listdir("/proc/self/fd")):
    try:
        if number > 2 and os.get_inheritable(number):
            files.append(number)
    except OSError:
        pass
call = {{"argv": {first!r} + sys.argv[1:], "executable": {program!r}, "files": files}}
call |= {{"env": dict(os.environ), "cwd": os.getcwd(), "cores": [*os.sched_getaffinity(0)]}}
call = json.dumps(call).encode()
socket.send_fds(server, [len(call).to_bytes(8, "little")], files)
server.sendall(call)
for number in files[3:]:
    os.close(number)
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
    """The path of the executable."""
    if _FOLDER not in os.environ:
        folder = tempfile.mkdtemp(prefix="warm-python-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _make_programs(Path(folder))
        os.environ[_FOLDER] = folder
    return f"{os.environ[_FOLDER]}/python"


def python_of_pytest() -> str:
    """The path of one for the processes of pytest itself: their `sys.executable` is a cold one."""
    return f"{warm_python()}-of-pytest"


def _make_programs(folder: Path) -> None:
    address = f"{folder}/server"
    server = [sys.executable, "-m", "tests.kit.processes.warm_server", address, str(os.getpid())]
    for name, first in _PROGRAMS.items():
        program = folder / name
        program.write_text(
            _CLIENT.format(
                python=sys.executable,
                address=address,
                first=first,
                program=sys.executable if "pytest" in name else f"{folder}/python",
                server=server,
                environment=os.environ | _FOR_IMPORTS,
                root=str(ROOT),
                forwarded=[int(number) for number in FORWARDED],
            )
        )
        program.chmod(0o755)
