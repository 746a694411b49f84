"""Prints what a conversion would do, and what it did."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import typer

from shard_tool.cli.options import Format, print_json, say
from shard_tool.convert.look import sorted_problems
from shard_tool.dataset.publication import BAD_RECORDS_NAME
from shard_tool.sources.boxes import CONVENTIONS, DEVKIT
from shard_tool.sources.report import Report
from shard_tool.storage.location import Folder
from shard_tool.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shard_tool.convert.look import Look
    from shard_tool.convert.options import ConvertOptions
    from shard_tool.convert.plan import ConversionPlan
    from shard_tool.convert.results import ConvertReport
    from shard_tool.format.manifest import Manifest

_MOST_CLASSES = 20
_MOST_PROBLEMS = 40


def described(source: object) -> str:
    """A source's format and evidence."""
    year = getattr(source, "year", "unknown")
    known = f"VOC{year}, " if year != "unknown" else ""
    return f"{known}format {source.format} ({source.evidence})"  # type: ignore[attr-defined]


def classes_line(names: tuple[str, ...], counts: Mapping[str, int]) -> str:
    """The class table with the number of objects of each."""
    told = [
        f"{name} {counts[name]}" if counts.get(name) else name for name in names[:_MOST_CLASSES]
    ]
    more = f" and {len(names) - _MOST_CLASSES} more" if len(names) > _MOST_CLASSES else ""
    noun = "class" if len(names) == 1 else "classes"
    return f"{len(names)} {noun}: {', '.join(told)}{more}"


def boxes_lines(plan: ConversionPlan) -> list[str]:
    """The box convention and what speaks for or against it; of each source, if they differ."""
    rules, evidence = plan.rules, plan.surveyed.evidence
    is_fixed = all(len(source.conventions) == 1 for source in plan.sources)
    if is_fixed and not any(its.num_boxes for its in evidence.values()):
        return []  # folders of classes have none
    if len(set(rules.conventions)) == 1:
        return [_boxes_line("boxes", list(evidence), plan)]
    return [
        _boxes_line(f"boxes of {source.files.shown}", [source.files.number], plan)
        for source in plan.sources
    ]


def _boxes_line(what: str, numbers: list[int], plan: ConversionPlan) -> str:
    rules, evidence = plan.rules, [plan.surveyed.evidence.get(n) for n in numbers]
    boxes, zero, fractions = (
        sum(getattr(its, name) for its in evidence if its)
        for name in ("num_boxes", "num_zero", "num_fractions")
    )
    convention = rules.conventions[numbers[0] if numbers else 0]
    formats = dict.fromkeys(plan.sources[n].format for n in numbers)
    if all(len(plan.sources[n].conventions) == 1 for n in numbers) and numbers:
        told = CONVENTIONS[convention].partition(",")[0]
        return f"{what}: {boxes}, {told}, as {' and '.join(formats)} has them"
    how = f"since the classes are {'' if convention == DEVKIT else 'not '}VOC's"
    if rules.choices.boxes != "auto":
        how = "as --boxes says"
    seen = f"of {boxes} boxes {zero or 'none'} have a 0, {fractions or 'none'} have fractions"
    return f"{what}: {convention} ({CONVENTIONS[convention]}), {how}; {seen}"


def print_look(options: ConvertOptions, look: Look, format_: Format) -> None:
    """Print everything that a conversion would meet."""
    plan, dest = look.plan, Folder(options.dest)
    if format_ is Format.json:
        print_json(_look_as_json(look, str(dest)))
        return
    for source in plan.sources:
        typer.echo(f"from {source.files.shown}: {described(source)}")
    typer.echo(classes_line(plan.rules.classes.names, look.num_objects))
    for line in boxes_lines(plan):
        typer.echo(line)
    for split in plan.splits:
        size = human_bytes(split.num_bytes)
        count = look.num_good.get(split.split, 0) if look.skips else split.num_records
        typer.echo(f"{split.split}: {count} samples, {split.num_shards} shards, about {size}")
    if plan.duplicates:
        typer.echo(f"{len(plan.duplicates)} pictures are left out: another source has them too")
    _print_lines("read otherwise, or left out:", look.report.lines())
    _print_lines("to decide:", [f"{question}" for question in look.questions])
    problems = [
        f"{problem.count} x {problem.example}" + (f"; {problem.hint}" if problem.hint else "")
        for problem in sorted_problems(look.problems.values())
    ]
    if len(problems) > _MOST_PROBLEMS:
        more = len(problems) - _MOST_PROBLEMS
        problems = [*problems[:_MOST_PROBLEMS], f"and {more} more kinds: see --format json"]
    what = "left out" if look.skips else "in the way"
    _print_lines(f"{look.num_bad} bad records of {plan.num_records}, {what}:", problems)
    if look.questions:
        typer.echo("add the options that you choose, and look again")
    elif problems and not look.skips:
        typer.echo("mend them as said, or add --on-bad-record skip to leave all of them out")
    else:
        typer.echo("nothing is in the way: run this again without --dry-run")
    typer.echo(f"{dest}: nothing is written (--dry-run)")


def _print_lines(title: str, lines: list[str]) -> None:
    if lines:
        typer.echo(title)
    for line in lines:
        typer.echo(f"  {line}")


def _look_as_json(look: Look, dest: str) -> dict[str, object]:
    plan = look.plan
    return {
        "dry_run": True,
        "dest": dest,
        "sources": [source.files.shown for source in plan.sources],
        "formats": [
            {"format": source.format, "evidence": source.evidence} for source in plan.sources
        ],
        "num_duplicates": len(plan.duplicates),
        "classes": [
            {"name": name, "label": label, "num_objects": look.num_objects[name]}
            for name, label in plan.rules.classes.labels.items()
        ],
        "boxes": list(plan.rules.conventions),
        "splits": {
            split.split: {
                "num_shards": split.num_shards,
                "num_samples": look.num_good.get(split.split, 0)
                if look.skips
                else split.num_records,
                "num_bytes": split.num_bytes,
                "objects": look.objects.get(split.split, {}),
            }
            for split in plan.splits
        },
        "report": look.report.as_json(),
        "questions": [
            {"place": error.place, "problem": error.problem, "hint": error.hint}
            for error in look.questions
        ],
        "num_bad_records": look.num_bad,
        "problems": [problem.as_json() for problem in sorted_problems(look.problems.values())],
    }


def print_conversion(
    plan: ConversionPlan, report: ConvertReport, dest: str, format_: Format
) -> None:
    """Print what a conversion did."""
    manifest = report.manifest
    folder, num_bad = Folder(dest), manifest.num_bad_records
    if report.bad_records:
        num_objects = sum("object" in bad for bad in report.bad_records)
        objects = f" and {num_objects} bad objects dropped" if num_objects else ""
        place = folder.place(BAD_RECORDS_NAME)
        say(f"{num_bad} bad records skipped{objects}; listed in {place}")
    if report.num_kept_shards:
        say(f"{report.num_kept_shards} shards of an earlier run are kept")
    if manifest.duplicates:
        say(f"{len(manifest.duplicates)} pictures are left out: another source has them too")
    met = Report()
    met.merge(manifest.report)
    for line in met.lines():
        say(line)
    if format_ is Format.json:
        document = {
            "dest": str(folder),
            "fingerprint": manifest.fingerprint,
            "num_bad_records": num_bad,
            "num_duplicates": len(manifest.duplicates),
            "num_kept_shards": report.num_kept_shards,
            "seconds": round(report.seconds, 3),
            "splits": {
                name: {"num_shards": len(split.shards), "num_samples": split.num_samples}
                for name, split in manifest.splits.items()
            },
            "classes": list(manifest.classes),
            "boxes": manifest.options.get("boxes"),
            "report": manifest.report,
        }
        print_json(document)
        return
    typer.echo(classes_line(plan.rules.classes.names, _objects(manifest)))
    if any(evidence.num_boxes for evidence in plan.surveyed.evidence.values()):
        for line in boxes_lines(plan):
            typer.echo(line)
    for name, split in manifest.splits.items():
        size = human_bytes(split.num_bytes)
        typer.echo(f"{name}: {split.num_samples} samples, {len(split.shards)} shards, {size}")
    typer.echo(f"{folder}: done in {report.seconds:.1f} s")


def _objects(manifest: Manifest) -> Counter[str]:
    """Objects of each class over all splits; pictures, where classes are of whole ones."""
    its = (split.objects or split.counts.get("pictures", {}) for split in manifest.splits.values())
    return sum(map(Counter, its), Counter[str]())
