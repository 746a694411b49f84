"""``shard-tool``: a thin skin over the library, one function a verb.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 usage,
130 interrupted.
"""

from __future__ import annotations

import logging
import re
import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003  (typer reads annotations at run time)
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shard_tool.cli_options import (
    Dest,
    Format,
    FormatOption,
    StorageOption,
    print_json,
    say,
    storage_options,
)
from shard_tool.cli_streaming import bench_command, plan_command, preview_command
from shard_tool.convert import (
    BAD_RECORDS_NAME,
    ConvertOptions,
    ConvertProgress,
    ConvertReport,
    convert,
)
from shard_tool.errors import OptionError, ShardToolError
from shard_tool.manifest import Manifest, encode_manifest
from shard_tool.progress import human_bytes, progress
from shard_tool.release import RELEASE
from shard_tool.sizes import parse_size
from shard_tool.storage import Folder, load_manifest
from shard_tool.verify import verify
from shard_tool.voc.archives import archives_of
from shard_tool.voc.download import download_archive

app = typer.Typer(
    name="shard-tool",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: the same on every terminal, and in docs/reference/cli.md
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn PASCAL VOC into WebDataset shards, and look after them.",
)


class Task(StrEnum):
    """What the dataset is for."""

    detection = "detection"
    segmentation = "segmentation"


class OnExisting(StrEnum):
    """What to do where DEST is not empty."""

    fail = "fail"
    overwrite = "overwrite"


class OnBadRecord(StrEnum):
    """What to do with a record that breaks a rule."""

    fail = "fail"
    skip = "skip"


@app.callback(invoke_without_command=True)
def shard_tool(
    version: Annotated[bool, typer.Option("--version", help="Print the release.")] = False,  # noqa: FBT002
) -> None:
    """Turn PASCAL VOC into WebDataset shards, and look after them."""
    if version:
        typer.echo(f"shard-tool {RELEASE}")
        raise typer.Exit


@app.command("convert")
def convert_command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A VOC tar, read in place, or a VOC folder.")
    ],
    dest: Dest,
    task: Annotated[Task, typer.Option(help="What the dataset is for.")] = Task.detection,
    split: Annotated[
        list[str],
        typer.Option(
            metavar="NAME", help="Split to convert; repeatable. [default: those with pictures]"
        ),
    ] = [],  # noqa: B006  (typer copies it)
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the dataset. [default: vocYEAR]")
    ] = None,
    shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Size of a shard, e.g. 256MiB.")
    ] = "64MiB",
    workers: Annotated[
        int | None, typer.Option(help="Processes that write shards. [default: one a core]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of samples in shards.")] = 0,
    on_existing: Annotated[
        OnExisting, typer.Option(help="What to do where DEST is not empty.")
    ] = OnExisting.fail,
    on_bad_record: Annotated[
        OnBadRecord, typer.Option(help="What to do with a record that breaks a rule.")
    ] = OnBadRecord.fail,
    max_bad_records: Annotated[
        int | None, typer.Option(help="Most records that may be skipped. [default: no limit]")
    ] = None,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006
) -> None:
    """Convert a VOC archive or folder into shards with a manifest."""
    options = ConvertOptions(
        source=source,
        dest=dest,
        task=task.value,
        splits=tuple(split),
        name=name,
        shard_bytes=parse_size(shard_size, "--shard-size"),
        seed=seed,
        on_existing=on_existing.value,
        on_bad_record=on_bad_record.value,
        max_bad_records=max_bad_records,
        storage_options=storage_options(storage_option),
        **({} if workers is None else {"workers": workers}),
    )
    try:
        with progress("converting") as advance:
            report = convert(options, on_progress=lambda at: advance(*_converted(at)))
    except KeyboardInterrupt:
        say("interrupted: nothing is committed; repeat with --on-existing overwrite")
        raise
    _print_conversion(report, dest, format_)


@app.command("verify")
def verify_command(
    dest: Dest,
    decode: Annotated[  # noqa: FBT002
        bool, typer.Option("--decode", help="Decode every picture and mask as well.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes. [default: one a core]")] = None,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006
) -> None:
    """Read every byte of a dataset and compare it with the manifest, the indexes and the JSON."""
    if workers is not None and workers < 1:
        raise OptionError("--workers", f"{workers} is below 1")
    folder = Folder(dest, storage_options(storage_option))
    with progress("verifying") as advance:
        report = verify(
            folder,
            decode=decode,
            workers=workers,
            on_progress=lambda done, total: advance(done, total, "shards"),
        )
    if format_ is Format.json:
        print_json(
            {
                "ok": not report.problems,
                "problems": list(report.problems),
                "num_samples": report.num_samples,
                "num_bytes": report.num_bytes,
                "seconds": round(report.seconds, 3),
                "fingerprint": report.manifest.fingerprint,
            }
        )
    else:
        shards = sum(len(split.shards) for split in report.manifest.splits.values())
        size = human_bytes(report.num_bytes)
        state = f"{len(report.problems)} problems" if report.problems else "ok"
        for problem in report.problems:
            typer.echo(problem)
        typer.echo(f"{folder}: {state}: {report.num_samples} samples, {shards} shards, {size}")
    if report.problems:
        raise typer.Exit(1)


@app.command("info")
def info_command(
    dest: Dest,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006
) -> None:
    """Say what a dataset holds, from its manifest alone."""
    manifest = load_manifest(Folder(dest, storage_options(storage_option)))
    if format_ is Format.json:
        sys.stdout.write(encode_manifest(manifest).decode())
        return
    typer.echo(f"{manifest.name}: {manifest.task}, {manifest.num_samples} samples")
    typer.echo(f"fingerprint {manifest.fingerprint}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(_split_table(manifest), _class_table(manifest))


@app.command("download")
def download_command(
    dataset: Annotated[str, typer.Argument(metavar="voc2007|…|voc2012", help="Which year.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Folder for the archives.")],
    set_: Annotated[
        str | None, typer.Option("--set", help="trainval or test. [default: all there are]")
    ] = None,
    mirror: Annotated[
        list[str], typer.Option(metavar="URL", help="Folder URL to try first; repeatable.")
    ] = [],  # noqa: B006
    format_: FormatOption = Format.text,
) -> None:
    """Download official archives, resumed after cuts and verified by their MD5."""
    match = re.fullmatch(r"voc(\d{4})", dataset)
    if not match:
        raise OptionError(repr(dataset), "is no VOC release", "give voc2007, voc2008 … voc2012")
    paths = []
    for archive in archives_of(match[1], set_):
        with progress(f"downloading {archive.file}") as advance:
            path = download_archive(
                archive,
                dest,
                mirrors=mirror,
                on_progress=lambda done, total: advance(done, total, human_bytes(done)),
            )
        paths.append(str(path))
    if format_ is Format.json:
        print_json({"archives": paths})
    else:
        typer.echo("\n".join(paths))


app.command("plan")(plan_command)
app.command("bench")(bench_command)
app.command("preview")(preview_command)


def main() -> None:
    """Run the command line and exit with its status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # to stderr
    for name in ("shard_tool", "datamodules"):
        logging.getLogger(name).setLevel(logging.INFO)  # retries, say
    try:
        app(prog_name="shard-tool")
    except ShardToolError as exc:
        problem = f"{exc.place}: {exc.problem}"
        say(f"error: {problem}" + (f"\n\nhint: {exc.hint}" if exc.hint else ""))
        sys.exit(2 if isinstance(exc, OptionError) else 1)
    except OSError as exc:  # stdout's disk is full, say
        say(f"error: {exc.strerror or exc}")
        sys.exit(1)


def _converted(at: ConvertProgress) -> tuple[int, int, str]:
    note = f"samples, {at.shards}/{at.total_shards} shards, {human_bytes(at.num_bytes)}"
    return at.samples, at.total_samples, note


def _print_conversion(report: ConvertReport, dest: str, format_: Format) -> None:
    manifest = report.manifest
    folder, num_bad = Folder(dest), len(report.bad_records)
    if num_bad:
        say(f"{num_bad} bad records skipped; listed in {folder.place(BAD_RECORDS_NAME)}")
    if format_ is Format.json:
        document = {
            "dest": str(folder),
            "fingerprint": manifest.fingerprint,
            "num_bad_records": num_bad,
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


def _split_table(manifest: Manifest) -> Table:
    table = Table("split", box=None, pad_edge=False)
    for column in ("shards", "samples", "bytes", "objects", "difficult"):
        table.add_column(column, justify="right")
    for name, split in manifest.splits.items():
        objects, difficult = sum(split.objects.values()), sum(split.difficult.values())
        counts = (len(split.shards), split.num_samples, split.num_bytes, objects, difficult)
        table.add_row(name, *(f"{count:,}" for count in counts))
    return table


def _class_table(manifest: Manifest) -> Table:
    """Objects per class and split; of those, the difficult ones in brackets."""
    table = Table("class", "label", box=None, pad_edge=False)
    for split in manifest.splits:
        table.add_column(f"{split} objects (difficult)", justify="right")
    for name, label in manifest.classes.items():
        cells = [
            f"{split.objects.get(name, 0):,} ({split.difficult.get(name, 0):,})"
            for split in manifest.splits.values()
        ]
        table.add_row(name, str(label), *cells)
    return table


if __name__ == "__main__":
    main()
