"""Defines the verb ``index``, which makes a dataset of existing WebDataset tars."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from shard_tool.cli.options import (
    ClassesOption,
    Dest,
    Engine,
    Format,
    FormatOption,
    OnExisting,
    OnExistingOption,
    StorageOption,
    Workers,
    class_names,
    print_json,
    resuming_command,
    say,
    storage_options,
)
from shard_tool.cli.progress import progress
from shard_tool.dataset.index import IndexOptions, index_tars
from shard_tool.dataset.scan import printable
from shard_tool.storage.location import Folder
from shard_tool.units import human_bytes

if TYPE_CHECKING:
    from shard_tool.dataset.index import IndexProgress, IndexReport


class IndexedTask(StrEnum):
    """What the samples are."""

    generic = "generic"
    detection = "detection"
    segmentation = "segmentation"


def index_command(
    shards: Annotated[
        list[str],
        typer.Argument(
            metavar="SHARDS...",
            help="Paths or URLs of WebDataset tars; {000..017}, * and ? stand for several.",
        ),
    ],
    dest: Dest,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split to put them in.")] = "train",
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the dataset.")] = "adopted",
    task: Annotated[
        IndexedTask,
        typer.Option(
            help="What the samples are: generic for members of any kind, or the task whose samples "
            "convert writes."
        ),
    ] = IndexedTask.generic,
    classes: ClassesOption = None,
    workers: Workers = None,
    engine: Engine = "local",
    on_existing: OnExistingOption = OnExisting.fail,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006  (typer copies it)
) -> None:
    """Make a dataset of existing WebDataset tars without copying them.

    DEST gets a manifest and indexes; the tars stay where they are.
    """
    options = IndexOptions(
        shards=tuple(shards),
        dest=dest,
        split=split,
        name=name,
        task=task.value,
        classes=class_names(classes),
        engine=engine,
        on_existing=on_existing.value,
        storage_options=storage_options(storage_option),
        **({} if workers is None else {"workers": workers}),
    )
    try:
        with progress("indexing", unit="shards") as advance:

            def show(at: IndexProgress) -> None:
                note = f"{at.samples} samples, {human_bytes(at.num_bytes)}"
                advance(at.shards, at.total_shards, note, num_bytes=at.num_bytes)

            report = index_tars(options, on_progress=show)
    except KeyboardInterrupt:
        say(f"interrupted: nothing is committed; continue with\n{resuming_command(sys.argv)}")
        raise
    _print_report(report, dest, format_)


def _print_report(report: IndexReport, dest: str, format_: Format) -> None:
    folder, manifest = Folder(dest), report.manifest
    if format_ is Format.json:
        print_json(
            {
                "dest": str(folder),
                "fingerprint": manifest.fingerprint,
                "num_left_out": len(report.left_out),
                "seconds": round(report.seconds, 3),
                "splits": {
                    name: {
                        "num_shards": len(split.shards),
                        "num_samples": split.num_samples,
                        "members": split.counts.get("members"),
                    }
                    for name, split in manifest.splits.items()
                },
            }
        )
        return
    for name, split in manifest.splits.items():
        size = human_bytes(split.num_bytes)
        typer.echo(f"{name}: {split.num_samples} samples, {len(split.shards)} shards, {size}")
        if members := split.counts.get("members"):
            counts = ", ".join(f"{printable(ext)} {count}" for ext, count in members.items())
            typer.echo(f"  samples with: {counts}")
    typer.echo(f"{folder}: done in {report.seconds:.1f} s")
