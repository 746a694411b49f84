"""Compares loaders that apply SSD's recipe with two workers each, in one run.

    benchmarks/environment && .venv-bench/bin/python benchmarks/loaders.py
    .venv-bench/bin/python benchmarks/loaders.py --runs 5 --seconds 6
    python benchmarks/loaders.py --toy           # seconds; drawn pictures; writes nothing

Our loader applies `presets.ssd(300)`. Every other loader applies torchvision's v2 recipe to
pictures that simplejpeg decoded. Beside them run Albumentations' and Kornia's equivalents in a
plain DataLoader, and DALI, which is a loader and a recipe in one. Each measurement runs in a
process of its own; contenders take turns. Writes `loaders.json` and `loaders.md` into the results
folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from benchmarks.augment import is_installed
from benchmarks.contenders import AUGMENTED_SETTINGS, SETTINGS
from benchmarks.data import TOY, Data, Size, make_data
from benchmarks.harness import ROOT, Job, Row, circumstances, in_turns, run
from benchmarks.report import Verdict

RESULTS = ROOT / "benchmarks/results"
SIZE = Size(copies=5, drawn=600, shard_bytes=8 << 20)
"""Enough for our loader to take as long as the others are measured."""
HOW_TO = "not installed: benchmarks/environment makes an environment that has it"
TARGET = 6.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A loader with a recipe."""

    label: str
    contender: str
    augment: str
    """Whose recipe: a name of `benchmarks.augment`, or the loader's own."""
    needs: str
    """What must be importable."""
    is_peer: bool = False
    """Whether it is another loader with torchvision's recipe, which the target is about."""


ENTRIES = (
    Entry("ours", "ours", "own", "datamodules"),
    Entry("webdataset", "webdataset", "torchvision", "webdataset", is_peer=True),
    Entry("litdata", "litdata", "torchvision", "litdata", is_peer=True),
    Entry("mosaic", "mosaic", "torchvision", "streaming", is_peer=True),
    Entry("datasets", "datasets", "torchvision", "datasets", is_peer=True),
    Entry("loose", "loose", "torchvision", "torchvision", is_peer=True),
    Entry("loose, Albumentations", "loose", "albumentations", "albumentations"),
    Entry("loose, Kornia", "loose", "kornia", "kornia"),
    Entry("DALI", "dali", "own", "nvidia.dali"),
)
_WITH_COPIES = ("litdata", "mosaic", "datasets", "dali")
NOTES = (
    "Batches of 32, 2 workers, 300 x 300, uint8; what is measured begins with the third batch.",
    "The peers: torchvision's v2 recipe on tv_tensors, pictures by simplejpeg.",
    "cpu_us: CPU time of a sample in all processes and threads.",
    "boxes_per_picture: recipes that keep every box, or draw other crops, come to other numbers.",
    "Albumentations, Kornia: what comes nearest, said in benchmarks/augment; no target is set.",
)


def main() -> None:
    """Measure, and write what came of it."""
    options = _parser().parse_args()
    size = TOY if options.toy else SIZE
    data = make_data(options.data / ("toy" if options.toy else "loaders"), size)
    before = circumstances()
    wanted = [entry for entry in ENTRIES if not options.only or entry.label in options.only]
    present = [entry for entry in wanted if is_installed(entry.needs)]
    absent = {entry.label: HOW_TO for entry in wanted if entry not in present}
    for name in [entry.contender for entry in present if entry.contender in _WITH_COPIES]:
        run(_job("make", data, Entry(name, name, "own", "")))
    seconds = options.seconds or (0.2 if options.toy else 3.0)
    jobs = [_job("augmented", data, entry, "--seconds", str(seconds)) for entry in present]
    rows = in_turns(jobs, options.runs or (1 if options.toy else 3))
    peers = [entry.label for entry in present if entry.is_peer]
    document = {"case": "loaders", **before, "data": data.facts(), "absent": absent}
    document |= {"runs": len(rows[0].runs), "settings": _settings(present)}
    document |= report.document(rows, [] if options.toy else verdicts(rows, peers), list(NOTES))
    text = report.loaders_markdown(document)
    print(text)
    out = options.out or (None if options.toy else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "loaders.json").write_text(json.dumps(document, indent=1) + "\n")
        (out / "loaders.md").write_text(text)


def verdicts(rows: list[Row], peers: list[str]) -> list[Verdict]:
    """Ours beside the fastest of the peers."""
    of = {row.label: row.median("samples_per_s") for row in rows if row.runs}
    found = {name: of[name] for name in peers if name in of}
    if not found or "ours" not in of:
        return []
    best = max(found, key=lambda name: found[name])
    return [Verdict(f"ours / best peer ({best})", of["ours"] / found[best], TARGET)]


def _job(case: str, data: Data, entry: Entry, *options: str) -> Job:
    more = () if case == "make" else ("--augment", entry.augment, *options)
    return Job(
        label=entry.label, case=case, contender=entry.contender, data=data.folder, options=more
    )


def _settings(present: list[Entry]) -> dict[str, str]:
    known = {**SETTINGS, **AUGMENTED_SETTINGS}
    return {entry.contender: known[entry.contender] for entry in present}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[entry.label for entry in ENTRIES])
    parser.add_argument("--runs", type=int, help="of each loader (3; a toy: 1)")
    parser.add_argument("--seconds", type=float, help="counted of each run (3; a toy: 0.2)")
    parser.add_argument("--toy", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks/.data")
    parser.add_argument("--out", type=Path, help=f"folder of results ({RESULTS}; a toy: none)")
    return parser


if __name__ == "__main__":
    main()
