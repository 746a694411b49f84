"""Turns runs into a results file, and results files into tables for people."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.harness import Row

_COLUMNS = {
    "raw": ("samples_per_s", "cpu_us", "second_pass_per_s", "second_pass_cpu_us"),
    "decode": (
        "samples_per_s",
        "cpu_us",
        "pixels_only_per_s",
        "pixels_only_cpu_us",
        "first_batch_s",
    ),
    "s3": (
        *("first.samples_per_s", "second.samples_per_s", "first_batch_s"),
        *("server.rounds", "server.requests", "server.bytes", "server.cpu_s", "first.cpu_us"),
    ),
    "resume": ("first_batch_s", "missed"),
    "memory": (
        *("open_s", "first_positions_s", "peak_mib", "rss_anon_added_mib", "pickled_bytes"),
        *("pickle_s", "unpickle_s"),
    ),
}
_STREAMING = tuple(_COLUMNS)
"""Cases of `stream.py`, in the order of its table."""
_COLUMNS["loaders"] = ("samples_per_s", "cpu_us", "boxes_per_picture")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target and the figure found."""

    what: str
    found: float
    target: float
    is_limit: bool = False
    """The target is an upper bound."""

    @property
    def is_met(self) -> bool:
        """True if the figure reaches the target."""
        return self.found <= self.target if self.is_limit else self.found >= self.target

    def line(self) -> str:
        """Say the verdict in words."""
        sign = "≤" if self.is_limit else "≥"
        return f"{self.what}: {self.found:.3g} (target {sign} {self.target:g}): " + (
            "met" if self.is_met else "**missed**"
        )


def document(rows: list[Row], verdicts: list[Verdict], notes: list[str]) -> dict[str, Any]:
    """Make the contents of a results file, without its circumstances."""
    return {
        "notes": notes,
        "verdicts": [{**asdict(verdict), "is_met": verdict.is_met} for verdict in verdicts],
        "rows": [
            {"label": row.label, "summary": _summary(row), "errors": row.errors, "runs": row.runs}
            for row in rows
        ],
    }


def memory_verdicts(rows: list[Row]) -> list[Verdict]:
    """Judge if workers' RSS is flat over an epoch, and equal for four times the data."""
    by_label = {row.label: row for row in rows if row.runs}
    if not {"1x", "4x"} <= by_label.keys():
        return []
    verdicts = []
    for kind in ("Rss", "RssAnon"):
        growth = [
            worker[kind][8] / worker[kind][2]
            for row in (by_label["1x"], by_label["4x"])
            for run in row.runs
            for worker in run["workers"]
        ]
        verdicts.append(
            Verdict(f"{kind}: last / third tenth, worst", max(growth), 1.1, is_limit=True)
        )
        ends = [
            statistics.median(worker[kind][8] for run in row.runs for worker in run["workers"])
            for row in (by_label["1x"], by_label["4x"])
        ]
        verdicts.append(Verdict(f"{kind}: 4x / 1x the data", ends[1] / ends[0], 1.1, is_limit=True))
    return verdicts


def markdown(folder: Path) -> str:
    """Make the table of every results file in a folder."""
    paths = [folder / f"stream-{case}.json" for case in _STREAMING]
    documents = [json.loads(path.read_text()) for path in paths if path.exists()]
    head = "# Streaming, measured\n\nMade by `benchmarks/stream.py` from the JSON files beside it."
    return "\n\n".join([head, *(_section(document) for document in documents)]) + "\n"


def loaders_markdown(document: dict[str, Any]) -> str:
    """Make the page of what `loaders.py` found."""
    head = (
        "# SSD's recipe through every loader\n\n"
        "Made by `benchmarks/loaders.py` from the JSON file beside it."
    )
    return f"{head}\n\n{_section(document)}\n"


def pixels_markdown(document: dict[str, Any]) -> str:
    """Make the page of what `pixels.py` found."""
    rates = document["samples_per_s"]
    columns = [*rates.values(), document["cpu_us"]]
    names = list(columns[0])
    lines = [
        "# Pixels, measured",
        "",
        "Made by `benchmarks/pixels.py` from the JSON file beside it.",
        "",
        f"{_where(document)}, {document['rounds']} rounds. "
        f"{document['pictures']} pictures with boxes, {document['with_masks']} with masks.",
        "",
        *verdict_lines(document),
        "| samples/s | " + " | ".join([*rates, "cpu_us, one core"]) + " |",
        "|---|" + "--:|" * (len(rates) + 1),
        *(
            f"| {name} | " + " | ".join(map(_short, [of[name] for of in columns])) + " |"
            for name in names
        ),
        "",
        *(f"- not installed, so not measured: {name}" for name in document["absent"]),
    ]
    lines += [f"- at most, {what}: {found:.2f}" for what, found in document["bounds"].items()]
    for size, found in document["levels_by_which_fast_differs"].items():
        lines.append(
            f"- at {size} x {size} 'fast' differs from 'exact' by {found['mean']:.2f} levels in "
            f"the mean, in the worst picture by {found['worst_picture']:.2f}"
        )
    return "\n".join(lines) + "\n"


def _where(document: dict[str, Any]) -> str:
    """Say when and on what machine it ran."""
    hardware = document["hardware"]
    return (
        f"{document['date']}, commit {document['commit'][:10]}"
        f"{' with local changes' if document['changed_files'] else ''}, "
        f"{hardware['cores']} cores of {hardware['cpu']}, {hardware['memory_gib']} GiB"
    )


def _section(document: dict[str, Any]) -> str:
    data = document["data"]
    lines = [
        f"## {document['case']}",
        "",
        f"{_where(document)}, {document['runs']} runs. "
        f"{data['num_samples']:,} samples, {data['jpeg_bytes'] / 1e6:.0f} MB of JPEG in "
        f"{data['num_shards']} shards: {data['source']}.",
        "",
        *verdict_lines(document),
        *(_memory_table(document) if document["case"] == "memory" else ()),
        *table(document, _COLUMNS[document["case"]]),
        "",
        *(f"- {note}" for note in document["notes"]),
        *(f"- {name}: {why}" for name, why in document["absent"].items()),
        *error_lines(document),
    ]
    return "\n".join(lines)


def verdict_lines(document: dict[str, Any]) -> list[str]:
    """List the verdicts of a results file."""
    fields = ("what", "found", "target", "is_limit")
    verdicts = [Verdict(*(found[name] for name in fields)) for found in document["verdicts"]]
    lines = [f"- {verdict.line()}" for verdict in verdicts]
    return [*lines, ""] if lines else []


def table(document: dict[str, Any], wanted: Sequence[str]) -> Iterator[str]:
    """Make a table of the rows, with those wanted columns that any row has."""
    summaries = {row["label"]: row["summary"] for row in document["rows"]}
    columns = [name for name in wanted if any(name in found for found in summaries.values())]
    if not columns:
        return
    yield "| | " + " | ".join(columns) + " |"
    yield "|---|" + "--:|" * len(columns)
    for label, found in summaries.items():
        if found.keys() & set(columns):
            yield f"| {label} | " + " | ".join(_cell(found.get(name)) for name in columns) + " |"


def _memory_table(document: dict[str, Any]) -> Iterator[str]:
    yield "| worker of | MiB | " + " | ".join(f"{i * 10} %" for i in range(1, 11)) + " |"
    yield "|---|---|" + "--:|" * 10
    for row in document["rows"]:
        workers = [worker for run in row["runs"] for worker in run.get("workers", ())]
        for kind in ("Rss", "RssAnon", "RssFile", "RssShmem") if workers else ():
            cells = [statistics.median(worker[kind][i] for worker in workers) for i in range(10)]
            yield f"| {row['label']} | {kind} | " + " | ".join(f"{x:.0f}" for x in cells) + " |"
    yield ""


def _cell(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    low, mid, high = found["min"], found["median"], found["max"]
    return f"{_short(mid)} ({_short(low)} to {_short(high)})" if low != high else _short(mid)


def _short(value: float) -> str:
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _summary(row: Row) -> dict[str, dict[str, float]]:
    names = _numbers(row.runs[0]) if row.runs else []
    found = {name: row.values(name) for name in names}
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in found.items()
    }


def _numbers(run: dict[str, Any], prefix: str = "") -> list[str]:
    names = list[str]()
    for name, value in run.items():
        if isinstance(value, dict):
            names += _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            names.append(prefix + name)
    return names


def error_lines(document: dict[str, Any]) -> Iterator[str]:
    """List the errors, each once."""
    for row in document["rows"]:
        for error in dict.fromkeys(row["errors"]):
            text = " ".join(error.split())[-300:]
            yield f"- {row['label']}: failed {len(row['errors'])} times: `{text}`"
