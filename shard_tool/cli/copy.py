"""Defines the verb ``copy``, which copies a dataset to another folder or bucket."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from shard_tool.cli.options import (
    Engine,
    Format,
    FormatOption,
    OnExisting,
    OnExistingOption,
    SourceOption,
    StorageOption,
    Workers,
    print_json,
    resuming_command,
    say,
    storage_options,
)
from shard_tool.cli.progress import progress
from shard_tool.dataset.copy import CopyOptions, copy_dataset, plan_copy
from shard_tool.units import human_bytes

if TYPE_CHECKING:
    from typing import Any

    from shard_tool.dataset.copy import CopyPlan, CopyProgress, CopyReport


def copy_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder or URL of a dataset.")],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="Folder or URL of the copy.")],
    workers: Workers = None,
    engine: Engine = "local",
    on_existing: OnExistingOption = OnExisting.fail,
    dry_run: Annotated[  # noqa: FBT002
        bool, typer.Option("--dry-run", help="Print what would be copied and write nothing.")
    ] = False,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006  (typer copies it)
    source_option: SourceOption = [],  # noqa: B006
) -> None:
    """Copy a dataset to another folder or bucket.

    Every byte is checked on the way.
    """
    options = CopyOptions(
        source=source,
        dest=dest,
        engine=engine,
        on_existing=on_existing.value,
        storage_options=storage_options(storage_option),
        source_options=storage_options(source_option, "--source-option"),
        **({} if workers is None else {"workers": workers}),
    )
    plan = plan_copy(options)
    if dry_run:
        _print_plan(options, plan, format_)
        return
    try:
        with progress("copying", unit="bytes") as advance:

            def show(at: CopyProgress) -> None:
                note = f"{at.shards}/{at.total_shards} shards"
                advance(at.num_bytes, at.total_bytes, note)

            report = copy_dataset(options, plan=plan, on_progress=show)
    except KeyboardInterrupt:
        say(f"interrupted: nothing is committed; continue with\n{resuming_command(sys.argv)}")
        raise
    _print_copy(options, plan, report, format_)


def _print_plan(options: CopyOptions, plan: CopyPlan, format_: Format) -> None:
    if format_ is Format.json:
        splits = {
            name: {
                "num_shards": len(split.shards),
                "num_samples": split.num_samples,
                "num_bytes": split.num_bytes,
            }
            for name, split in plan.manifest.splits.items()
        }
        print_json({"dry_run": True, **_told(options, plan), "splits": splits})
        return
    typer.echo(f"from {options.source_folder}: {plan.manifest.name}")
    for name, split in plan.manifest.splits.items():
        size = human_bytes(split.num_bytes)
        typer.echo(f"{name}: {split.num_samples} samples, {len(split.shards)} shards, {size}")
    typer.echo(f"{options.dest_folder}: nothing is written (--dry-run)")


def _print_copy(options: CopyOptions, plan: CopyPlan, report: CopyReport, format_: Format) -> None:
    if report.num_kept_shards:
        say(f"{report.num_kept_shards} shards of an earlier run are kept")
    if format_ is Format.json:
        document = _told(options, plan) | {"num_kept_shards": report.num_kept_shards}
        print_json(document | {"seconds": round(report.seconds, 3)})
        return
    what = f"{plan.manifest.num_samples} samples, {len(plan.entries)} shards"
    size = human_bytes(plan.num_bytes)
    typer.echo(f"{options.dest_folder}: {what}, {size} copied in {report.seconds:.1f} s")


def _told(options: CopyOptions, plan: CopyPlan) -> dict[str, Any]:
    return {
        "source": str(options.source_folder),
        "dest": str(options.dest_folder),
        "fingerprint": plan.manifest.fingerprint,
        "num_samples": plan.manifest.num_samples,
        "num_shards": len(plan.entries),
        "num_bytes": plan.num_bytes,
    }
