"""Measures one contender in one case, in a process of its own; prints one line of JSON.

    python -m benchmarks.measure CASE CONTENDER DATA [more]

Clocks start after imports. The docstring of each case says what else it leaves out.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import augment, contenders, memory
from benchmarks.data import open_data
from benchmarks.servers import Bucket
from benchmarks.work import BATCH, SIZE, WORKERS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from benchmarks.data import Data

EXCLUDED_BATCHES = 20


def make(contender: ModuleType, data: Data, _: argparse.Namespace) -> dict[str, Any]:
    """Write the contender's copy of the data."""
    contender.make(data)
    return {}


def raw(contender: ModuleType, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Samples a second in this process, of first passes over a dataset just opened.

    Opening is left out, and so are the passes over the very first one, which warm the page cache.
    A second pass over each dataset is timed as well: it finds the shards mapped. It goes on for
    `--seconds`; every pass is checked to have all samples.
    """
    passes = [list[_Pass](), list[_Pass]()]
    begun = time.perf_counter()
    while len(passes[0]) < 3 or time.perf_counter() - begun < options.seconds:
        dataset = contender.raw(data)
        for seen in passes:
            seen.append(_timed_pass(dataset, data))
    first, second = (seen[1:] for seen in passes)
    return {
        "samples_per_s": statistics.median(one.rate for one in first),
        "cpu_us": statistics.median(one.cpu_us for one in first),
        "second_pass_per_s": statistics.median(one.rate for one in second),
        "second_pass_cpu_us": statistics.median(one.cpu_us for one in second),
        "passes_per_s": [round(one.rate, 1) for one in first],
    }


class _Pass(NamedTuple):
    rate: float
    """Samples a second."""
    cpu_us: float
    """CPU time of a sample, in all threads."""


def _timed_pass(dataset: Iterable[dict[str, Any]], data: Data) -> _Pass:
    start, cpu = time.perf_counter(), time.process_time()
    num_samples, num_bytes = _drain(dataset)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    _check(num_samples == data.num_samples, f"{num_samples} of {data.num_samples} samples")
    _check(num_bytes >= data.jpeg_bytes, f"{num_bytes} of {data.jpeg_bytes} bytes")
    return _Pass(num_samples / seconds, cpu_s / num_samples * 1e6)


def decode(contender: ModuleType, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Samples a second from the arrival of batch 20 to the last; with both workers' CPU time."""
    excluded = min(EXCLUDED_BATCHES, data.num_samples // BATCH // 2)
    if hasattr(contender, "decode_rates"):
        return dict(contender.decode_rates(data, excluded * BATCH))
    make_loader = contender.native if options.native else contender.batches
    return epoch(make_loader(data), data.num_samples, excluded)


def remote(contender: ModuleType, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Two epochs, the first with an empty cache, from a bucket or (without one) from local files.

    Rates leave out the first 20 batches of each epoch. `first_batch_s` counts from opening the
    dataset; times of day allow the server's log to be read up to there. With `--first-only` that
    is all.
    """
    excluded = min(EXCLUDED_BATCHES, data.num_samples // BATCH // 2)
    begun = time.time()
    if options.bucket:
        bucket = Bucket(**json.loads(options.bucket))
        loader = contender.remote(bucket, options.cache)
    else:
        loader = contender.batches(data)
    if options.first_only:
        _check_batch(*next(iter(loader)))
        return {"begun": begun, "first_batch_s": time.time() - begun}
    first = epoch(loader, data.num_samples, excluded)
    middle = time.time()
    second = epoch(loader, data.num_samples, excluded)
    return {
        "begun": begun,
        "middle": middle,
        "first_batch_s": first["first_batch_at"] - begun,
        "first": first,
        "second": second,
    }


def epoch(loader: Iterable[Any], expected: int, excluded: int) -> dict[str, Any]:
    """One epoch of batches: what it took, and how fast it was after the first ones."""
    cpu = _cpu_seconds()
    start = time.perf_counter()
    num_samples = before = 0
    first = counted = start
    first_at = 0.0
    for number, (images, targets) in enumerate(loader, start=1):
        num_samples += len(images)
        if number == 1:
            first, first_at = time.perf_counter(), time.time()
            _check_batch(images, targets)
        if number == excluded:
            counted, before = time.perf_counter(), num_samples
    stop = time.perf_counter()
    _check(num_samples == expected, f"{num_samples} of {expected} samples")
    return {
        "samples_per_s": (num_samples - before) / (stop - counted),
        "epoch_s": stop - start,
        "first_batch_s": first - start,
        "first_batch_at": first_at,
        "cpu_us": (_cpu_seconds() - cpu) / num_samples * 1e6,
    }


def augmented(contender: ModuleType, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Samples a second after the first batches, for `--seconds`; CPU time of all processes.

    Counted between two batches, of which there are as many of each worker: they come in pairs.
    """
    batches = iter(_augmenting(contender, data, options.augment))
    for _ in range(WORKERS):
        _check_batch(*next(batches))
    num_samples = num_boxes = 0
    start, cpu = time.perf_counter(), memory.cpu_seconds()
    for number, (images, targets) in enumerate(batches, start=1):
        num_samples += len(images)
        num_boxes += sum(len(target["boxes"]) for target in targets)
        if number % WORKERS == 0 and time.perf_counter() - start >= options.seconds:
            break
    seconds, cpu_s = time.perf_counter() - start, memory.cpu_seconds() - cpu
    return {
        "samples_per_s": num_samples / seconds,
        "cpu_us": cpu_s / num_samples * 1e6,
        "boxes_per_picture": num_boxes / num_samples,
        "num_samples": num_samples,
    }


def _augmenting(contender: ModuleType, data: Data, name: str) -> Iterable[Any]:
    """The contender's loader with its own recipe, or with that of a library."""
    if name == "own":
        own: Iterable[Any] = contender.augmented(data)
        return own
    recipe = augment.load(name)
    by_batch = (recipe.ssd_batch,) if hasattr(recipe, "ssd_batch") else ()
    loader: Iterable[Any] = contender.augmented(data, recipe.ssd, *by_batch)
    return loader


def save_state(contender: ModuleType, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Run 90 % of an epoch and keep the state, and beside it what was seen."""
    loader, path = contender.batches(data), options.state
    num_batches, num_samples = int(0.9 * data.num_samples) // BATCH, 0
    for number, (images, _) in enumerate(loader, start=1):
        num_samples += len(images)
        if number == num_batches:
            break
    path.with_suffix(".batches").write_text(str(num_batches))
    path.with_suffix(".samples").write_text(str(num_samples))
    contender.save_state(loader, path)
    return {"num_samples": num_samples}


def resume(contender: ModuleType, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from opening the dataset to the first batch, cold or (given --state) resumed.

    Counts the construction of dataset and loader, loading the state and starting the workers; not
    the interpreter and its imports. A resumed epoch is read to its end, untimed: `missed` is how
    many samples the two parts lack of an epoch (negative: repeated).
    """
    start = time.perf_counter()
    loader = contender.resumed(data, options.state) if options.state else contender.batches(data)
    batches = iter(loader)
    images, targets = next(batches)
    seconds = time.perf_counter() - start
    _check_batch(images, targets)
    result = {"first_batch_s": seconds}
    if options.state:
        seen = int(options.state.with_suffix(".samples").read_text())
        left = len(images) + sum(len(images) for images, _ in batches)
        result["missed"] = data.num_samples - seen - left
    return result


def rss(contender: ModuleType, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """RSS of each worker over one epoch of our dataset, or of one `--times` as large."""
    if options.times > 1:
        larger = data.folder / f"times{options.times}"
        memory.fill(larger / "shards", data, options.times)
        data = replace(data, folder=larger, num_samples=data.num_samples * options.times)
    with memory.Watch() as watch:
        found = epoch(contender.batches(data), data.num_samples, 1)
    return {"epoch_s": found["epoch_s"], "workers": watch.summary()}


def make_huge(_: ModuleType, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Write the manifest that `startup` opens."""
    return {"manifest_bytes": memory.fill_huge(_huge(data, options), options.shards)}


def startup(_: ModuleType, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Opening a dataset whose manifest lists `--shards` shards."""
    return memory.startup(_huge(data, options))


def _huge(data: Data, options: argparse.Namespace) -> Path:
    folder: Path = data.folder / f"huge{options.shards}"
    return folder


def _drain(samples: Iterable[dict[str, Any]]) -> tuple[int, int]:
    num_samples = num_bytes = 0
    for sample in samples:
        jpeg, text = sample["jpg"], sample["json"]
        num_samples += 1
        num_bytes += len(jpeg) + len(text)
    _check(type(jpeg) is bytes and type(text) is bytes, f"not owned bytes: {type(jpeg)}")
    return num_samples, num_bytes


def _check_batch(images: Any, targets: Any) -> None:
    for image in images:
        _check(image.dtype == torch.uint8, str(image.dtype))
        _check(tuple(image.shape) == (3, SIZE, SIZE), str(image.shape))
    _check(len(images) == len(targets), f"{len(images)} pictures, {len(targets)} targets")
    _check(all(target["boxes"].shape[1:] == (4,) for target in targets), "boxes")


def _check(is_so: bool, problem: str) -> None:  # noqa: FBT001  (reads as an assertion)
    if not is_so:
        message = f"the contender did other work: {problem}"
        raise RuntimeError(message)


def _cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, kinds))


CASES = {
    case.__name__: case
    for case in (make, raw, decode, remote, augmented, save_state, resume, rss, make_huge, startup)
}


def main() -> None:
    """Measure one contender in one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("contender", choices=(*contenders.NAMES, *contenders.AUGMENTED_SETTINGS))
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="raw, augmented: go on as long")
    parser.add_argument("--augment", choices=("own", *augment.NAMES), help="augmented: by this")
    parser.add_argument("--native", action="store_true", help="decode: by the peer's own decoder")
    parser.add_argument("--state", type=Path, help="resume: from this state")
    parser.add_argument("--bucket", help="remote: a Bucket as JSON; without it local files")
    parser.add_argument("--cache", type=Path, help="remote: an empty folder")
    parser.add_argument("--first-only", action="store_true", help="remote: one batch")
    parser.add_argument("--times", type=int, default=1, help="rss: so many times the data")
    parser.add_argument("--shards", type=int, default=1_000_000, help="startup: shards listed")
    options = parser.parse_args()
    data = open_data(options.data)
    result = CASES[options.case](contenders.load(options.contender), data, options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
