"""Measures one conversion, or one contender, in a process of its own; prints one line of JSON.

    python -m benchmarks.convert_measure CASE CONTENDER ARCHIVE [--workers 2] [--shard-size 64MiB]

`command` runs whole commands, start-up included. `memory` also samples the memory of all their
processes. `stages` calls the library and times its parts. Before the clock starts, the archive is
read once, so that the page cache is warm for every contender, and earlier writes are flushed to
disk. After the clock has stopped, the result is counted and removed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SET_CHILD_SUBREAPER = 36
"""Of prctl(2): orphans become our children, so that their CPU time is counted."""
INNER = "VOCdevkit/VOC2012"
"""As in `devkits`, which is not imported: until it has executed its own program a child counts with
the memory of this process."""
_CHUNK_BYTES = 8 << 20
_LOOK_EVERY_S = 0.02
_SIZE_KINDS = ("VmHWM", "RssAnon")


def commands_of(contender: str, archive: Path, dest: Path, options: Any) -> list[list[str]]:
    """The commands that a contender runs, one after the other.

    - ours: the command line.
    - script: `tar` extracts, `obvious.py` loops.
    - tar+sha256sum: `tar` copies all members into another archive, `sha256sum` reads that. This
      is the cheapest way to copy the same bytes with tar: it extracts nothing and opens no file
      for each member.
    - tar+openssl: hashes several times as fast if coreutils does not use the CPU's SHA
      instructions.
    - start of …: start-up alone.
    """
    copy = str(dest / "copy.tar")
    tar = ["tar", "--concatenate", f"--file={copy}", str(archive)]
    shard_tool = [sys.executable, "-m", "shard_tool.cli.app"]
    convert = [*shard_tool, "convert", str(archive), str(dest / "voc")]
    workers = ["--workers", str(options.workers), "--shard-size", options.shard_size]
    of: dict[str, list[list[str]]] = {
        "ours": [[*convert, *workers]],
        "script": [
            ["tar", "xf", str(archive), "-C", str(dest)],
            [sys.executable, "-m", "benchmarks.obvious", str(dest / INNER), str(dest / "voc")],
        ],
        "tar+sha256sum": [tar, ["sha256sum", copy]],
        "tar+openssl": [tar, ["openssl", "dgst", "-sha256", copy]],
        "start of ours": [[*shard_tool, "--help"]],
        "start of script": [[sys.executable, "-c", "import webdataset"]],
    }
    return of[contender]


CONTENDERS = (
    *("ours", "script", "tar+sha256sum", "tar+openssl"),
    *("start of ours", "start of script"),
)


def command(archive: Path, dest: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure seconds from the start of the first process to the end of the last."""
    return _run(commands_of(options.contender, archive, dest, options))


def memory(archive: Path, dest: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the same, and the peak memory of the planning and of the writing processes."""
    with _Watch() as watch:
        result = _run(commands_of(options.contender, archive, dest, options))
    return {**result, **watch.summary()}


def stages(archive: Path, dest: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure seconds of scanning the archive, of reading annotations and planning, and of writing.

    Without imports. The scan runs twice: what planning takes is the rest of `prepare`.
    """
    from shard_tool import ConvertOptions, convert
    from shard_tool.convert.run import prepare
    from shard_tool.sources.open import open_source

    wanted = ConvertOptions(source=str(archive), dest=str(dest / "voc"), workers=options.workers)
    begun = time.perf_counter()
    open_source(str(archive))
    scanned = time.perf_counter()
    plan = prepare(wanted)
    planned = time.perf_counter()
    convert(wanted, plan=plan)
    ended = time.perf_counter()
    scan_s, each = scanned - begun, 1e6 / plan.num_records
    return {
        "num_records": plan.num_records,
        "num_shards": plan.num_shards,
        "seconds": ended - scanned,
        "scan_us": scan_s * each,
        "plan_us": (planned - scanned - scan_s) * each,
        "write_us": (ended - planned) * each,
        "us_per_record": (ended - scanned) * each,
    }


def _run(commands: list[list[str]]) -> dict[str, Any]:
    before, begun = _cpu_s(), time.perf_counter()
    for arguments in commands:
        done = subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode:
            message = f"exit {done.returncode}: {done.stderr.decode()[-1500:]}"
            raise RuntimeError(message)
    seconds = time.perf_counter() - begun
    with suppress(ChildProcessError):  # fork servers and workers that ended after the command
        while True:
            os.wait()
    return {"seconds": seconds, "cpu_s": _cpu_s() - before}


def _cpu_s() -> float:
    """CPU seconds of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# Memory -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """Peak memory of one process, as far as it was sampled."""

    role: str
    peak: int = 0
    """VmHWM: bytes of RSS, shared libraries included."""
    anon: int = 0
    """RssAnon: its own."""


class _Watch:
    """Samples the memory of the processes below this one, between enter and exit.

    The first process is the *coordinator*; grandchildren, which a fork server makes, are *workers*.
    The fork server itself and multiprocessing's resource tracker count as *helpers*.
    """

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def summary(self) -> dict[str, Any]:
        """Return the largest figures of each role."""
        roles = {seen.role for seen in self._seen.values()}
        found: dict[str, Any] = {}
        for role in sorted(roles):
            of = [seen for seen in self._seen.values() if seen.role == role]
            most = max(of, key=lambda seen: seen.peak)
            found[role] = {
                "processes": len(of),
                "peak_bytes": most.peak,
                "anon_bytes": max(seen.anon for seen in of),
            }
        return found

    def _look(self) -> None:
        me = os.getpid()
        while not self._stop.wait(_LOOK_EVERY_S):
            for coordinator in _children(me):
                self._note(coordinator, "coordinator")
                for helper in _children(coordinator):
                    self._note(helper, "helper")
                    for worker in _children(helper):
                        self._note(worker, "worker")

    def _note(self, pid: int, role: str) -> None:
        seen = self._seen.setdefault(pid, _Seen(role))  # an orphan keeps its first role
        sizes = _sizes(pid)
        seen.peak = max(seen.peak, sizes.get("VmHWM", 0))
        seen.anon = max(seen.anon, sizes.get("RssAnon", 0))


def _children(pid: int) -> list[int]:
    found = list[int]()
    with suppress(OSError):  # it has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _sizes(pid: int) -> dict[str, int]:
    """Sizes in bytes by kind; empty if the process has just ended or is about to exec."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    found = dict(line.split(":", 1) for line in lines)
    return {kind: int(found[kind].split()[0]) << 10 for kind in _SIZE_KINDS if kind in found}


# Main ---------------------------------------------------------------------------------------


def _warm(path: Path) -> None:
    """Read a file into the page cache and flush pending writes to disk."""
    with path.open("rb", buffering=0) as file:
        while file.read(_CHUNK_BYTES):
            pass
    os.sync()


def _written(dest: Path) -> int:
    """Bytes of the result, without files extracted on the way."""
    result = dest / "voc" if (dest / "voc").exists() else dest
    return sum(path.stat().st_size for path in result.rglob("*") if path.is_file())


CASES = {case.__name__: case for case in (command, memory, stages)}


def main() -> None:
    """Measure one contender in one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-size", default="64MiB")
    options = parser.parse_args()
    ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _warm(options.archive)
    # beside the archive: the same disk for everybody
    with tempfile.TemporaryDirectory(prefix="dest-", dir=options.archive.parent) as name:
        result = CASES[options.case](options.archive, Path(name), options)
        result["written_bytes"] = _written(Path(name))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
