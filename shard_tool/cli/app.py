"""Defines the command line ``shard-tool``: its verbs, its exit status, and how it prints errors.

`plugins` finds the verbs of other packages, and of `datamodules`.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 usage,
130 interrupted.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shard_tool.cli.convert import convert_command
from shard_tool.cli.copy import copy_command
from shard_tool.cli.download import download_command
from shard_tool.cli.export import export_command
from shard_tool.cli.index import index_command
from shard_tool.cli.options import (
    Dest,
    Format,
    FormatOption,
    StorageOption,
    Workers,
    print_json,
    say,
    storage_options,
)
from shard_tool.cli.plugins import Verbs
from shard_tool.cli.progress import StderrHandler, progress
from shard_tool.dataset.scan import printable
from shard_tool.dataset.verify import verify
from shard_tool.errors import OptionError, ShardToolError
from shard_tool.format.manifest import Manifest, encode_manifest
from shard_tool.release import RELEASE
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from shard_tool.units import human_bytes

app = typer.Typer(
    cls=Verbs,
    name="shard-tool",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: the same on every terminal, and in docs/reference/cli.md
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn annotated pictures into WebDataset shards, and check, copy and read them.",
)


@app.callback(invoke_without_command=True)
def shard_tool(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,  # noqa: FBT002
) -> None:
    """Turn annotated pictures into WebDataset shards, and check, copy and read them."""
    if version:
        typer.echo(f"shard-tool {RELEASE}")
        raise typer.Exit


app.command("convert")(convert_command)


@app.command("verify")
def verify_command(
    dest: Dest,
    decode: Annotated[  # noqa: FBT002
        bool, typer.Option("--decode", help="Decode every picture and mask as well.")
    ] = False,
    workers: Workers = None,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006
) -> None:
    """Check every byte of a dataset.

    Shards are compared with the manifest, the indexes and the JSON of their samples.
    """
    if workers is not None and workers < 1:
        raise OptionError("--workers", f"{workers} is below 1")
    folder = Folder(dest, storage_options(storage_option))
    with progress("verifying", unit="shards") as advance:
        report = verify(
            folder,
            decode=decode,
            workers=workers,
            on_progress=advance,
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
    """Show what a dataset holds, from its manifest alone."""
    manifest = load_manifest(Folder(dest, storage_options(storage_option)))
    if format_ is Format.json:
        sys.stdout.write(encode_manifest(manifest).decode())
        return
    typer.echo(f"{manifest.name}: {manifest.task}, {manifest.num_samples} samples")
    typer.echo(f"fingerprint {manifest.fingerprint}")
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
    console.print(_split_table(manifest))
    if manifest.classes:
        console.print(_class_table(manifest))
    for what in dict.fromkeys(what for split in manifest.splits.values() for what in split.counts):
        console.print(_count_table(manifest, what))


app.command("download")(download_command)
app.command("copy")(copy_command)
app.command("index")(index_command)
app.command("export")(export_command)


def main() -> None:
    """Run the command line and exit with its status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[StderrHandler()])
    for name in ("shard_tool", "datamodules"):
        logging.getLogger(name).setLevel(logging.INFO)  # retries, for example
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Slurm and Kubernetes send SIGTERM
    try:
        app(prog_name="shard-tool")
    except ShardToolError as exc:
        problem = f"{exc.place}: {exc.problem}"
        say(f"error: {problem}" + (f"\n\nhint: {exc.hint}" if exc.hint else ""))
        sys.exit(2 if isinstance(exc, OptionError) else 1)
    except OSError as exc:  # the disk behind stdout is full, for example
        say(f"error: {exc.strerror or exc}")
        sys.exit(1)


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
    """Objects per class and split, with the number of difficult ones in brackets."""
    table = Table("class", "label", box=None, pad_edge=False)
    for split in manifest.splits:
        table.add_column(f"{split} objects (difficult)", justify="right")
    for name, label in manifest.classes.items():
        cells = [
            f"{split.objects.get(name, 0):,} ({split.difficult.get(name, 0):,})"
            for split in manifest.splits.values()
        ]
        table.add_row(printable(name), str(label), *cells)
    return table


def _count_table(manifest: Manifest, what: str) -> Table:
    """One kind of count that a task has beside objects, per split."""
    table = Table(what.replace("_", " "), box=None, pad_edge=False)
    for split in manifest.splits:
        table.add_column(split, justify="right")
    counted = [split.counts.get(what, {}) for split in manifest.splits.values()]
    for name in dict.fromkeys(name for of_split in counted for name in of_split):
        table.add_row(printable(name), *(f"{of_split.get(name, 0):,}" for of_split in counted))
    return table


if __name__ == "__main__":
    main()
