"""Runs measurements in processes of their own, in turns, and records on what machine they ran."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).absolute().parents[1]
PACKAGES = (
    *("torch", "torchvision", "numpy", "simplejpeg", "pillow", "fsspec", "s3fs"),
    *("webdataset", "litdata", "mosaicml-streaming", "boto3", "obstore", "opencv-python-headless"),
    *("datasets", "albumentations", "kornia", "nvidia-dali-cuda130", "msgspec", "ijson"),
)
TIMEOUT_S = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One thing to measure: a case for one contender."""

    label: str
    """Name of the row."""
    case: str
    contender: str
    data: Path
    options: tuple[str, ...] = ()
    module: str = "benchmarks.measure"
    """Module to run as `python -m MODULE CASE CONTENDER DATA [options]`; prints JSON at the end."""


@dataclass(slots=True)
class Row:
    """All runs of one job."""

    label: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """Values of one figure in every run; 'first.epoch_s' names a nested one."""
        found = list[float]()
        for run in self.runs:
            value: Any = run
            for part in name.split("."):
                value = value[part]
            found.append(float(value))
        return found

    def median(self, name: str) -> float:
        """Median of one figure over the runs; NaN if there are none."""
        values = self.values(name)
        return statistics.median(values) if values else float("nan")


def run(job: Job) -> dict[str, Any]:
    """Run one measurement.

    Raises:
        RuntimeError: It failed; the message has the end of its stderr.
    """
    command = [sys.executable, "-m", job.module, job.case, job.contender, str(job.data)]
    busy = _busy_s()
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, *job.options], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    if done.returncode:
        message = f"{job.label}: exit {done.returncode}: {done.stderr.strip()[-1500:]}"
        raise RuntimeError(message)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**result, "process_s": time.perf_counter() - begun, "machine_busy_s": _busy_s() - busy}


def in_turns(jobs: Sequence[Job], runs: int) -> list[Row]:
    """Run every job `runs` times, in turns, and start each turn with another job."""
    rows = {job.label: Row(job.label) for job in jobs}
    for number in range(runs):
        turn = number % len(jobs)
        for job in [*jobs[turn:], *jobs[:turn]]:
            add(rows[job.label], job)
    return list(rows.values())


def add(row: Row, job: Job) -> dict[str, Any] | None:
    """Run a job and record its result or its error."""
    try:
        result = run(job)
    except (RuntimeError, subprocess.TimeoutExpired) as exc:
        row.errors.append(str(exc))
        print(f"  {job.label}: FAILED: {str(exc)[-300:]}", file=sys.stderr, flush=True)
        return None
    row.runs.append(result)
    shown = {k: round(v, 3) for k, v in result.items() if isinstance(v, float)}
    print(f"  {job.label}: {shown}", file=sys.stderr, flush=True)
    return result


def spread(values: Iterable[float]) -> str:
    """Lowest to highest, as text."""
    found = sorted(values)
    return f"{found[0]:,.4g} to {found[-1]:,.4g}" if found else "none"


def circumstances() -> dict[str, Any]:
    """Hardware, versions and commit, without which a figure means nothing."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": _git("status", "--porcelain", "--", "shard_tool", "datamodules"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "hardware": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((ln.split(":", 1)[1].strip() for ln in lines if ln.startswith("model name")), "?")


def _busy_s() -> float:
    """Seconds since boot in which cores were busy or taken by the hypervisor."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
