"""Tells whether a later run may resume an earlier one: both must have equal identities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shard_tool.release import RELEASE

if TYPE_CHECKING:
    from shard_tool.convert.options import ConvertOptions
    from shard_tool.convert.plan import ConversionPlan
    from shard_tool.format.manifest import Manifest

_NO_CHANGE = dict.fromkeys(("resize", "quality", "reencoded", "encoder"))
"""Values of a manifest whose pictures were not re-encoded; it leaves them out."""


def identity(options: ConvertOptions, plan: ConversionPlan) -> dict[str, Any]:
    """Collect all that must be equal for a later run to resume this one."""
    found = {
        "release": RELEASE,
        "--task": options.task,
        "--split": [split.split for split in plan.splits],
        "--name": dataset_name(options, plan),
        **{_flag_of(name): value for name, value in (_NO_CHANGE | byte_options(options)).items()},
    }
    for devkit in plan.devkits:
        kind = "archive" if devkit.source.is_archive else "folder"
        number = devkit.source.number + 1
        found[f"source {number}"] = _summary_of(kind, devkit.year, devkit.num_bytes)
        found[f"source {number}'s files"] = devkit.identity_sha256()
    return found


def identity_of_manifest(manifest: Manifest) -> dict[str, Any]:
    """Collect the same from a manifest, which holds less."""
    found = {
        "release": manifest.release,
        "--task": manifest.task,
        "--split": list(manifest.splits),
        "--name": manifest.name,
        **{_flag_of(name): value for name, value in (_NO_CHANGE | manifest.options).items()},
    }
    for number, source in enumerate(manifest.sources, start=1):
        size = source.get("num_bytes")
        found[f"source {number}"] = _summary_of(source.get("kind"), source.get("year"), size)
    return found


def _summary_of(kind: object, year: object, num_bytes: object) -> str:
    return f"{kind} of {year}" + ("" if num_bytes is None else f", {num_bytes} bytes")


def _flag_of(name: str) -> str:
    return {"shard_bytes": "--shard-size"}.get(name, f"--{name.replace('_', '-')}")


def byte_options(options: ConvertOptions) -> dict[str, Any]:
    """Collect the options that decide bytes, as the manifest holds them."""
    reencoding = options.reencoding()
    return {
        "shard_bytes": options.shard_bytes,
        "seed": options.seed,
        "on_bad_record": options.on_bad_record,
        **(reencoding.describe() if reencoding else {}),
    }


def dataset_name(options: ConvertOptions, plan: ConversionPlan) -> str:
    """The dataset's name: the one in the options, else 'voc' and the years of the sources."""
    years = sorted({devkit.year for devkit in plan.devkits})
    if options.name:
        return options.name
    return f"voc{years[0]}" if len(years) == 1 else "voc" + "+".join(year[-2:] for year in years)
