"""Exports a dataset: reads its samples in their order, verified, and has a writer write them."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shard_tool.dataset.sample_rules import checked_sample, picture_extension
from shard_tool.dataset.scan import scan_stored
from shard_tool.dataset.shard_urls import locate_shard
from shard_tool.errors import OptionError, ShardError
from shard_tool.export.coco import CocoWriter
from shard_tool.export.destination import appearing
from shard_tool.export.exported import Exported, Target
from shard_tool.export.losses import Losses
from shard_tool.export.voc import VocWriter
from shard_tool.export.yolo import YoloWriter
from shard_tool.format.file_names import FileNames
from shard_tool.format.manifest import GENERIC
from shard_tool.format.sample import PICTURES
from shard_tool.pictures.header import read_header
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from shard_tool.export.exported import Writer
    from shard_tool.format.manifest import Manifest, ShardEntry

WRITERS: Mapping[str, type[Writer]] = {"coco": CocoWriter, "yolo": YoloWriter, "voc": VocWriter}
"""Name of a format to its writer."""
SHAPES = ("polygons", "boxes")
_KEPT = ("json", *PICTURES, "class.png", "object.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to export, where to, and how.

    Raises:
        OptionError: A value that cannot be used.
    """

    dest: str
    """Folder or URL of the dataset."""
    out: str
    """Local folder to make."""
    format: str
    """A key of `WRITERS`."""
    pictures: bool = False
    """Whether pictures and masks are written, too."""
    splits: tuple[str, ...] = ()
    """Names of splits; empty: all."""
    shapes: str = "polygons"
    """YOLO: 'polygons' writes the polygon of an object that has one; 'boxes' its box."""
    on_existing: str = "fail"
    """'fail', or 'overwrite': an earlier export is replaced."""
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec's options for `dest`."""

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("--format", self.format, tuple(WRITERS)),
            ("--shapes", self.shapes, SHAPES),
            ("--on-existing", self.on_existing, ("fail", "overwrite")),
        ):
            if value not in choices:
                raise OptionError(option, f"{value!r} is not one of {', '.join(choices)}")
        if self.shapes != SHAPES[0] and self.format != "yolo":
            raise OptionError("--shapes", f"is for YOLO; {self.format} has one kind of shape")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written."""

    splits: dict[str, dict[str, Any]]
    """Of each split `num_samples`, `num_objects`, and for COCO `image_ids`: 'source' or
    'numbered'."""
    losses: Losses
    """What the format cannot hold."""
    options: tuple[str, ...]
    """Options with which `convert` makes the same samples again."""
    seconds: float


def export_dataset(
    options: ExportOptions, *, on_progress: Callable[[int, int, str], None] | None = None
) -> ExportReport:
    """Export a dataset.

    Every shard is read once from front to back and compared with its digest. OUT appears when all
    is written.

    Args:
        options: What to export, where to, and how.
        on_progress: Called with (samples done, samples in all, what is written).

    Raises:
        ShardError: A shard is not what the manifest says.
        DataError: A sample breaks a rule.
        ShardToolError: There is no dataset, it cannot be exported, or OUT cannot be written.
    """
    began = time.monotonic()
    folder = Folder(options.dest, options.storage_options)
    manifest = load_manifest(folder)
    if manifest.task == GENERIC:
        problem = f"{folder} holds generic samples, of which nobody knows what they annotate"
        hint = "index the tars again with --task detection, if their JSON has objects"
        raise OptionError("DEST", problem, hint)
    splits = _chosen(manifest, options.splits, str(folder))
    losses = Losses()
    with appearing(options.out, options.on_existing) as out, ExitStack() as closing:
        target = Target(
            folder=out,
            manifest=manifest,
            losses=losses,
            has_pictures=options.pictures,
            shapes=options.shapes,
            closing=closing,
        )
        run = _Run(folder, manifest, WRITERS[options.format](target), splits, on_progress)
        told = run.all()
        again = run.writer.finish()
    return ExportReport(
        splits=told, losses=losses, options=tuple(again), seconds=time.monotonic() - began
    )


def _chosen(manifest: Manifest, splits: tuple[str, ...], place: str) -> tuple[str, ...]:
    there = tuple(manifest.splits)
    for number, split in enumerate(splits):
        if split not in there:
            problem = f"{split!r} is no split of {place}, which has {', '.join(there)}"
            raise OptionError("--split", problem)
        if split in splits[:number]:
            raise OptionError("--split", f"{split!r} is given twice")
    return splits or there


class _Run:
    """One export, split by split, shard by shard."""

    def __init__(
        self,
        folder: Folder,
        manifest: Manifest,
        writer: Writer,
        splits: tuple[str, ...],
        on_progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.writer = writer
        self._folder, self._manifest, self._splits = folder, manifest, splits
        self._on_progress = on_progress or (lambda *_: None)
        self._total = sum(manifest.splits[split].num_samples for split in splits)
        self._done = self._num_objects = self._sample_id = 0
        self._split, self._names = "", FileNames("")
        self._taken: set[str] | None = set() if writer.shares_folders else None

    def all(self) -> dict[str, dict[str, Any]]:
        """Write all splits; returns what is to be told of each."""
        told, first_id = {}, 0
        for split, its in self._manifest.splits.items():
            self._sample_id = first_id
            first_id += its.num_samples
            if split in self._splits:
                told[split] = self._one(split, its.shards)
        return told

    def _one(self, split: str, shards: tuple[ShardEntry, ...]) -> dict[str, Any]:
        self._split, self._num_objects, begun = split, 0, self._done
        self._names = FileNames(split, blanks=self.writer.blanks, taken=self._taken)
        self.writer.begin(split)
        for entry in shards:
            self._shard(entry)
        more = self.writer.end()
        return {"num_samples": self._done - begun, "num_objects": self._num_objects, **more}

    def _shard(self, entry: ShardEntry) -> None:
        folder, name = (
            (self._folder, entry.name)
            if entry.url is None
            else locate_shard(entry.url, self._folder)
        )
        shard = folder.object(name)
        place = shard.place

        def write(key: str, _: Collection[str], kept: dict[str, bytes]) -> None:
            self._sample(key, kept, f"{place}: {key}")

        scanned = scan_stored(shard, shard.num_bytes(), keep=_KEPT, on_sample=write)
        if scanned.sha256 != entry.sha256:
            problem = f"sha256 {scanned.sha256}, the manifest says {entry.sha256}"
            raise ShardError(place, problem, "see what is wrong by `shard-tool verify`")

    def _sample(self, key: str, kept: dict[str, bytes], place: str) -> None:
        sample = checked_sample(key, kept, self._manifest.classes, place)
        extension = picture_extension(kept.keys(), place)
        self._num_objects += self.writer.add(
            Exported(
                sample=sample,
                sample_id=self._sample_id,
                split=self._split,
                place=place,
                name=self._names.of(key),
                extension=extension,
                header=read_header(kept[extension], place),
                members=kept,
            )
        )
        self._sample_id += 1
        self._done += 1
        self._on_progress(self._done, self._total, self._split)
