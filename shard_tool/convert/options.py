"""Holds and checks the options of a conversion."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from shard_tool.convert.rules import Choices
from shard_tool.dataset.publication import OnExisting
from shard_tool.errors import OptionError
from shard_tool.pictures.reencode import Reencoding
from shard_tool.sources.classes import ClassOptions
from shard_tool.sources.open import FORMATS
from shard_tool.tasks.engines import check_engine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TASKS = ("detection", "segmentation", "classification", "layout", "action")
OnBadRecord = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What to convert, where to, and how.

    Raises:
        OptionError: A value cannot be used.
    """

    source: str | Sequence[str]
    """An archive, as a path or URL, or a folder that holds pictures and annotations; one or several
    become one dataset."""
    dest: str
    """Folder or URL of the dataset; created if missing."""
    task: str = "detection"
    splits: tuple[str, ...] = ()
    """Empty: those of train, val and test that the sources have."""
    name: str | None = None
    """Name of the dataset; None: 'voc' and the year, or 'voc07+12', for VOC's own sets, else the
    name of the first source."""
    shard_bytes: int = 64 << 20
    """Largest size of a shard, in bytes; a single record may exceed it."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes of the local engine; 1: write the shards in this process."""
    engine: str = "local"
    """'local', or the address of a Dask scheduler ('tcp://host:8786')."""
    seed: int = 0
    """Seed of the order of samples in shards."""
    on_existing: OnExisting = "fail"
    on_bad_record: OnBadRecord = "fail"
    max_bad_records: int | None = None
    """With on_bad_record 'skip': most records to skip; None: no limit."""
    resize: int | None = None
    """Most pixels of a picture's longer side; larger pictures are scaled down. None: no limit."""
    quality: int | None = None
    """JPEG quality, 1 to 100, of every picture; None: re-encode scaled pictures only, at 90."""
    format: str = "auto"
    """Format that all sources must be of; 'auto': whatever each is found to be."""
    classes: ClassOptions = field(default_factory=ClassOptions)
    choices: Choices = field(default_factory=Choices)
    split_files: Mapping[str, str] = field(default_factory=dict)
    """Split to the path of a local list of its pictures; in place of the source's own lists."""
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec's options for `dest`, and for sources reached by the same protocol."""
    source_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec's options for sources, if they differ from those for `dest`."""

    def __post_init__(self) -> None:
        if not self.sources or "" in self.sources:
            raise OptionError("SOURCE", "is empty" if self.sources else "none is given")
        if not self.dest:
            raise OptionError("DEST", "is empty")
        _check_choice("--task", self.task, TASKS)
        _check_choice("--source-format", self.format, ("auto", *FORMATS))
        _check_choice("--on-existing", self.on_existing, get_args(OnExisting))
        _check_choice("--on-bad-record", self.on_bad_record, get_args(OnBadRecord))
        if self.workers < 1:
            raise OptionError("--workers", f"{self.workers} is below 1")
        if self.shard_bytes < 1:
            raise OptionError("--shard-size", f"{self.shard_bytes} bytes are below 1")
        if self.max_bad_records is not None and self.max_bad_records < 0:
            raise OptionError("--max-bad-records", f"{self.max_bad_records} is below 0")
        if self.max_bad_records is not None and self.on_bad_record != "skip":
            problem = "no record may be bad unless it is skipped"
            raise OptionError("--max-bad-records", problem, "add --on-bad-record skip")
        if self.name == "":
            raise OptionError("--name", "is empty")
        if self.split_files and len(self.sources) > 1:
            raise OptionError("--split-file", "takes one source, several are given")
        for number, split in enumerate((*self.splits, *self.split_files)):
            if split in self.splits[:number] and number < len(self.splits):
                raise OptionError("--split", f"{split!r} is given twice")
            if not re.fullmatch(r"[A-Za-z0-9_+-]+", split):
                raise OptionError("--split", f"{split!r} cannot name a list and its shards")
        check_engine(self.engine)
        self.reencoding()  # checks --resize and --quality

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources as a tuple."""
        return (self.source,) if isinstance(self.source, str) else tuple(self.source)

    def reencoding(self) -> Reencoding | None:
        """How to re-encode pictures; None: they keep their bytes."""
        if self.resize is None and self.quality is None:
            return None
        return Reencoding(longer_side=self.resize, quality=self.quality)

    def options_of(self, source: str) -> dict[str, Any]:
        """Storage options for a source: its own, else those of DEST for the same protocol."""
        protocol, elsewhere, _ = source.partition("://")
        if not elsewhere or self.source_options:
            return self.source_options if elsewhere else {}
        of_dest, is_url, _ = self.dest.partition("://")
        is_same = of_dest.replace("s3a", "s3") == protocol.replace("s3a", "s3")
        return self.storage_options if is_same or not is_url else {}


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(option, f"{value!r} is not one of {', '.join(choices)}")
