"""Code that a Dask worker runs before anything else, so that it is lost while it writes."""

from __future__ import annotations

KILLED_WHILE_WRITING = """
import os, pathlib, signal

def killed(path, target):
    if ".tar" in path.name and ".partial-" in path.name and not path.name.endswith(".json"):
        os.kill(os.getpid(), signal.SIGKILL)
    return os.replace(path, target)

pathlib.Path.replace = killed
"""
"""It is killed when a shard or an index is written and does not have its name yet."""

KILLED_WHILE_UPLOADING = """
import os, signal
from shard_tool.storage import uploads

async def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

uploads.SINGLE_BYTES = 0
uploads._S3Upload.join = killed
"""
"""It is killed when all parts of an upload are there and not joined yet."""


def stopped_while_writing(folder: object) -> str:
    """It stops itself before the first shard has its name, and notes in a folder how it goes on.

    Args:
        folder: Gets the file ``stopped`` before, with the process id, and ``went-on`` afterwards,
            with what became of it. Between them a test makes the file ``go``, and then continues
            the process.
    """
    return f"""
import os, pathlib, signal, time
from pathlib import Path

folder = Path({str(folder)!r})

def stopped(path, target):
    if ".tar" not in path.name or (folder / "stopped").exists():
        return os.replace(path, target)
    (folder / "stopped").write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)
    while not (folder / "go").exists():  # a signal may reach another thread first
        time.sleep(0.001)
    try:
        os.replace(path, target)
    except OSError as exc:
        (folder / "went-on").write_text(type(exc).__name__)
        raise
    (folder / "went-on").write_text("renamed")

pathlib.Path.replace = stopped
"""
