"""Defines the verbs ``convert`` and ``download``, which make datasets from VOC."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path  # noqa: TC003  (typer reads annotations at run time)
from typing import TYPE_CHECKING, Annotated

import typer

from shard_tool.cli.options import (
    Dest,
    Engine,
    Format,
    FormatOption,
    OnExisting,
    OnExistingOption,
    SourceOption,
    StorageOption,
    Workers,
    print_json,
    repeating_command,
    resuming_command,
    say,
    storage_options,
)
from shard_tool.cli.progress import progress
from shard_tool.convert.options import ConvertOptions
from shard_tool.convert.run import convert, prepare
from shard_tool.dataset.publication import BAD_RECORDS_NAME
from shard_tool.errors import OptionError
from shard_tool.sources.voc.named import archives_folder, download_archives, wanted_archives
from shard_tool.storage.location import Folder
from shard_tool.tasks.local_processes import start_early
from shard_tool.units import human_bytes, parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shard_tool.convert.plan import ConversionPlan
    from shard_tool.convert.results import ConvertProgress, ConvertReport
    from shard_tool.sources.voc.named import WantedArchive

_RELEASE = re.compile(r"voc(\d{4})")


class Task(StrEnum):
    """Task that a dataset is for."""

    detection = "detection"
    segmentation = "segmentation"
    classification = "classification"
    layout = "layout"
    action = "action"


class OnBadRecord(StrEnum):
    """What to do with a bad record."""

    fail = "fail"
    skip = "skip"


Mirror = Annotated[
    list[str],
    typer.Option("--mirror", metavar="URL", help="Folder of archives to try first; repeatable."),
]


def convert_command(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A VOC tar (path or URL, read in place), a VOC folder, or a name from voc2007 to "
            "voc2012, which is downloaded first. Several sources become one dataset.",
        ),
    ],
    dest: Dest,
    task: Annotated[Task, typer.Option(help="Task that the dataset is for.")] = Task.detection,
    split: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Split to convert; repeatable. [default: those of train, val, test with pictures]",
        ),
    ] = [],  # noqa: B006  (typer copies it)
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the dataset. [default: vocYEAR]")
    ] = None,
    shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest size of a shard, such as 256MiB.")
    ] = "64MiB",
    workers: Workers = None,
    engine: Engine = "local",
    seed: Annotated[int, typer.Option(help="Seed for the order of samples in the shards.")] = 0,
    resize: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Longest side of a picture in pixels; larger pictures are scaled down, with their "
            "boxes and masks. [default: no limit]",
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            metavar="Q",
            help="JPEG quality, 1 to 100, at which every picture is encoded again. [default: 90 "
            "for pictures that --resize scales down; others keep their bytes]",
        ),
    ] = None,
    on_existing: OnExistingOption = OnExisting.fail,
    on_bad_record: Annotated[
        OnBadRecord, typer.Option(help="What to do with a bad record: fail, or skip and list it.")
    ] = OnBadRecord.fail,
    max_bad_records: Annotated[
        int | None,
        typer.Option(help="Largest number of bad records to skip. [default: no limit]"),
    ] = None,
    mirror: Mirror = [],  # noqa: B006
    archive_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for downloaded archives. [default: ~/.cache/voc-shards/archives]",
        ),
    ] = None,
    dry_run: Annotated[  # noqa: FBT002
        bool, typer.Option("--dry-run", help="Print what would be done and write nothing.")
    ] = False,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006
    source_option: SourceOption = [],  # noqa: B006
) -> None:
    """Convert VOC archives or folders into shards with a manifest."""
    folder = archive_dir or archives_folder()
    options = ConvertOptions(  # checks its values before anything is downloaded
        source=source,
        dest=dest,
        task=task.value,
        splits=tuple(split),
        name=name,
        shard_bytes=parse_size(shard_size, "--shard-size"),
        engine=engine,
        seed=seed,
        resize=resize,
        quality=quality,
        on_existing=on_existing.value,
        on_bad_record=on_bad_record.value,
        max_bad_records=max_bad_records,
        storage_options=storage_options(storage_option),
        source_options=storage_options(source_option, "--source-option"),
        **({} if workers is None else {"workers": workers}),
    )
    if dry_run and (missing := _missing(source, folder, mirror)):
        _print_downloads(missing, folder, format_)
        return
    try:
        options = replace(options, source=_fetched(source, folder, mirror))
        plan = _scanned(options)
    except KeyboardInterrupt:
        say(f"interrupted: nothing was written; start again with\n{repeating_command(sys.argv)}")
        raise
    if dry_run:
        _print_plan(options, plan, format_)
        return
    try:
        with progress("converting", unit="samples") as advance:

            def show(at: ConvertProgress) -> None:
                shards = f"{at.shards}/{at.total_shards} shards"
                advance(at.samples, at.total_samples, shards, num_bytes=at.num_bytes)

            report = convert(options, plan=plan, on_progress=show)
    except KeyboardInterrupt:
        say(f"interrupted: nothing is committed; continue with\n{resuming_command(sys.argv)}")
        raise
    _print_conversion(report, dest, format_)


def download_command(
    dataset: Annotated[str, typer.Argument(metavar="voc2007|…|voc2012", help="Year to download.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Folder for the archives.")],
    set_: Annotated[
        str | None,
        typer.Option(
            "--set",
            help="Archive to download: trainval or test. [default: every one of the year]",
        ),
    ] = None,
    mirror: Mirror = [],  # noqa: B006
    format_: FormatOption = Format.text,
) -> None:
    """Download the official VOC archives of one year.

    Interrupted downloads are resumed, and every archive is verified by its MD5.
    """
    match = _RELEASE.fullmatch(dataset)
    if not match:
        raise OptionError(repr(dataset), "is not a VOC release", "choose one of voc2007 to voc2012")
    try:
        paths = _fetched_release(match[1], dest, mirror, set_=set_)
    except KeyboardInterrupt:
        say(f"interrupted: downloaded bytes are kept; continue with\n{repeating_command(sys.argv)}")
        raise
    if format_ is Format.json:
        print_json({"archives": paths})
    else:
        typer.echo("\n".join(paths))


# Sources ------------------------------------------------------------------------------------


def _missing(sources: Sequence[str], folder: Path, mirrors: Sequence[str]) -> list[WantedArchive]:
    """Official archives that are not in the folder yet."""
    years = [match[1] for source in sources if (match := _RELEASE.fullmatch(source))]
    wanted = [item for year in years for item in wanted_archives(year, folder, mirrors=mirrors)]
    return [item for item in wanted if not item.is_there]


def _fetched(sources: Sequence[str], folder: Path, mirrors: Sequence[str]) -> tuple[str, ...]:
    """Download what sources name, and replace names like voc2012 by paths of archives."""
    found: list[str] = []
    for source in sources:
        match = _RELEASE.fullmatch(source)
        if not match:
            found.append(source)
            continue
        found += _fetched_release(match[1], folder, mirrors)
    return tuple(found)


def _fetched_release(
    year: str, folder: Path, mirrors: Sequence[str], *, set_: str | None = None
) -> list[str]:
    """Download the archives of a year and return their paths."""
    with progress(f"voc{year}", unit="bytes") as advance:
        paths = download_archives(
            year,
            folder,
            set_=set_,
            mirrors=mirrors,
            on_progress=lambda what, done, total: advance(done, total, what=what),
        )
    return [str(path) for path in paths]


def _scanned(options: ConvertOptions) -> ConversionPlan:
    start_early(options.engine, options.workers)
    with progress("reading the source", unit="bytes") as advance:
        return prepare(options, on_scan=lambda _, done, total: advance(done, total))


# Results ------------------------------------------------------------------------------------


def _print_downloads(missing: Sequence[WantedArchive], folder: Path, format_: Format) -> None:
    if format_ is Format.json:
        documents = [
            {"file": item.archive.file, "url": item.url, "num_bytes": item.archive.num_bytes}
            for item in missing
        ]
        print_json({"dry_run": True, "archives_dir": str(folder), "downloads": documents})
        return
    for item in missing:
        size = item.archive.num_bytes
        told = "unknown size" if size is None else human_bytes(size)
        typer.echo(f"would download {item.url} ({told}) into {folder}")
    typer.echo("the plan depends on what these archives hold: download them and run this again")


def _print_plan(options: ConvertOptions, plan: ConversionPlan, format_: Format) -> None:
    dest = Folder(options.dest)
    if format_ is Format.json:
        print_json(
            {
                "dry_run": True,
                "dest": str(dest),
                "sources": [devkit.source.shown for devkit in plan.devkits],
                "num_duplicates": len(plan.duplicates),
                "splits": {
                    split.split: {
                        "num_shards": split.num_shards,
                        "num_samples": len(split.keys),
                        "num_bytes": split.num_bytes,
                    }
                    for split in plan.splits
                },
            }
        )
        return
    for devkit in plan.devkits:
        typer.echo(f"from {devkit.source.shown}: VOC{devkit.year}")
    for split in plan.splits:
        size = human_bytes(split.num_bytes)
        typer.echo(
            f"{split.split}: {len(split.keys)} samples, {split.num_shards} shards, about {size}"
        )
    if plan.duplicates:
        typer.echo(f"{len(plan.duplicates)} pictures are left out: another source has them too")
    typer.echo(f"{dest}: nothing is written (--dry-run)")


def _print_conversion(report: ConvertReport, dest: str, format_: Format) -> None:
    manifest = report.manifest
    folder, num_bad = Folder(dest), len(report.bad_records)
    if num_bad:
        say(f"{num_bad} bad records skipped; listed in {folder.place(BAD_RECORDS_NAME)}")
    if report.num_kept_shards:
        say(f"{report.num_kept_shards} shards of an earlier run are kept")
    if manifest.duplicates:
        say(f"{len(manifest.duplicates)} pictures are left out: another source has them too")
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
        }
        print_json(document)
        return
    for name, split in manifest.splits.items():
        size = human_bytes(split.num_bytes)
        typer.echo(f"{name}: {split.num_samples} samples, {len(split.shards)} shards, {size}")
    typer.echo(f"{folder}: done in {report.seconds:.1f} s")
