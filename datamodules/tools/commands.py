"""Adds the verbs about streaming to ``shard-tool``: ``plan``, ``bench`` and ``preview``.

`shard_tool.cli.plugins` finds them by the entry points in ``pyproject.toml``. ``shard-tool
--help`` imports this module, so each verb imports PyTorch and the code that trains only when it
runs.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shard_tool.cli.options import (
    Dest,
    Format,
    FormatOption,
    StorageOption,
    print_json,
    storage_options,
)
from shard_tool.errors import OptionError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from shard_tool.units import human_bytes, parse_rate, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datamodules.tools.bench import EpochBench
    from datamodules.tools.forecast import Forecast, RunPlan

Split = Annotated[
    list[str], typer.Option(metavar="NAME", help="Split to read; repeatable. [default: train]")
]
CacheLimit = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Largest size of the cache, such as 200GB. [default: no limit]"
    ),
]
Lanes = Annotated[
    int | None,
    typer.Option(help="Lanes of the order, which nodes share out. [default: one per node]"),
]
Window = Annotated[int, typer.Option(help="Number of shards whose samples are mixed.")]
Seed = Annotated[int, typer.Option(help="Seed for the order of samples.")]

_WORKERS_PER_CORE = 16
"""More processes would measure nothing, and might take all memory."""


class TransformChoice(StrEnum):
    """Which transform decoded pictures get."""

    train = "train"
    eval = "eval"
    none = "none"


def plan_command(
    dest: Dest,
    nodes: Annotated[int, typer.Option(help="Number of nodes that train.")] = 1,
    ranks_per_node: Annotated[int, typer.Option(help="Ranks (GPUs) per node.")] = 1,
    workers: Annotated[int, typer.Option(help="DataLoader workers per rank.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples per batch and rank.")] = 32,
    epochs: Annotated[int, typer.Option(help="Number of epochs to forecast.")] = 2,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            metavar="RATE",
            help="Bandwidth of each node, such as 10Gbps or 800MB/s; without it, the forecast says "
            "nothing of times.",
        ),
    ] = None,
    latency_ms: Annotated[
        float, typer.Option(help="Latency of one request in milliseconds.")
    ] = 20.0,
    samples_per_s: Annotated[
        float | None,
        typer.Option(
            help="Samples per second that one rank trains when it never waits for data; needs "
            "--bandwidth."
        ),
    ] = None,
    split: Split = [],  # noqa: B006  (typer copies it)
    lanes: Lanes = None,
    window: Window = 8,
    seed: Seed = 0,
    cache_limit: CacheLimit = None,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006
) -> None:
    """Forecast what a training run will download, store and wait for.

    It reads only the manifest.
    """
    from datamodules.reading.shard_table import ShardTable, chosen_splits
    from datamodules.tools.forecast import RunPlan, forecast

    folder = Folder(dest, storage_options(storage_option))
    manifest = load_manifest(folder)
    splits = chosen_splits([folder], [manifest], split or ["train"])
    if samples_per_s is not None and bandwidth is None:
        raise OptionError("--samples-per-s", "says nothing without --bandwidth", "give both")
    plan = _with_option_names(
        RunPlan,
        num_nodes=nodes,
        ranks_per_node=ranks_per_node,
        workers_per_rank=workers,
        batch_size=batch_size,
        epochs=epochs,
        bandwidth_bytes_per_s=parse_rate(bandwidth, "--bandwidth") if bandwidth else None,
        latency_s=latency_ms / 1000,
        samples_per_s=samples_per_s,
        lanes=lanes,
        window=window,
        seed=seed,
        cache_limit=parse_size(cache_limit, "--cache-limit") if cache_limit else None,
    )
    found = forecast(ShardTable.of([folder], [manifest], splits), plan)
    if format_ is Format.json:
        print_json({"dest": str(folder), "plan": asdict(plan), "forecast": asdict(found)})
    else:
        typer.echo("\n".join(_forecast_lines(found, plan, f"{folder} {'+'.join(splits[0])}")))


def preview_command(
    dest: Dest,
    output: Annotated[str, typer.Argument(metavar="PNG", help="Local .png file to write.")],
    transforms: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Recipe of transforms. [default: that of the task]"),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the recipe's output in pixels. [default: its own]")
    ] = None,
    samples: Annotated[int, typer.Option(help="Number of samples: one row each.")] = 6,
    epochs: Annotated[int, typer.Option(help="Number of epochs: one column each.")] = 4,
    cell: Annotated[int, typer.Option(help="Side of each picture on the sheet in pixels.")] = 256,
    task: Annotated[
        str | None,
        typer.Option(help="Task whose targets are drawn, such as instances. [default: the data's]"),
    ] = None,
    unmasked: Annotated[
        str, typer.Option(help="What becomes of objects without an outline: fail, box or drop.")
    ] = "fail",
    split: Split = [],  # noqa: B006
    seed: Seed = 0,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006
) -> None:
    """Draw stored samples beside what a recipe makes of them.

    Each column shows one epoch.
    """
    from datamodules import ShardDataset, presets
    from datamodules.preview import legend, preview

    _check_least(1, {"--samples": samples, "--image-size": image_size})
    _check_least(16, {"--cell": cell})
    _check_least(0, {"--epochs": epochs})
    _check_png(output)
    options: dict[str, Any] = {"seed": seed, "storage_options": storage_options(storage_option)}
    options |= {"task": task, "unmasked": unmasked}
    stored = ShardDataset(dest, split or "train", **options)
    if stored.is_generic:
        problem = f"there is nothing to draw in a dataset for {stored.task}"
        hint = "recipes are for detection, segmentation and classification"
        raise OptionError(dest, problem, hint)
    name = transforms or presets.DEFAULT_RECIPES[stored.task]
    recipe = presets.recipe_by_name(name, stored.task, size=image_size)
    transformed = ShardDataset(dest, split or "train", transform=recipe, **options)
    sheet = preview(stored, transformed, samples=samples, epochs=epochs, side=cell)
    try:
        sheet.save(output)
    except OSError as exc:
        raise OptionError(output, f"cannot be written: {exc.strerror or exc}") from exc
    rows = min(samples, stored.num_samples)
    texts = {} if stored.task == "segmentation" else legend(stored.class_names)
    if format_ is Format.json:
        document = {"png": output, "recipe": name, "num_samples": rows, "epochs": epochs}
        print_json(document | ({"drawn_as": texts} if texts else {}))
        return
    typer.echo(f"{output}: {rows} samples, stored and in {epochs} epochs of {name}")
    if texts:
        drawn = ", ".join(f"{text} is {class_name!r}" for text, class_name in texts.items())
        typer.echo(f"  drawn otherwise: {drawn}")


def bench_command(
    dest: Dest,
    batch_size: Annotated[int, typer.Option(help="Samples per batch.")] = 32,
    workers: Annotated[int, typer.Option(help="Worker processes that decode.")] = 2,
    epochs: Annotated[int, typer.Option(help="Number of epochs to stream.")] = 1,
    max_batches: Annotated[
        int | None, typer.Option(help="Largest number of batches per epoch. [default: no limit]")
    ] = None,
    transform: Annotated[
        TransformChoice,
        typer.Option(help="Recipe of transforms: the task's for train or eval, or none."),
    ] = TransformChoice.train,
    image_size: Annotated[
        int, typer.Option(help="Side of the transformed picture in pixels.")
    ] = 300,
    split: Split = [],  # noqa: B006
    window: Window = 8,
    seed: Seed = 0,
    cache_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Cache for remote shards. [default: ~/.cache/voc-shards]"),
    ] = None,
    cache_limit: CacheLimit = None,
    format_: FormatOption = Format.text,
    storage_option: StorageOption = [],  # noqa: B006
) -> None:
    """Stream a dataset as training would and report where time goes.

    There is no model: batches are thrown away.
    """
    from datamodules import ShardDataset, presets
    from datamodules.tools.bench import bench

    counts = {"--batch-size": batch_size, "--epochs": epochs, "--image-size": image_size}
    _check_least(1, counts | {"--max-batches": max_batches})
    _check_workers(workers)
    dataset = ShardDataset(
        dest,
        split or "train",
        seed=seed,
        window=window,
        cache_dir=cache_dir,
        cache_limit=parse_size(cache_limit, "--cache-limit") if cache_limit else None,
        storage_options=storage_options(storage_option),
    )
    if transform is not TransformChoice.none and not dataset.is_generic:
        dataset.transform = getattr(presets, f"{dataset.task}_{transform}")(image_size)

    def print_epoch(epoch: EpochBench) -> None:
        if format_ is Format.text:
            typer.echo("\n".join(_epoch_lines(epoch)))

    found = bench(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        epochs=epochs,
        max_batches=max_batches,
        on_epoch=print_epoch,
    )
    if format_ is Format.json:
        document = {"dest": str(Folder(dest)), "epochs": [_epoch_json(epoch) for epoch in found]}
        print_json(document)


def _check_least(least: int, values: Mapping[str, int | None]) -> None:
    """Refuse options whose value is too small; None: not given."""
    for option, value in values.items():
        if value is not None and value < least:
            raise OptionError(option, f"{value} is below {least}")


def _check_workers(workers: int) -> None:
    _check_least(0, {"--workers": workers})
    most = _WORKERS_PER_CORE * (os.cpu_count() or 1)
    if workers > most:
        each = f"{_WORKERS_PER_CORE} for each core of this machine"
        problem, hint = f"{workers} processes are more than {each}", f"take {os.cpu_count()}"
        raise OptionError("--workers", problem, f"{hint}, or {most} at most")


def _check_png(output: str) -> None:
    if Path(output).suffix != ".png" or "://" in output:
        raise OptionError(f"PNG {output!r}", "is no local .png file", "as in sheet.png")
    if not Path(output).absolute().parent.is_dir():
        raise OptionError(output, "its folder does not exist", "make it, or name another")


_OPTIONS = {
    "num_nodes": "--nodes",
    "workers_per_rank": "--workers",
    "bandwidth_bytes_per_s": "--bandwidth",
    "latency_s": "--latency-ms",
}


def _with_option_names(make: Callable[..., RunPlan], **fields: Any) -> RunPlan:
    """Make a plan; its errors name the options of the command line."""
    try:
        return make(**fields)
    except OptionError as exc:
        name = _OPTIONS.get(exc.place, f"--{exc.place.replace('_', '-')}")
        raise OptionError(name, exc.problem, exc.hint) from exc


def _forecast_lines(found: Forecast, plan: RunPlan, place: str) -> list[str]:
    nodes, mixing = found.nodes, found.mixing
    size = human_bytes(found.num_bytes)
    world = (
        f"{_count(plan.num_nodes, 'node')} x {_count(plan.ranks_per_node, 'rank')} x "
        f"{_count(plan.workers_per_rank, 'worker')}, {_count(found.lanes, 'lane')}"
    )
    lines = [
        f"{place}: {_count(found.num_samples, 'sample')}, "
        f"{_count(found.num_shards, 'shard')}, {size}",
        f"{world}, window {plan.window}: {_count(found.steps, 'step')} an epoch",
    ]
    for epoch in range(plan.epochs):
        fetched = [node.epoch_bytes[epoch] for node in nodes]
        line = f"epoch {epoch}: each node downloads {_between(fetched)}"
        stalls = [node.stall_s[epoch] for node in nodes if node.stall_s is not None]
        seconds = [node.epoch_s[epoch] for node in nodes if node.epoch_s is not None]
        if stalls:
            line += f", takes {max(seconds):.1f} s, {max(stalls):.1f} s of it waiting for bytes"
        lines.append(line)
    least = max(node.window_bytes for node in nodes)
    whole = _between([node.all_bytes for node in nodes])
    lines.append(
        f"cache of a node: {whole} holds all it reads; below {human_bytes(least)} some samples are "
        "read by range, one by one"
    )
    if plan.cache_limit is not None and plan.cache_limit < least:
        lines.append(f"a cache of {human_bytes(plan.cache_limit)} is below that")
    if found.first_batch_s is not None:
        lines.append(
            f"first batch: not before {found.first_batch_s:.2f} s, start of processes aside"
        )
    lines.append(
        f"mixing: {mixing.shards_per_batch:.1f} shards in a global batch "
        f"({mixing.shards_per_batch_shuffled:.1f} if all samples were shuffled); a window covers "
        f"{mixing.spread:.1%} of the epoch"
    )
    return lines


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _between(sizes: list[int]) -> str:
    least, most = human_bytes(min(sizes)), human_bytes(max(sizes))
    return most if least == most else f"{least} to {most}"


def _epoch_lines(epoch: EpochBench) -> list[str]:
    samples = _count(epoch.totals.cost.num_samples, "sample")
    first = f"epoch {epoch.epoch}: {samples} in {epoch.seconds:.2f} s, first batch after "
    first += f"{epoch.first_batch_s:.2f} s (start of workers included)"
    return [first, *(f"  {line}" for line in epoch.totals.lines())]


def _epoch_json(epoch: EpochBench) -> dict[str, Any]:
    totals = epoch.totals
    return {
        "epoch": epoch.epoch,
        "seconds": epoch.seconds,
        "num_batches": totals.num_batches,
        "num_samples": totals.cost.num_samples,
        **totals.metrics(),
        "worker_shares": totals.worker_shares,
    }
