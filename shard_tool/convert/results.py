"""Collects the reports of finished shards into progress, the report and the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.convert.identity import byte_options, dataset_name
from shard_tool.convert.source_digests import ReadFiles
from shard_tool.dataset.publication import BAD_RECORDS_NAME
from shard_tool.errors import DataError
from shard_tool.format.counts import SplitCounts
from shard_tool.format.manifest import Manifest, ShardEntry, Split
from shard_tool.release import RELEASE
from shard_tool.sources.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shard_tool.convert.options import ConvertOptions
    from shard_tool.convert.plan import ConversionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertProgress:
    """How far a conversion has come."""

    samples: int
    total_samples: int
    num_bytes: int
    shards: int
    total_shards: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """What a conversion did."""

    manifest: Manifest
    bad_records: tuple[dict[str, Any], ...]
    """Records that were skipped, and objects that were dropped because they are bad."""
    seconds: float
    num_kept_shards: int = 0
    """Shards kept from an earlier run."""


class Results:
    """Collects the reports of all tasks; its memory grows with the shards, not the records."""

    def __init__(
        self,
        plan: ConversionPlan,
        options: ConvertOptions,
        on_progress: Callable[[ConvertProgress], None] | None,
    ) -> None:
        self.files = ReadFiles()
        self.files.merge(plan.surveyed.files.as_json())
        self.num_kept = 0
        """Shards kept from an earlier run."""
        self.committed: Manifest
        """The manifest, once it is published."""
        self._plan, self._options, self._on_progress = plan, options, on_progress
        self._names, classes = list(plan.shard_names()), plan.rules.classes.names
        self._entries: dict[int, ShardEntry] = {}
        self._counts = {split.split: SplitCounts(options.task, classes) for split in plan.splits}
        self._notes: dict[int, dict[str, Any]] = {}
        self._bad: dict[int, list[dict[str, Any]]] = {}
        self._samples = self._num_bytes = self._num_bad = self._shards = 0

    def add(self, number: int, report: dict[str, Any], *, is_kept: bool) -> None:
        """Add the report of one shard.

        Raises:
            DataError: More records are bad than the options allow.
        """
        if report["entry"]:
            self._entries[number] = ShardEntry(**report["entry"])
        self._counts[self._names[number][0]].merge(report)
        if bad := [*report["bad_records"], *report["dropped"]]:
            self._bad[number] = bad
        self.files.merge(report["files"])
        if report["notes"]:
            self._notes[number] = report["notes"]
        self._check_bad(report["bad_records"])
        self._samples += self._plan.num_records_of(number)
        self._num_bytes += report["entry"]["num_bytes"] if report["entry"] else 0
        self._shards += 1
        self.num_kept += is_kept
        if self._on_progress:
            self._on_progress(
                ConvertProgress(
                    samples=self._samples,
                    total_samples=self._plan.num_records,
                    num_bytes=self._num_bytes,
                    shards=self._shards,
                    total_shards=len(self._names),
                )
            )

    def bad_records(self) -> tuple[dict[str, Any], ...]:
        """The skipped records and dropped objects in the order of their shards."""
        return tuple(bad for number in sorted(self._bad) for bad in self._bad[number])

    def manifest(self, sources: Sequence[dict[str, Any]]) -> Manifest:
        """Build the manifest.

        Raises:
            DataError: A split has no good record.
        """
        plan, options = self._plan, self._options
        return Manifest(
            name=dataset_name(options, plan),
            task=options.task,
            classes=plan.rules.classes.labels,
            sources=tuple(sources),
            release=RELEASE,
            options=byte_options(options, plan),
            splits={split.split: self._split(split.split) for split in plan.splits},
            num_bad_records=self._num_bad,
            duplicates=plan.duplicates,
            report=self._whole_report().as_json(),
        )

    def _whole_report(self) -> Report:
        """What was dropped or read otherwise, the same whoever wrote which shard.

        Examples name files by their path below the source: where that lies decides no bytes.
        """
        found = Report()
        found.merge(self._plan.surveyed.report.as_json())
        for number in sorted(self._notes):
            found.merge(self._notes[number])
        error = next((bad["error"] for bad in self.bad_records() if "object" not in bad), "")
        found.add("bad-record-skipped", error, self._num_bad)
        found.shorten(source.files.place("") for source in self._plan.sources)
        return found

    def _check_bad(self, bad: list[dict[str, Any]]) -> None:
        self._num_bad += len(bad)
        limit = self._options.max_bad_records
        if limit is not None and self._num_bad > limit:
            problem = f"{self._num_bad} bad records exceed --max-bad-records {limit}"
            raise DataError(self._place(), f"{problem}; among them: {bad[0]['error']}")

    def _place(self) -> str:
        return ", ".join(dict.fromkeys(source.files.shown for source in self._plan.sources))

    def _split(self, split: str) -> Split:
        entries = tuple(
            self._entries[number]
            for number, (name, _) in enumerate(self._names)
            if name == split and number in self._entries
        )
        if not entries:
            problem = f"every record of split {split!r} is bad; see {BAD_RECORDS_NAME}"
            raise DataError(self._place(), problem)
        return Split(
            shards=entries,
            num_samples=sum(entry.num_samples for entry in entries),
            num_bytes=sum(entry.num_bytes for entry in entries),
            **self._counts[split].as_json(),
        )
