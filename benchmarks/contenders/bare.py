"""No pipeline at all: what the machine can do with these bytes, as the measure of the others."""

from __future__ import annotations

import mmap
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.multiprocessing as mp

from benchmarks.work import WORKERS, Passes, pixels_only, prepared
from shard_tool.format.tar import ShardIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.synchronize import Barrier

    from benchmarks.data import Data


def raw(data: Data) -> Iterable[dict[str, Any]]:
    """Every sample's bytes in one slice, shard by shard: nothing is looked at."""
    return Passes(lambda: _slices(data))


def decode_rates(data: Data, num_excluded: int) -> dict[str, float]:
    """Samples a second of both cores together, with boxes and without; CPU time of a sample."""
    samples = [(jpeg, text) for _, jpeg, text in data.samples()]
    rate, cpu = _rate(samples, num_excluded, _with_boxes)
    pixels_rate, pixels_cpu = _rate(samples, num_excluded, _without_boxes)
    return {
        "samples_per_s": rate,
        "cpu_us": cpu,
        "pixels_only_per_s": pixels_rate,
        "pixels_only_cpu_us": pixels_cpu,
    }


def _slices(data: Data) -> Iterator[dict[str, Any]]:
    for path in data.shard_paths():
        index = path.with_name(path.name + ".idx").read_bytes()
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        parsed = ShardIndex.from_bytes(index, place=str(path), shard_bytes=len(mapped))
        starts = parsed.starts.tolist()
        for start, stop in pairwise(starts):
            yield {"jpg": mapped[start:stop], "json": b""}


def _with_boxes(sample: tuple[bytes, bytes]) -> None:
    prepared(*sample)


def _without_boxes(sample: tuple[bytes, bytes]) -> None:
    pixels_only(sample[0])


def _rate(
    samples: list[tuple[bytes, bytes]],
    num_excluded: int,
    work: Callable[[tuple[bytes, bytes]], None],
) -> tuple[float, float]:
    """(samples a second, CPU µs a sample); each process leaves out its first ones.

    The rate is of all samples over the time of the slower process.
    """
    context = mp.get_context("fork")
    barrier, results = context.Barrier(WORKERS), context.SimpleQueue()
    skipped = num_excluded // WORKERS
    processes = [
        context.Process(
            target=_loop, args=(samples[number::WORKERS], skipped, work, barrier, results)
        )
        for number in range(WORKERS)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    counted = len(samples) - skipped * WORKERS
    seconds, cpu_s = max(wall for wall, _ in found), sum(cpu for _, cpu in found)
    return counted / seconds, cpu_s / counted * 1e6


def _loop(
    samples: list[tuple[bytes, bytes]],
    num_excluded: int,
    work: Callable[[tuple[bytes, bytes]], None],
    barrier: Barrier,
    results: Any,
) -> None:
    torch.set_num_threads(1)  # as in a DataLoader's worker
    for sample in samples[:num_excluded]:
        work(sample)
    barrier.wait()
    start, cpu = time.perf_counter(), time.process_time()
    for sample in samples[num_excluded:]:
        work(sample)
    results.put((time.perf_counter() - start, time.process_time() - cpu))
