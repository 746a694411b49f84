"""What makes two conversions the same, so that a later run may go on with an earlier one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shard_tool.release import RELEASE

if TYPE_CHECKING:
    from shard_tool.convert.options import ConvertOptions
    from shard_tool.convert.plan import ConversionPlan
    from shard_tool.format.manifest import Manifest

_NO_CHANGE = dict.fromkeys(("resize", "quality", "reencoded", "encoder"))
"""What a manifest leaves out where pictures are as they were."""


def identity(options: ConvertOptions, plan: ConversionPlan) -> dict[str, Any]:
    """What must be equal for a later run to go on with this one."""
    found = {
        "release": RELEASE,
        "--task": options.task,
        "--split": [split.split for split in plan.splits],
        "--name": dataset_name(options, plan),
        **{_shown(name): value for name, value in (_NO_CHANGE | byte_options(options)).items()},
    }
    for devkit in plan.devkits:
        kind = "archive" if devkit.source.is_archive else "folder"
        number = devkit.source.number + 1
        found[f"source {number}"] = _spelled(kind, devkit.year, devkit.num_bytes)
        found[f"source {number}'s files"] = devkit.identity_sha256()
    return found


def identity_of_manifest(manifest: Manifest) -> dict[str, Any]:
    """As far as a finished dataset tells it."""
    found = {
        "release": manifest.release,
        "--task": manifest.task,
        "--split": list(manifest.splits),
        "--name": manifest.name,
        **{_shown(name): value for name, value in (_NO_CHANGE | manifest.options).items()},
    }
    for number, source in enumerate(manifest.sources, start=1):
        size = source.get("num_bytes")
        found[f"source {number}"] = _spelled(source.get("kind"), source.get("year"), size)
    return found


def _spelled(kind: object, year: object, num_bytes: object) -> str:
    return f"{kind} of {year}" + ("" if num_bytes is None else f", {num_bytes} bytes")


def _shown(name: str) -> str:
    return {"shard_bytes": "--shard-size"}.get(name, f"--{name.replace('_', '-')}")


def byte_options(options: ConvertOptions) -> dict[str, Any]:
    """The options that decide bytes, as the manifest has them."""
    reencoding = options.reencoding()
    return {
        "shard_bytes": options.shard_bytes,
        "seed": options.seed,
        "on_bad_record": options.on_bad_record,
        **(reencoding.describe() if reencoding else {}),
    }


def dataset_name(options: ConvertOptions, plan: ConversionPlan) -> str:
    """The dataset's name: the one that was asked for, else 'voc' and the years of its sources."""
    years = sorted({devkit.year for devkit in plan.devkits})
    if options.name:
        return options.name
    return f"voc{years[0]}" if len(years) == 1 else "voc" + "+".join(year[-2:] for year in years)
