"""Compares fused recipes with torchvision's own, and both with decoding alone, on photographs.

    VOC_SAMPLE_DIR=... .venv-bench/bin/python benchmarks/pixels.py [--rounds 5] [--pictures 120]
    python benchmarks/pixels.py --toy            # seconds; drawn pictures; writes nothing

It measures on one core and on two: two processes, each on a core of its own and with one thread,
share the pictures, and the slower one's end counts for both. Each process first goes through its
share without a clock, because its memory still grows then. Fast contenders repeat their share for
half a second, and take three turns in a round. Each round runs every contender over the same
pictures and starts with another one. Figures are medians over rounds; ratios are of medians. Writes
`pixels.json` and `pixels.md` into the results folder.

torchvision's recipes run after its own decoders (`decode_jpeg`; torchcodec, its successor; Pillow,
as its VOC datasets do), on Pillow's own pictures, and after our decoder, where the transform alone
differs. Targets compare with the fastest of all but the last. torchcodec, Albumentations and Kornia
are measured if installed: `benchmarks/environment` makes an environment with them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import torch
import torch.multiprocessing as mp

from benchmarks import augment, report
from benchmarks.data import ARCHIVE
from benchmarks.harness import circumstances
from benchmarks.pixels_contenders import (
    Contender,
    detection,
    difference,
    fast,
    samples,
    segmentation,
)
from benchmarks.report import Verdict
from datamodules import presets
from scripts.mini_voc import draw_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.synchronize import Barrier

RESULTS = Path(__file__).parent / "results"
CORES = (1, 2)
_LONG_S = 0.5
"""Seconds for which a contender is timed at least; the fast ones several times through."""
LIBRARIES = ("torchcodec", "albumentations", "kornia")
"""Measured where they are installed."""


class Timing(NamedTuple):
    """Of one picture."""

    seconds: float
    """Until the slowest process is done with all of them."""
    cpu_s: float
    """CPU time, which says more where the machine is shared."""


def main() -> None:
    """Measure and write."""
    chosen = _parser().parse_args()
    rounds, count = (1, 4) if chosen.toy else (chosen.rounds, chosen.pictures)
    before = circumstances()
    with tempfile.TemporaryDirectory() as folder:
        archive = _archive(Path(folder), is_toy=chosen.toy)
        boxes, masks = (samples(archive, task, count) for task in ("detection", "segmentation"))
    contenders = {**detection(boxes), **segmentation(masks)}
    names = _chosen(list(contenders), chosen.only)
    cores = [number for number in CORES if number <= len(os.sched_getaffinity(0))]
    found = in_turns({name: contenders[name] for name in names}, rounds, cores)
    rates = {
        number: {name: 1 / median(one.seconds for one in of) for name, of in found[number].items()}
        for number in cores
    }
    document: dict[str, Any] = {
        **before,
        "pictures": len(boxes),
        "with_masks": len(masks),
        "rounds": rounds,
        "samples_per_s": {_title(number): of for number, of in rates.items()},
        "cpu_us": {name: median(one.cpu_s for one in of) * 1e6 for name, of in found[1].items()},
        "ratios": {_title(number): ratios(of) for number, of in rates.items()},
        "verdicts": [
            {**asdict(verdict), "is_met": verdict.is_met}
            for number, of in rates.items()
            for verdict in ([] if chosen.toy else verdicts(of, _title(number)))
        ],
        "bounds": bounds(rates[1]),
        "levels_by_which_fast_differs": {
            size: difference(boxes, presets.detection_eval(size), fast(size)) for size in (224, 300)
        },
        "absent": [name for name in LIBRARIES if not augment.is_installed(name)],
        "seconds": {
            _title(number): {name: [one.seconds for one in of] for name, of in timings.items()}
            for number, timings in found.items()
        },
    }
    text = report.pixels_markdown(document)
    print(text)
    out = chosen.out or (None if chosen.toy else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "pixels.json").write_text(json.dumps(document, indent=1) + "\n")
        (out / "pixels.md").write_text(text)


def in_turns(
    contenders: dict[str, Contender], rounds: int, cores: Sequence[int]
) -> dict[int, dict[str, list[Timing]]]:
    """What each round took, by number of cores and contender."""
    seconds = {number: {name: list[Timing]() for name in contenders} for number in cores}
    names = list(contenders)
    passes = {name: _passes(contender) for name, contender in contenders.items()}
    for round_number in range(rounds):
        turn = round_number % len(names)
        everyone = [*names[turn:], *names[:turn]]
        fast = [name for name in everyone if passes[name] > 1]
        for name in [*everyone, *fast, *fast]:
            for number in cores:
                seconds[number][name].append(timed(contenders[name], number, passes[name]))
    return seconds


def _passes(contender: Contender) -> int:
    """How often it goes through the pictures, for longer than others disturb it."""
    once_s = timed(contender, 1).seconds * len(contender.pictures)
    return math.ceil(_LONG_S / once_s)


def timed(contender: Contender, cores: int, passes: int = 1) -> Timing:
    """On so many cores together, so many times through the pictures."""
    context = mp.get_context("fork")
    barrier, results = context.Barrier(cores), context.SimpleQueue()
    places = sorted(os.sched_getaffinity(0))[:cores]
    processes = [
        context.Process(
            target=_loop,
            args=(
                contender.work,
                contender.pictures[number::cores],
                passes,
                core,
                barrier,
                results,
            ),
        )
        for number, core in enumerate(places)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        message = "a process failed: what it wrote on stderr says why"
        raise RuntimeError(message)
    found = [results.get() for _ in processes]
    count = len(contender.pictures) * passes
    return Timing(max(wall for wall, _ in found) / count, sum(cpu for _, cpu in found) / count)


def _loop(
    work: Callable[[Sequence[Any]], None],
    pictures: Sequence[Any],
    passes: int,
    core: int,
    barrier: Barrier,
    results: Any,
) -> None:
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # since torchvision 0.29 each call of decode_jpeg says that torchcodec is to take its place
    warnings.filterwarnings("ignore", message=".*capabilities of TorchVision are deprecated")
    work(pictures)
    barrier.wait(timeout=60)  # the other one may have failed
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(passes):
        work(pictures)
    results.put((time.perf_counter() - begun, time.process_time() - cpu))


def ratios(rates: dict[str, float]) -> dict[str, float]:
    """Each contender beside the others of its kind, and ours beside decoding alone."""
    found = {}
    for name, rate in rates.items():
        kind, _, other = name.partition(", ")
        if kind == "decode" or name == "resize alone":
            continue
        if other not in ("", "fast") and kind in rates:
            found[f"{kind} / {other}"] = rates[kind] / rate
        elif "decode" in rates:
            found[f"{name} / decoding alone"] = rate / rates["decode"]
    return found


def verdicts(rates: dict[str, float], where: str) -> list[Verdict]:
    """The targets, as far as what they need was measured."""
    found = []
    for kind, target in (("ssd", 8.0), ("segmentation", 4.0)):
        if own := _own_decoders(kind, rates):
            best = max(own, key=lambda name: rates[name])
            other = best.partition(", ")[2]
            found.append(Verdict(f"{where}: {kind} / {other}", rates[kind] / rates[best], target))
    for name, target in (("ssd", 0.5), ("resize 300", 0.6), ("resize 224, fast", 0.85)):
        with suppress(KeyError):
            what = f"{where}: {name} / decoding alone"
            found.append(Verdict(what, rates[name] / rates["decode"], target))
    return found


def bounds(rates: dict[str, float]) -> dict[str, float]:
    """What can be reached at most, if whole pictures are decoded.

    *Resizing to 300 x 300 / decoding alone*: a picture takes 1/d seconds to decode and 1/r to
    resize, d and r being the rates of each alone. One after the other that is 1/d + 1/r, so the
    rate is 1 / (1/d + 1/r), and as a share of d it is 1 / (1 + d/r). Only a faster resize, or
    decoding less, can raise it.

    *Segmentation / torchvision*: as if everything after decoding took no time.
    """
    found = {}
    with suppress(KeyError):
        share = 1 / (1 + rates["decode"] / rates["resize alone"])
        found["resize 300 / decoding alone: 1 / (1 + decode rate / resize rate)"] = share
    own = [rates[name] for name in _own_decoders("segmentation", rates)]
    if own and "decode, with masks" in rates:
        most = rates["decode, with masks"] / max(own)
        found["segmentation / torchvision: decoding pictures and masks alone"] = most
    return found


def _own_decoders(kind: str, rates: dict[str, float]) -> list[str]:
    """The rows of torchvision's recipe that are without our decoder."""
    own = [name for name in rates if name.startswith(f"{kind}, torchvision")]
    return [name for name in own if not name.endswith("our decoder")]


def _archive(folder: Path, *, is_toy: bool) -> Path:
    """The real one; drawn pictures in a toy."""
    if not is_toy:
        return Path(os.environ["VOC_SAMPLE_DIR"]) / ARCHIVE
    draw_archive(folder / "devkit.tar", num_pictures=12, year="2007")
    return folder / "devkit.tar"


def _title(cores: int) -> str:
    return {1: "one core", 2: "two cores"}[cores]


def _chosen(names: list[str], kinds: str) -> list[str]:
    """Those of the kinds asked for; decoding alone is always there."""
    wanted = {"decode", *kinds.split(",")} if kinds else set[str]()
    return [name for name in names if not wanted or name.partition(",")[0] in wanted]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=120)
    parser.add_argument("--only", default="", help="kinds, with commas: ssd,segmentation")
    parser.add_argument("--toy", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--out", type=Path, help=f"folder of results ({RESULTS}; a toy: none)")
    return parser


if __name__ == "__main__":
    main()
