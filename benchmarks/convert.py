"""Measures how fast and how lean `shard-tool convert` is, beside what people would use instead.

    VOC_SAMPLE_DIR=… python benchmarks/convert.py
    python benchmarks/convert.py --only script,copy --runs 7
    python benchmarks/convert.py --toy           # a minute; drawn pictures; writes nothing

Each measurement runs in a process of its own. Contenders take turns, figures are medians, and
targets are ratios between figures of the same run. Cases: script, copy, scaling, memory, scale.
Each case writes `convert-<case>.json` into the results folder; `convert.md` there is made of them.
Archives are made once and kept in `.data` (6 GB); a run needs as much free space again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from benchmarks.devkits import DevkitSize, make_devkit
from benchmarks.harness import ROOT, Job, Row, circumstances, in_turns
from benchmarks.report import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.devkits import Devkit

RESULTS = ROOT / "benchmarks/results"
SHARES_OF_PICTURES = "Splits train and val, half of the pictures each: all bytes are converted."


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of the archives."""

    small: DevkitSize
    """Pictures as large as VOC2007's, 320 MB."""
    large: DevkitSize
    """VOC2012's number of pictures and its bytes, 2 GB."""
    memory: tuple[int, int]
    """Tiny records, once and eight times."""
    memory_shards: str
    scale: tuple[int, ...]
    """Tiny records."""
    workers: tuple[int, ...]


FULL = Sizes(
    small=DevkitSize(kind="photographs", num_pictures=3_500, quality=97),
    large=DevkitSize(kind="photographs", num_pictures=17_125, quality=99),
    memory=(50_000, 400_000),
    memory_shards="4MiB",
    scale=(100_000, 300_000, 1_000_000),
    workers=(1, 2, 3, 4),
)
TOY = Sizes(
    small=DevkitSize(kind="photographs", num_pictures=40, drawn=20),
    large=DevkitSize(kind="photographs", num_pictures=60, drawn=20),
    memory=(200, 1600),
    memory_shards="8KiB",  # so many that workers live long enough to be seen
    scale=(200, 400),
    workers=(1, 2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cases to run, and with what."""

    data: Path
    """Where archives are kept."""
    sizes: Sizes
    runs: int

    def photographs(self, size: DevkitSize) -> Devkit:
        """Make an archive of photographs."""
        return make_devkit(self.data, size)

    def tiny(self, num_pictures: int) -> Devkit:
        """Make an archive of tiny records."""
        return make_devkit(self.data, DevkitSize(kind="tiny", num_pictures=num_pictures))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Rows of a case and the verdicts on its targets."""

    devkits: list[Devkit]
    rows: list[Row]
    verdicts: list[Verdict]
    notes: list[str]


def script(plan: Plan) -> Outcome:
    """Case a: compare with the obvious script, including its extraction."""
    devkit = plan.photographs(plan.sizes.small)
    names = ["ours", "script", "start of ours", "start of script"]
    rows = in_turns([_job("command", name, devkit) for name in names], plan.runs)
    of = _medians(rows, "seconds")
    verdicts = [_ratio("script / ours, 2 workers", of["script"], of["ours"], 2)]
    notes = [
        "Whole commands, start-up included. script: `tar xf` extracts the archive (faster than "
        "tarfile does), benchmarks/obvious.py parses XML by xml.etree and writes by "
        "webdataset.ShardWriter; it hashes nothing and has no manifest.",
        "start of …: that part alone. webdataset imports torch where it is installed. Without "
        f"start-up on either side the ratio is "
        f"{_without_start(of, 'script') / _without_start(of, 'ours'):.2f}.",
        SHARES_OF_PICTURES,
    ]
    return Outcome([devkit], rows, verdicts, notes)


def copy(plan: Plan) -> Outcome:
    """Case b: compare with a copy by tar and its checksum."""
    devkit = plan.photographs(plan.sizes.large)
    names = ["ours", "tar+sha256sum", "tar+openssl"]
    rows = in_turns([_job("command", name, devkit) for name in names], plan.runs)
    of = _medians(rows, "seconds")
    ratio = _ratio("ours / tar+sha256sum, 2 workers", of["ours"], of["tar+sha256sum"], 2)
    notes = [
        "Whole commands, start-up included. tar: `tar --concatenate` copies all members into "
        "another archive, the cheapest way to have tar copy the same bytes: neither is anything "
        "extracted before, nor are thousands of files opened. Then the copy is hashed.",
        "ours reads every byte twice and hashes it twice: in the archive, and in the shards.",
        "tar+openssl: the same with `openssl dgst -sha256`, which uses the CPU's SHA instructions "
        "where sha256sum is built without them: no target, the stricter yardstick. ours / "
        f"tar+openssl: {of['ours'] / of['tar+openssl']:.2f}.",
        SHARES_OF_PICTURES,
    ]
    return Outcome([devkit], rows, [replace(ratio, is_limit=True)], notes)


def scaling(plan: Plan) -> Outcome:
    """Measure the same conversion with more workers."""
    devkit = plan.photographs(plan.sizes.large)
    jobs = [
        _job("command", "ours", devkit, "--workers", str(workers), label=f"{workers} workers")
        for workers in plan.sizes.workers
    ]
    notes = [
        "Whole commands. Beside the workers one thread of the coordinator hashes the archive, and "
        "1 worker means none beside the coordinator: no process is started.",
    ]
    return Outcome([devkit], in_turns(jobs, plan.runs), [], notes)


def memory(plan: Plan) -> Outcome:
    """Measure the memory of processes at 1x and 8x the records."""
    devkits = [plan.tiny(number) for number in plan.sizes.memory]
    shard_size = ("--shard-size", plan.sizes.memory_shards)
    jobs = [
        _job("memory", "ours", devkit, *shard_size, label=f"{devkit.facts.num_pictures:,} records")
        for devkit in devkits
    ]
    rows = in_turns(jobs, max(1, plan.runs // 2))  # memory varies little from run to run
    one, eight = rows
    more = plan.sizes.memory[1] - plan.sizes.memory[0]
    grown = eight.median("coordinator.peak_bytes") - one.median("coordinator.peak_bytes")
    verdicts = [
        Verdict("coordinator's peak: bytes a record more", grown / more, 200, is_limit=True),
        Verdict(
            "worker's peak: 8x / 1x the records",
            eight.median("worker.peak_bytes") / one.median("worker.peak_bytes"),
            1.1,
            is_limit=True,
        ),
    ]
    notes = [
        "peak_bytes: VmHWM, which counts shared libraries, of the largest process of its kind; "
        "anon_bytes: the most of RssAnon that was seen, every 20 ms.",
        f"Shards of {plan.sizes.memory_shards}, 2 workers.",
    ]
    return Outcome(devkits, rows, verdicts, notes)


def scale(plan: Plan) -> Outcome:
    """Measure the time per record up to a million records."""
    devkits = [plan.tiny(number) for number in plan.sizes.scale]
    jobs = [
        _job("stages", "ours", devkit, label=f"{devkit.facts.num_pictures:,} records")
        for devkit in devkits
    ]
    rows = in_turns(jobs, max(1, plan.runs // 3))
    of = [row.median("us_per_record") for row in rows]
    most = f"µs a record: {plan.sizes.scale[-1]:,} / {plan.sizes.scale[0]:,} records"
    notes = [
        "µs a record of scanning the archive's headers, planning, and all the rest (mostly "
        "writing, 2 workers, start of the pool included). Imports are left out.",
    ]
    return Outcome(devkits, rows, [Verdict(most, of[-1] / of[0], 1.2, is_limit=True)], notes)


CASES: dict[str, Callable[[Plan], Outcome]] = {
    case.__name__: case for case in (script, copy, scaling, memory, scale)
}
_COLUMNS = {
    "script": ("seconds", "cpu_s", "written_bytes"),
    "copy": ("seconds", "cpu_s", "written_bytes"),
    "scaling": ("seconds", "cpu_s"),
    "memory": (
        *("coordinator.peak_bytes", "coordinator.anon_bytes"),
        *("worker.peak_bytes", "worker.anon_bytes", "helper.peak_bytes", "seconds"),
    ),
    "scale": ("scan_us", "plan_us", "write_us", "us_per_record", "seconds", "num_shards"),
}


def _job(case: str, contender: str, devkit: Devkit, *options: str, label: str = "") -> Job:
    return Job(
        label=label or contender,
        case=case,
        contender=contender,
        data=devkit.path,
        options=options,
        module="benchmarks.convert_measure",
    )


def _medians(rows: Sequence[Row], name: str) -> dict[str, float]:
    return {row.label: row.median(name) for row in rows}


def _ratio(what: str, over: float, under: float, target: float) -> Verdict:
    return Verdict(what, over / under, target)


def _without_start(of: dict[str, float], name: str) -> float:
    return of[name] - of[f"start of {name}"]


# Results ------------------------------------------------------------------------------------


def document(case: str, before: dict[str, object], outcome: Outcome) -> dict[str, object]:
    """Make the contents of a results file."""
    return {
        "case": case,
        **before,
        "tools": {name: _version_of(name) for name in ("tar", "sha256sum", "openssl")},
        "data": [
            {"archive": devkit.path.parent.name, **asdict(devkit.facts)}
            for devkit in outcome.devkits
        ],
        "runs": max(len(row.runs) for row in outcome.rows),
        **report.document(outcome.rows, outcome.verdicts, [*outcome.notes, _COMMON]),
    }


_COMMON = (
    "Page cache warm: before each clock starts the archive is read once and the disk is synced. "
    "Everything is written to the archive's own disk and removed after the clock has stopped. "
    "Nobody syncs inside the clock. cpu_s is of all processes."
)


def _version_of(tool: str) -> str:
    option = "version" if tool == "openssl" else "--version"
    path = shutil.which(tool)
    if path is None:
        return "not installed"
    done = subprocess.run([path, option], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def markdown(folder: Path) -> str:
    """Make the tables of every results file in a folder."""
    paths = [folder / f"convert-{case}.json" for case in CASES]
    head = (
        "# Conversion, measured\n\nMade by `benchmarks/convert.py` from the JSON files beside it."
    )
    found = [json.loads(path.read_text()) for path in paths if path.exists()]
    return "\n\n".join([head, *map(_section, found)]) + "\n"


def _section(found: dict[str, Any]) -> str:
    hardware = found["hardware"]
    archives = "; ".join(
        f"{data['num_pictures']:,} records, {data['num_bytes'] / 1e6:,.0f} MB: {data['pictures']}"
        for data in found["data"]
    )
    lines = [
        f"## {found['case']}",
        "",
        f"{found['date']}, commit {found['commit'][:10]}"
        f"{' with local changes' if found['changed_files'] else ''}, {found['runs']} runs, "
        f"{hardware['cores']} cores of {hardware['cpu']}, {hardware['memory_gib']} GiB, load "
        f"{hardware['load_before']} before. {archives}.",
        "",
        *report.verdict_lines(found),
        *report.table(found, _COLUMNS[found["case"]]),
        "",
        *(f"- {note}" for note in found["notes"]),
        *report.error_lines(found),
    ]
    return "\n".join(lines)


# Main ---------------------------------------------------------------------------------------


def main() -> None:
    """Run the chosen cases."""
    options = _parser().parse_args()
    runs = options.runs or (1 if options.toy else 5)
    data = options.data / ("toy" if options.toy else "convert")
    plan = Plan(data=data, sizes=TOY if options.toy else FULL, runs=runs)
    out = options.out or (None if options.toy else RESULTS)
    with tempfile.TemporaryDirectory() as unwanted:
        folder = out or Path(unwanted)
        folder.mkdir(parents=True, exist_ok=True)
        for case in options.only:
            print(f"{case}:", file=sys.stderr, flush=True)
            before = circumstances()
            outcome = CASES[case](plan)
            if options.toy:
                outcome = replace(outcome, verdicts=[])  # its figures mean nothing
            found = document(case, before, outcome)
            (folder / f"convert-{case}.json").write_text(json.dumps(found, indent=1) + "\n")
        (folder / "convert.md").write_text(markdown(folder))
        print((folder / "convert.md").read_text())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_cases, default=list(CASES), help="cases, with commas")
    parser.add_argument("--runs", type=int, help="of each contender (5; a toy: 1)")
    parser.add_argument("--toy", action="store_true", help="a minute instead of twenty")
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks/.data")
    parser.add_argument("--out", type=Path, help=f"folder of results ({RESULTS}; a toy: none)")
    return parser


def _cases(text: str) -> list[str]:
    chosen = text.split(",")
    if wrong := [name for name in chosen if name not in CASES]:
        message = f"{wrong[0]!r} is not one of {', '.join(CASES)}"
        raise argparse.ArgumentTypeError(message)
    return chosen


if __name__ == "__main__":
    main()
