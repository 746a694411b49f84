"""Measures the memory of workers over an epoch, and the cost of a huge manifest (case 5)."""

from __future__ import annotations

import os
import pickle
import statistics
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shard_tool.format.manifest import Manifest, ShardEntry, Split, encode_manifest
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.release import RELEASE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.data import Data

_KINDS = ("RssAnon", "RssFile", "RssShmem")
_PERIOD_S = 0.05


class Watch:
    """Samples the memory of this process's children, between enter and exit.

    RSS has three parts: *anon* is the process's own; *file* is the page cache of mapped shards,
    which the kernel takes back when it likes; *shmem* is batches on their way to the parent.
    """

    def __init__(self) -> None:
        self.seen: dict[int, list[tuple[float, dict[str, int]]]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def summary(self) -> list[dict[str, Any]]:
        """Of each worker: MiB at each tenth of its life, and the peak."""
        return [_summary(seen) for seen in self.seen.values() if len(seen) >= 10]

    def _watch(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            for pid in _children(os.getpid()):
                if (found := _memory(pid)) and found["RssAnon"]:
                    self.seen.setdefault(pid, []).append((time.perf_counter(), found))


def fill(folder: Path, data: Data, times: int) -> None:
    """Make a dataset `times` as large from hard links: each shard under several names."""
    if (folder / "manifest.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    manifest = data.manifest()
    split, entries = manifest.splits["train"], list[ShardEntry]()
    for number in range(times):
        for entry in split.shards:
            name = entry.name.replace("train-", f"train-{number}")
            for suffix in ("", ".idx"):
                (folder / f"{name}{suffix}").hardlink_to(data.shards / f"{entry.name}{suffix}")
            entries.append(replace(entry, name=name))
    _write(folder, replace(manifest, splits={"train": _split(entries)}))


def fill_huge(folder: Path, num_shards: int) -> int:
    """Write a manifest of shards that do not exist; return its size in bytes."""
    path = folder / "manifest.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        digests = np.random.default_rng(0).bytes(64 * num_shards).hex()
        entries = [
            ShardEntry(
                name=f"train-{number:07d}.tar",
                num_samples=1800 + number % 7,
                num_bytes=(64 << 20) - 10240 * (number % 5),
                sha256=digests[128 * number : 128 * number + 64],
                index_sha256=digests[128 * number + 64 : 128 * number + 128],
            )
            for number in range(num_shards)
        ]
        manifest = Manifest(
            name="huge",
            task="detection",
            classes={name: label for label, name in enumerate(VOC_CLASSES, start=1)},
            sources=(),
            release=RELEASE,
            options={},
            splits={"train": _split(entries)},
        )
        _write(folder, manifest)
    return path.stat().st_size


def startup(folder: Path) -> dict[str, Any]:
    """What opening a dataset costs: seconds, memory, what travels to a spawned worker."""
    from datamodules import ShardDataset

    before = _memory(os.getpid())["RssAnon"]
    begun = time.perf_counter()
    dataset = ShardDataset(str(folder), "train")
    opened = time.perf_counter()
    after = _memory(os.getpid())
    order = dataset.order(1, 8).epoch(0)
    order.locate(np.arange(32))
    planned = time.perf_counter()
    sent = pickle.dumps(dataset)
    pickled = time.perf_counter()
    pickle.loads(sent)
    return {
        "open_s": opened - begun,
        "first_positions_s": planned - opened,
        "pickle_s": pickled - planned,
        "unpickle_s": time.perf_counter() - pickled,
        "pickled_bytes": len(sent),
        "rss_anon_added_mib": (after["RssAnon"] - before) >> 20,
        "peak_mib": _peak_mib(),
        "num_samples": dataset.num_samples,
    }


def _split(entries: list[ShardEntry]) -> Split:
    return Split(
        shards=tuple(entries),
        num_samples=sum(entry.num_samples for entry in entries),
        num_bytes=sum(entry.num_bytes for entry in entries),
        objects={},
        difficult={},
    )


def _write(folder: Path, manifest: Manifest) -> None:
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))


def _summary(seen: list[tuple[float, dict[str, int]]]) -> dict[str, Any]:
    tenths = [seen[len(seen) * i // 10 : len(seen) * (i + 1) // 10] for i in range(10)]
    found: dict[str, Any] = {
        kind: [_mib(statistics.median(m[kind] for _, m in tenth)) for tenth in tenths]
        for kind in _KINDS
    }
    found["Rss"] = [_mib(statistics.median(sum(m.values()) for _, m in tenth)) for tenth in tenths]
    found["peak"] = _mib(max(sum(m.values()) for _, m in seen))
    return found


def _mib(num_bytes: float) -> float:
    return round(num_bytes / (1 << 20), 1)


def cpu_seconds() -> float:
    """CPU seconds that this process and its children have used so far, in all threads."""
    ticks = 0
    for pid in (os.getpid(), *_children(os.getpid())):
        with suppress(OSError):  # it has just ended
            # after the name, which may hold anything: fields 14 and 15 of proc(5)
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> Iterable[int]:
    found = list[int]()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def _memory(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return {}
    found = dict(line.split(":", 1) for line in lines)
    return {kind: int(found.get(kind, "0 kB").split()[0]) << 10 for kind in _KINDS}


def _peak_mib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return int(found["VmHWM"].split()[0]) >> 10
