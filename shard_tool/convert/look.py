"""Looks at all that a conversion would meet, and writes nothing: what ``--dry-run`` shows.

Every annotation and mask is read, and the header of every picture. Problems are counted by kind, so
that one look is enough for one correction.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shard_tool.convert.run import prepare
from shard_tool.convert.write_shard import check_records
from shard_tool.errors import DataError
from shard_tool.sources.report import Report
from shard_tool.tasks.engines import LOCAL
from shard_tool.tasks.pool import in_order, open_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shard_tool.convert.options import ConvertOptions
    from shard_tool.convert.plan import ConversionPlan

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBERS = re.compile(r"\([-+\d., e]+\)|[-+]?\d+(\.\d+)?")
_MOST_KINDS = 1000
_AT_A_TIME = 512
"""Records of one task: of shards of small pictures fewer, so that memory stays flat."""


@dataclass(slots=True)
class Problem:
    """One kind of problem: bad records, or bad objects of records that are good but for them."""

    count: int
    example: str
    hint: str
    """The way out; names the option."""

    def as_json(self) -> dict[str, Any]:
        """The problem as plain values."""
        return {"count": self.count, "example": self.example, "hint": self.hint}


@dataclass(slots=True)
class Look:
    """What a conversion would meet."""

    plan: ConversionPlan
    skips: bool
    """Whether bad records are left out; else none may be bad."""
    problems: dict[tuple[str, str], Problem] = field(default_factory=dict)
    """By kind and way out."""
    report: Report = field(default_factory=Report)
    """What is dropped or read otherwise."""
    objects: dict[str, dict[str, int]] = field(default_factory=dict)
    """Split to class to number of good objects; of pictures, where classes are of whole ones."""
    num_bad: int = 0
    num_good: dict[str, int] = field(default_factory=dict)
    """Split to the number of records that become samples."""

    @property
    def questions(self) -> list[DataError]:
        """What the user has to decide; a split that would be empty, too."""
        empty = [split for split, count in self.num_good.items() if not count] if self.skips else []
        place = ", ".join(dict.fromkeys(source.files.shown for source in self.plan.sources))
        hint = "mend its records, or leave the split out by --split"
        told = [
            DataError(place, f"every record of split {split!r} is bad", hint) for split in empty
        ]
        return [*self.plan.questions, *told]

    @property
    def num_objects(self) -> Counter[str]:
        """Class to its number of good objects, over all splits."""
        return sum((Counter(its) for its in self.objects.values()), Counter[str]())

    def add(self, found: dict[str, Any]) -> None:
        """Add what `check_records` found."""
        self.report.merge(found["notes"])
        for bad in found["bad_records"]:
            self.num_bad += 1
            self.count(bad["error"], bad["hint"])
        good = found["num_records"] - len(found["bad_records"])
        self.num_good[found["split"]] = self.num_good.get(found["split"], 0) + good
        its = self.objects.setdefault(found["split"], {})
        for name, count in (found["objects"] or found["counts"].get("pictures", {})).items():
            its[name] = its.get(name, 0) + count

    def count(self, error: str, hint: str) -> None:
        """Count a problem."""
        if "--" not in hint and not self.skips:
            way = "leave it out by --on-bad-record skip"
            hint = f"{hint}, or {way}" if hint else way
        kind = kind_of(error.partition(": ")[2]), hint
        known = self.problems.get(kind)
        if known is not None:
            known.count += 1
        elif len(self.problems) < _MOST_KINDS:
            self.problems[kind] = Problem(1, error, hint)


def kind_of(problem: str) -> str:
    """A problem without its names and numbers.

    >>> kind_of("object 3 'dog': xmax 11 is outside width 10")
    'object # …: xmax # is outside width #'
    """
    return _NUMBERS.sub("#", _QUOTED.sub("…", problem))


def look(
    options: ConvertOptions,
    *,
    on_scan: Callable[[str, int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Look:
    """Read all annotations, all masks and all pictures' headers.

    Args:
        options: What would be converted.
        on_scan: As for `prepare`.
        on_progress: Called with (records checked, all records).

    Raises:
        ShardToolError: A source is missing or damaged as a whole.
    """
    plan = prepare(options, on_scan=on_scan, asks=False)
    found = Look(plan, options.on_bad_record == "skip")
    found.report.merge(plan.surveyed.report.as_json())
    files = tuple(source.files for source in plan.sources)
    is_small = plan.num_records < 2000 or options.workers == 1
    with open_pool(LOCAL, 1 if is_small else options.workers) as pool:
        tasks = ((plan.rules, files, some) for some in plan.chunks(_AT_A_TIME))
        done = 0
        for result in in_order(pool.run(check_records, tasks)):
            found.add(result)
            done += result["num_records"]
            if on_progress:
                on_progress(done, plan.num_records)
    return found


def sorted_problems(problems: Iterable[Problem]) -> list[Problem]:
    """The most frequent ones first."""
    return sorted(problems, key=lambda problem: (-problem.count, problem.example))
