"""Defines the verb ``export``, which writes a dataset as annotations of COCO, YOLO or VOC."""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from shard_tool.cli.options import Dest, Format, StorageOption, print_json, say, storage_options
from shard_tool.cli.progress import progress
from shard_tool.export.run import ExportOptions, export_dataset

if TYPE_CHECKING:
    from shard_tool.export.run import ExportReport


class ExportFormat(StrEnum):
    """Format of the annotations."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"


class Shapes(StrEnum):
    """What YOLO's lines hold."""

    polygons = "polygons"
    boxes = "boxes"


class OnExistingExport(StrEnum):
    """What to do if OUT is not empty."""

    fail = "fail"
    overwrite = "overwrite"


def export_command(
    dest: Dest,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to make.")],
    format_: Annotated[ExportFormat, typer.Option("--format", help="Format of the annotations.")],
    pictures: Annotated[  # noqa: FBT002
        bool, typer.Option("--pictures", help="Write pictures and masks as well.")
    ] = False,
    split: Annotated[
        list[str],
        typer.Option("--split", metavar="NAME", help="Split; repeatable. [default: all]"),
    ] = [],  # noqa: B006  (typer copies it)
    shapes: Annotated[
        Shapes,
        typer.Option(
            "--shapes", help="YOLO: write the polygon of an object that has one, or its box."
        ),
    ] = Shapes.polygons,
    on_existing: Annotated[
        OnExistingExport,
        typer.Option(
            "--on-existing", help="What to do if OUT holds an export: fail, or overwrite it."
        ),
    ] = OnExistingExport.fail,
    output_format: Annotated[
        Format, typer.Option("--output-format", help="Format of the printed result.")
    ] = Format.text,
    storage_option: StorageOption = [],  # noqa: B006
) -> None:
    """Write a dataset as annotations of COCO, YOLO or VOC.

    Boxes are those of the samples to the last digit; what the format cannot hold is counted.
    """
    options = ExportOptions(
        dest=dest,
        out=out,
        format=format_.value,
        pictures=pictures,
        splits=tuple(split),
        shapes=shapes.value,
        on_existing=on_existing.value,
        storage_options=storage_options(storage_option),
    )
    try:
        with progress("exporting", unit="samples") as advance:
            report = export_dataset(options, on_progress=advance)
    except KeyboardInterrupt:
        say(f"interrupted: {out} is not written")
        raise
    _print_report(options, report, output_format)


def _print_report(options: ExportOptions, report: ExportReport, output_format: Format) -> None:
    again = " ".join(["shard-tool convert", shlex.quote(options.out), "DEST", *report.options])
    if output_format is Format.json:
        print_json(
            {
                "out": options.out,
                "format": options.format,
                "pictures": options.pictures,
                "splits": report.splits,
                "report": report.losses.as_json(),
                "convert_options": list(report.options),
                "seconds": round(report.seconds, 3),
            }
        )
        return
    for name, told in report.splits.items():
        ids = f", image ids {told['image_ids']}" if "image_ids" in told else ""
        typer.echo(f"{name}: {told['num_samples']} samples, {told['num_objects']} objects{ids}")
    if lines := report.losses.lines():
        typer.echo(f"what {options.format} cannot hold:")
        for line in lines:
            typer.echo(f"  {line}")
    what = "annotations and pictures" if options.pictures else "annotations"
    typer.echo(f"{options.out}: {what} written in {report.seconds:.1f} s")
    if options.pictures:
        typer.echo(f"converted again by: {again}")
