"""Compares how fast, how soon and how lean loaders stream samples, in one run.

    benchmarks/environment && .venv-bench/bin/python benchmarks/stream.py
    .venv-bench/bin/python benchmarks/stream.py --only raw,decode --runs 7
    python benchmarks/stream.py --toy            # seconds; drawn pictures; writes nothing

Each measurement runs in a process of its own. Contenders take turns, figures are medians over runs,
and targets are ratios between figures of the same run. Cases: raw, decode, s3, resume, memory. Each
case writes `stream-<case>.json` into the results folder; `stream.md` there is made of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report, servers
from benchmarks.contenders import NAMES, PEERS, SETTINGS, WITH_COPIES
from benchmarks.data import FULL, TOY, Data, make_data
from benchmarks.harness import ROOT, Job, Row, add, circumstances, in_turns, run
from benchmarks.report import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = ROOT / "benchmarks/results"
LATENCY_MS, FAR_MS = 20.0, 220.0
_IMPORTS = {"webdataset": "webdataset", "litdata": "litdata", "mosaic": "streaming"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run."""

    data: Data
    contenders: tuple[str, ...]
    runs: int
    is_toy: bool

    @property
    def peers(self) -> tuple[str, ...]:
        """The contenders that are other loaders."""
        return tuple(name for name in self.contenders if name in PEERS)

    def job(self, case: str, contender: str, *options: str, label: str = "") -> Job:
        """A measurement of a contender."""
        return Job(
            label=label or contender,
            case=case,
            contender=contender,
            data=self.data.folder,
            options=options,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case's rows and what they say about its targets."""

    rows: list[Row]
    verdicts: list[Verdict]
    notes: list[str]


def raw(plan: Plan) -> Outcome:
    """Case 1: raw samples in one process."""
    seconds = "0.2" if plan.is_toy else "4"
    jobs = [plan.job("raw", name, "--seconds", seconds) for name in plan.contenders]
    rows = in_turns(jobs, plan.runs)
    of = {row.label: row.median("samples_per_s") for row in rows if row.runs}
    verdicts = []
    if "webdataset" in of:
        verdicts.append(Verdict("ours / webdataset", of["ours"] / of["webdataset"], 10))
    if peers := {name: of[name] for name in plan.peers if name in of}:
        best = max(peers, key=lambda name: peers[name])
        verdicts.append(Verdict(f"ours / fastest peer ({best})", of["ours"] / peers[best], 1.5))
    notes = [
        "First passes over a dataset just opened, page cache warm; opening left out.",
        "Every member as bytes of its own, JSON unparsed; order shuffled as each does it.",
        "bare: mapped shards cut into samples by the index, in order, no names read: the ceiling.",
    ]
    return Outcome(rows, verdicts, notes)


def decode(plan: Plan) -> Outcome:
    """Case 2: decode, resize to 300, flip, in two workers."""
    jobs = [plan.job("decode", name) for name in plan.contenders]
    jobs += [
        plan.job("decode", name, "--native", label=f"{name}, its own decoder")
        for name in plan.peers
    ]
    rows = in_turns(jobs, plan.runs)
    of = {row.label: row.median("samples_per_s") for row in rows if row.runs}
    verdicts = []
    if peers := {name: of[name] for name in of if name.split(",")[0] in plan.peers}:
        best = max(peers, key=lambda name: peers[name])
        verdicts.append(Verdict(f"ours / best peer ({best})", of["ours"] / peers[best], 1.3))
    bare = next(row for row in rows if row.label == "bare")
    verdicts.append(Verdict("ours / bare loops, with boxes", of["ours"] / of["bare"], 0.9))
    pixels = bare.median("pixels_only_per_s")
    verdicts.append(Verdict("ours / bare loops, pixels alone", of["ours"] / pixels, 0.9))
    notes = [
        "One epoch, batches of 32, 2 workers; the time to the 20th batch is left out.",
        "Everyone: simplejpeg, the same v2 pipeline on picture and boxes, uint8 [3, 300, 300].",
        "bare: the same calls in two plain processes over bytes in memory, results thrown away.",
    ]
    return Outcome(rows, verdicts, notes)


def s3(plan: Plan) -> Outcome:
    """Case 3: from a bucket, with latency."""
    if not servers.is_available():
        return Outcome([], [], [f"not run: {servers.HOW_TO}"])
    names = [name for name in plan.contenders if name not in {"loose", "bare"}]
    rows = {name: Row(name) for name in ["ours, local", *names]}
    far = {name: Row(f"{name}, {FAR_MS:g} ms") for name in names}
    for number in range(plan.runs):
        order = list(rows)
        turn = number % len(order)
        for name in [*order[turn:], *order[:turn]]:
            if name == "ours, local":
                add(rows[name], plan.job("remote", "ours", label=name))
            else:
                _remote_run(plan, name, rows[name])
                _remote_run(plan, name, far[name], "--first-only", latency_ms=FAR_MS)
    notes = [
        f"Server: {servers.NAME}; {LATENCY_MS:g} ms before every answer.",
        "Two epochs, the first with an empty cache; rates leave out each epoch's first 20 batches.",
        "first_batch_s counts from opening the dataset; process start and imports are left out.",
        "rounds: the longest chain of requests before the first batch of which each began after "
        "the one before it was answered, by the server's log. It counts what follows in time, not "
        "by cause: the second worker's and prefetched ones too. So it is judged from the runs with "
        f"{FAR_MS:g} ms, where latency alone decides what comes after what.",
        "loose files: torchvision reads no bucket. webdataset: has no s3://, so http:// here.",
    ]
    return Outcome([*rows.values(), *far.values()], _s3_verdicts(rows, far["ours"]), notes)


def _remote_run(
    plan: Plan, name: str, row: Row, *more: str, latency_ms: float = LATENCY_MS
) -> None:
    """One contender's two epochs from a server of its own, with what the server saw."""
    with (
        tempfile.TemporaryDirectory(prefix="voc-shards-cache-") as cache,
        servers.serving(plan.data.folder.parent, latency_ms=latency_ms) as server,
    ):
        manifest = plan.data.manifest()
        bucket = servers.Bucket(
            endpoint=server.endpoint,
            name=plan.data.folder.name,
            shard_names=tuple(entry.name for entry in manifest.splits["train"].shards),
        )
        options = ("--bucket", json.dumps(asdict(bucket)), "--cache", f"{cache}/cache")
        result = add(row, plan.job("remote", name, *options, *more, label=row.label))
        if result is None:
            return
        requests = server.requests()
        begun, first_at = result["begun"], result["begun"] + result["first_batch_s"]
        before = [r for r in requests if r.start >= begun - 0.002 and r.stop <= first_at]
        result["server"] = {
            "cpu_s": server.cpu_s(),
            "requests": len(requests),
            "bytes": sum(request.num_bytes for request in requests),
            "requests_before_first_batch": len(before),
            "rounds": servers.sequential_rounds(before),
            "bytes_before_first_batch": sum(request.num_bytes for request in before),
            "requests_in_second_epoch": _since(requests, result.get("middle")),
            "errors": sorted({r.status for r in requests if r.status >= 400}),
        }


def _since(requests: list[servers.Request], moment: float | None) -> int:
    return 0 if moment is None else sum(request.start >= moment for request in requests)


def _s3_verdicts(rows: dict[str, Row], far: Row) -> list[Verdict]:
    ours, local = rows["ours"], rows["ours, local"]
    if not (ours.runs and local.runs):
        return []
    verdicts = []
    for epoch, target in (("first", 0.85), ("second", 0.98)):
        rate = f"{epoch}.samples_per_s"
        found = ours.median(rate) / local.median(rate)
        verdicts.append(Verdict(f"{epoch} epoch, S3 / local", found, target))
    if far.runs:
        rounds = max(far.values("server.rounds"))
        verdicts.append(Verdict("round trips before the first batch", rounds, 10, is_limit=True))
    return verdicts


def resume(plan: Plan) -> Outcome:
    """Case 4: the first batch after a resume at 90 % of an epoch."""
    names = [name for name in plan.contenders if name != "bare"]
    jobs, problems = list[Job](), list[Row]()
    with tempfile.TemporaryDirectory(prefix="voc-shards-state-") as folder:
        for name in names:
            state, prepared = Path(folder) / name, Row(f"{name}, saving its state")
            jobs.append(plan.job("resume", name, label=f"{name}, cold"))
            if add(prepared, plan.job("save_state", name, "--state", str(state))) is None:
                problems.append(prepared)
                continue
            resumed = ("--state", str(state))
            jobs.append(plan.job("resume", name, *resumed, label=f"{name}, resumed"))
        rows = in_turns(jobs, plan.runs)
    of = {row.label: row.median("first_batch_s") for row in rows if row.runs}
    found = of["ours, resumed"] / of["ours, cold"]
    notes = [
        "Seconds from opening the dataset to the first batch, 2 workers; process start left out.",
        "webdataset has no state: it makes the first 90 % again and throws them away.",
        "loose: no state either; the sampler's order is cut, as a user would write it.",
        "missed: samples that the two parts together lack of an epoch; negative: repeated.",
    ]
    return Outcome(
        [*rows, *problems], [Verdict("resumed / cold", found, 1.5, is_limit=True)], notes
    )


def memory(plan: Plan) -> Outcome:
    """Case 5: RSS of workers, and a manifest of a million shards."""
    shards = "2000" if plan.is_toy else "1000000"
    jobs = [
        plan.job("rss", "ours", label="1x"),
        plan.job("rss", "ours", "--times", "4", label="4x"),
    ]
    rows = in_turns(jobs, plan.runs)
    add(Row("huge"), plan.job("make_huge", "ours", "--shards", shards))
    rows += in_turns([plan.job("startup", "ours", "--shards", shards, label="startup")], plan.runs)
    notes = [
        "MiB per worker, median within each tenth of its life. RssAnon is its own; RssFile is page "
        "cache of mapped shards, which the kernel takes back; RssShmem is batches on their way.",
        "4x: the same shards under four names each.",
        f"startup: ShardDataset on a manifest of {int(shards):,} shards.",
    ]
    return Outcome(rows, report.memory_verdicts(rows), notes)


CASES: dict[str, Callable[[Plan], Outcome]] = {
    case.__name__: case for case in (raw, decode, s3, resume, memory)
}


def main() -> None:
    """Run the cases asked for."""
    options = _parser().parse_args()
    size = TOY if options.toy else FULL
    data = make_data(options.data / ("toy" if options.toy else "full"), size)
    names, absent = _present(options.contenders)
    runs = options.runs or (1 if options.toy else 5)
    plan = Plan(data=data, contenders=names, runs=runs, is_toy=options.toy)
    for name in set(names) & set(WITH_COPIES):
        run(plan.job("make", name))
    out = options.out or (None if options.toy else RESULTS)
    with tempfile.TemporaryDirectory() as unwanted:
        folder = out or Path(unwanted)
        folder.mkdir(parents=True, exist_ok=True)
        for case in options.only:
            print(f"{case}:", file=sys.stderr, flush=True)
            before = circumstances()
            outcome = CASES[case](plan)
            if plan.is_toy:
                outcome = replace(outcome, verdicts=[])  # its figures mean nothing
            document = {"case": case, **before, "data": data.facts(), "runs": runs}
            document |= {"absent": absent, "settings": {name: SETTINGS[name] for name in names}}
            document |= report.document(outcome.rows, outcome.verdicts, outcome.notes)
            (folder / f"stream-{case}.json").write_text(json.dumps(document, indent=1) + "\n")
        (folder / "stream.md").write_text(report.markdown(folder))
        print((folder / "stream.md").read_text())


def _present(names: list[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The contenders that are installed, and why the others are not here."""
    absent = {
        name: "not installed: benchmarks/environment makes an environment that has it"
        for name in names
        if name in _IMPORTS and importlib.util.find_spec(_IMPORTS[name]) is None
    }
    return tuple(name for name in names if name not in absent), absent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_cases, default=list(CASES), help="cases, with commas")
    parser.add_argument("--runs", type=int, help="of each contender (5; a toy: 1)")
    parser.add_argument("--toy", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--contenders", type=_names, default=list(NAMES), help="with commas")
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks/.data")
    parser.add_argument("--out", type=Path, help=f"folder of results ({RESULTS}; a toy: none)")
    return parser


def _cases(text: str) -> list[str]:
    return _chosen(text, tuple(CASES))


def _names(text: str) -> list[str]:
    chosen = _chosen(text, NAMES)
    return [name for name in NAMES if name in {*chosen, "ours", "bare"}]


def _chosen(text: str, known: tuple[str, ...]) -> list[str]:
    chosen = text.split(",")
    if wrong := [name for name in chosen if name not in known]:
        message = f"{wrong[0]!r} is not one of {', '.join(known)}"
        raise argparse.ArgumentTypeError(message)
    return chosen


if __name__ == "__main__":
    main()
