"""Defines the verb ``convert``, which makes datasets of annotated pictures."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path  # noqa: TC003  (typer reads annotations at run time)
from typing import TYPE_CHECKING, Annotated

import typer

from shard_tool.cli.convert_output import print_conversion, print_look
from shard_tool.cli.download import Mirror, fetched, missing_archives, print_downloads
from shard_tool.cli.options import (
    ClassesOption,
    Dest,
    Engine,
    Format,
    FormatOption,
    OnExisting,
    OnExistingOption,
    SourceOption,
    StorageOption,
    Workers,
    class_names,
    repeating_command,
    resuming_command,
    say,
    storage_options,
)
from shard_tool.cli.progress import progress
from shard_tool.convert.look import Look, look
from shard_tool.convert.options import ConvertOptions
from shard_tool.convert.rules import Choices
from shard_tool.convert.run import convert, prepare
from shard_tool.errors import DataError, OptionError
from shard_tool.sources.classes import ClassOptions
from shard_tool.sources.report import LEFT_OUT
from shard_tool.sources.voc.named import archives_folder
from shard_tool.tasks.local_processes import start_early
from shard_tool.units import parse_size

if TYPE_CHECKING:
    from shard_tool.convert.plan import ConversionPlan
    from shard_tool.convert.results import ConvertProgress

_STRICT_STATUS = 3


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


class OtherClasses(StrEnum):
    """What to do with objects of other classes."""

    fail = "fail"
    drop = "drop"


class Boxes(StrEnum):
    """Convention of the numbers of boxes."""

    auto = "auto"
    devkit = "devkit"
    corners = "corners"


class BadBoxes(StrEnum):
    """What to do with boxes outside their picture."""

    fail = "fail"
    clip = "clip"
    drop = "drop"


class SizeMismatch(StrEnum):
    """What to do where an annotation says another size than its picture has."""

    fail = "fail"
    scale = "scale"
    ignore = "ignore"


class Exif(StrEnum):
    """Which pixels boxes belong to in pictures with an EXIF orientation."""

    auto = "auto"
    upright = "upright"
    stored = "stored"
    bake = "bake"


class Unlabelled(StrEnum):
    """What to do with pictures without annotation."""

    auto = "auto"
    fail = "fail"
    drop = "drop"
    background = "background"


class SourceFormat(StrEnum):
    """Format of the sources."""

    auto = "auto"
    voc = "voc"
    voc_flat = "voc-flat"
    masks = "masks"
    coco = "coco"
    yolo = "yolo"
    labelme = "labelme"
    cvat = "cvat"
    imagefolder = "imagefolder"


def convert_command(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A folder, or a tar, tar.gz or zip (path or URL), of pictures with annotations: "
            "VOC's XML, masks, COCO, YOLO, labelme, CVAT, or folders of classes. Or a name from "
            "voc2007 to voc2012, which is downloaded first. Several sources become one dataset.",
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
        str | None,
        typer.Option(metavar="NAME", help="Name of the dataset. [default: vocYEAR, or the source]"),
    ] = None,
    source_format: Annotated[
        SourceFormat, typer.Option(help="Format that the sources must have.")
    ] = SourceFormat.auto,
    classes: ClassesOption = None,
    other_classes: Annotated[
        OtherClasses, typer.Option(help="What to do with objects of other classes.")
    ] = OtherClasses.fail,
    rename: Annotated[
        list[str],
        typer.Option(metavar="OLD=NEW", help="Rename a class, or merge it; repeatable."),
    ] = [],  # noqa: B006
    boxes: Annotated[
        Boxes,
        typer.Option(
            help="How boxes count: devkit (from 1, both corners inside) or corners (from 0). "
            "[auto: devkit where the classes are VOC's]"
        ),
    ] = Boxes.auto,
    bad_boxes: Annotated[
        BadBoxes, typer.Option(help="What to do with boxes that leave their picture.")
    ] = BadBoxes.fail,
    size_mismatch: Annotated[
        SizeMismatch,
        typer.Option(
            help="What to do where an annotation says another size than its picture has: fail, "
            "scale its boxes, or ignore what it says."
        ),
    ] = SizeMismatch.fail,
    exif: Annotated[
        Exif,
        typer.Option(
            help="Boxes are of the picture as EXIF turns it (upright), or as it is stored; bake "
            "writes upright pictures. [auto: the size in the annotation tells]"
        ),
    ] = Exif.auto,
    unlabelled: Annotated[
        Unlabelled,
        typer.Option(
            help="What to do with pictures without annotation. [auto: fail where a list names "
            "them, else drop]"
        ),
    ] = Unlabelled.auto,
    split_file: Annotated[
        list[str],
        typer.Option(metavar="NAME=FILE", help="A list of a split's pictures; repeatable."),
    ] = [],  # noqa: B006
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
    strict: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--strict", help="Exit with status 3 if a record or an object was left out."),
    ] = False,
    dry_run: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--dry-run",
            help="Read every annotation and every picture's header, print what would be done and "
            "all problems, and write nothing.",
        ),
    ] = False,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006
    source_option: SourceOption = [],  # noqa: B006
) -> None:
    """Convert annotated pictures into shards with a manifest."""
    folder = archive_dir or archives_folder()
    options = ConvertOptions(  # checks its values before anything is downloaded
        source=source,
        dest=dest,
        task=task.value,
        splits=tuple(split),
        name=name,
        format=source_format.value,
        classes=ClassOptions(
            classes=class_names(classes),
            other_classes=other_classes.value,
            rename=tuple(_pairs(rename, "--rename", "OLD=NEW").items()),
        ),
        choices=Choices(
            boxes=boxes.value,
            bad_boxes=bad_boxes.value,
            size_mismatch=size_mismatch.value,
            exif=exif.value,
            unlabelled=unlabelled.value,
        ),
        split_files=_pairs(split_file, "--split-file", "NAME=FILE"),
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
    if dry_run and (missing := missing_archives(source, folder, mirror)):
        print_downloads(missing, folder, format_)
        return
    try:
        options = replace(options, source=fetched(source, folder, mirror))
        if dry_run:
            print_look(options, _looked(options), format_)
            return
        plan = _scanned(options)
    except KeyboardInterrupt:
        say(f"interrupted: nothing was written; start again with\n{repeating_command(sys.argv)}")
        raise
    try:
        with progress("converting", unit="samples") as advance:

            def show(at: ConvertProgress) -> None:
                shards = f"{at.shards}/{at.total_shards} shards"
                advance(at.samples, at.total_samples, shards, num_bytes=at.num_bytes)

            report = convert(options, plan=plan, on_progress=show)
    except DataError:
        say("the first problem is below; --dry-run shows all of them at once")
        raise
    except KeyboardInterrupt:
        say(f"interrupted: nothing is committed; continue with\n{resuming_command(sys.argv)}")
        raise
    print_conversion(plan, report, dest, format_)
    if strict and LEFT_OUT & report.manifest.report.keys():
        raise typer.Exit(_STRICT_STATUS)


def _pairs(given: list[str], option: str, form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise OptionError(option, f"{pair!r} is not {form}")
        if name in found:
            raise OptionError(option, f"{name!r} is given twice")
        found[name] = value
    return found


def _scanned(options: ConvertOptions) -> ConversionPlan:
    start_early(options.engine, options.workers)
    with progress("reading the source", unit="bytes") as advance:
        return prepare(options, on_scan=lambda _, done, total: advance(done, total))


def _looked(options: ConvertOptions) -> Look:
    start_early(options.engine, options.workers)
    with progress("looking", unit="samples") as advance:
        return look(options, on_progress=lambda done, total: advance(done, total))
