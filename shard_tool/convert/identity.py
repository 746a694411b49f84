"""Tells whether a later run may resume an earlier one: both must have equal identities."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shard_tool.release import RELEASE
from shard_tool.sources.files.file_span import printable

if TYPE_CHECKING:
    from shard_tool.convert.options import ConvertOptions
    from shard_tool.convert.plan import ConversionPlan
    from shard_tool.format.manifest import Manifest
    from shard_tool.sources.source import Source

_NO_CHANGE = dict.fromkeys(("resize", "quality", "reencoded", "encoder"))
"""Values of a manifest whose pictures were not re-encoded; it leaves them out."""


def identity(options: ConvertOptions, plan: ConversionPlan) -> dict[str, Any]:
    """Collect all that must be equal for a later run to resume this one."""
    its_options = _NO_CHANGE | byte_options(options, plan)
    found = {
        "release": RELEASE,
        "--task": options.task,
        "--split": [split.split for split in plan.splits],
        "--name": dataset_name(options, plan),
        "--classes": list(plan.rules.classes.names),
        **{_flag_of(name): value for name, value in its_options.items()},
    }
    for source in plan.sources:
        number = source.files.number + 1
        kind = "archive" if source.files.is_archive else "folder"
        found[f"source {number}"] = _summary_of(kind, source.year, source.num_bytes)
        found[f"source {number}'s files"] = source.identity_sha256()
    return found


def identity_of_manifest(manifest: Manifest) -> dict[str, Any]:
    """Collect the same from a manifest, which holds less."""
    found = {
        "release": manifest.release,
        "--task": manifest.task,
        "--split": list(manifest.splits),
        "--name": manifest.name,
        "--classes": list(manifest.classes),
        **{_flag_of(name): value for name, value in (_NO_CHANGE | manifest.options).items()},
    }
    for number, source in enumerate(manifest.sources, start=1):
        year, size = source.get("year", "unknown"), source.get("num_bytes")
        found[f"source {number}"] = _summary_of(source.get("kind"), year, size)
    return found


def _summary_of(kind: object, year: object, num_bytes: object) -> str:
    told = f"{kind}" if year == "unknown" else f"{kind} of {year}"
    return told + ("" if num_bytes is None else f", {num_bytes} bytes")


def _flag_of(name: str) -> str:
    return {"shard_bytes": "--shard-size"}.get(name, f"--{name.replace('_', '-')}")


def byte_options(options: ConvertOptions, plan: ConversionPlan) -> dict[str, Any]:
    """Collect the options that decide bytes, as the manifest holds them."""
    reencoding, classes = options.reencoding(), plan.rules.classes
    found = {
        "shard_bytes": options.shard_bytes,
        "seed": options.seed,
        "on_bad_record": options.on_bad_record,
        **(reencoding.describe() if reencoding else {}),
        **options.choices.describe(),
        "boxes": plan.rules.boxes,
    }
    if classes.rename:
        found["rename"] = dict(classes.rename)
    if classes.drops_others:
        found["other_classes"] = "drop"
    if options.split_files:
        found["split_files"] = {
            split: hashlib.sha256(Path(path).read_bytes()).hexdigest()
            for split, path in sorted(options.split_files.items())
        }
    return found


def dataset_name(options: ConvertOptions, plan: ConversionPlan) -> str:
    """The dataset's name: the one in the options, else by the sources.

    'voc' and the years of VOC's own sets; the first source's file or folder for other data.
    """
    if options.name:
        return options.name
    years = sorted({source.year for source in plan.sources})
    if "unknown" in years:
        return _name_of(plan.sources[0])
    return f"voc{years[0]}" if len(years) == 1 else "voc" + "+".join(year[-2:] for year in years)


def _name_of(source: Source) -> str:
    name = re.split(r"[/\\]", source.files.where.split("?")[0].rstrip("/"))[-1]
    plain = re.sub(r"(\.tar)?\.(tar|tgz|zip|gz|bz2|xz|zst)$", "", name, flags=re.IGNORECASE)
    return printable(plain) or "dataset"
