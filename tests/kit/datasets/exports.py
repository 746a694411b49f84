"""Writes datasets of given samples, exports them, and compares what comes of them again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shard_tool.export.run import ExportOptions, ExportReport, export_dataset
from shard_tool.format.manifest import Manifest, Split, encode_manifest
from shard_tool.format.sample import Sample, SampleObject, Source, encode_sample, parse_sample
from tests.kit.datasets.converted import manifest_of, samples_of
from tests.kit.datasets.stored import shard_written
from tests.kit.datasets.voc_tree import jpeg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLASSES = {"cat": 1, "big dog": 2}
WH = (100, 60)


class Stored(NamedTuple):
    """A sample and its members beside the JSON."""

    sample: Sample
    members: Mapping[str, bytes] | None = None
    """None: a JPEG of the sample's size."""


def thing(bbox: Any = (10.0, 20.0, 30.0, 40.0), name: str = "cat", **fields: Any) -> SampleObject:
    """An object."""
    its = {"label": CLASSES.get(name, 1), **fields}
    return SampleObject(name=name, bbox=None if bbox is None else tuple(map(float, bbox)), **its)


def sample_of(key: str, *objects: SampleObject, **fields: Any) -> Sample:
    """A sample."""
    its: dict[str, Any] = {"width": WH[0], "height": WH[1], "segmented": None, "image_sets": ()}
    its |= {"source": Source(year="unknown", archive=0)}
    return Sample(key=key, objects=objects, **(its | fields))


def dataset_of(
    folder: Path,
    splits: Mapping[str, Sequence[Sample | Stored]],
    *,
    classes: Mapping[str, int] = CLASSES,
    task: str = "detection",
    sources: Sequence[dict[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write a dataset of one shard a split.

    Args:
        folder: Folder to create.
        splits: The samples of each split.
        classes: Class to label.
        task: What the manifest says it was made for.
        sources: The manifest's sources.
        options: The manifest's options.
    """
    folder.mkdir(parents=True)
    found = {}
    for split, its in splits.items():
        samples = {}
        for row, item in enumerate(its):
            sample, members = item if isinstance(item, Stored) else (item, None)
            members = members or {"jpg": jpeg((sample.width, sample.height), row)}
            samples[sample.key] = {**members, "json": encode_sample(sample)}
        entry = shard_written(folder / f"{split}-000000.tar", samples)
        names = Counter(
            one.name
            for item in its
            for one in (item.sample if isinstance(item, Stored) else item).objects
        )
        found[split] = Split(
            shards=(entry,),
            num_samples=len(samples),
            num_bytes=entry.num_bytes,
            objects=dict(names),
            difficult={},
        )
    manifest = Manifest(
        name="own",
        task=task,
        classes=dict(classes),
        sources=tuple(sources),
        release="0",
        options=dict(options or {}),
        splits=found,
    )
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


def exported(dataset: Path, out: Path, format_: str, **options: Any) -> ExportReport:
    """Export with pictures, unless `pictures` says otherwise."""
    its: dict[str, Any] = {"pictures": True, **options}
    return export_dataset(ExportOptions(dest=str(dataset), out=str(out), format=format_, **its))


def losses_of(report: ExportReport) -> dict[str, int]:
    """Code to its count."""
    return {code: counted.count for code, counted in sorted(report.losses.codes.items())}


def coco_of(out: Path, split: str = "train") -> dict[str, Any]:
    """COCO's file of a split."""
    document: dict[str, Any] = json.loads(
        (out / f"annotations/instances_{split}.json").read_bytes()
    )
    return document


def contents_of(folder: Path, *fields: str) -> dict[tuple[str, str], Any]:
    """What each sample of a dataset holds, by split and the name of its picture without folders.

    Args:
        folder: The dataset.
        fields: Fields of objects that are compared, beside name and box.
    """
    found = {}
    for split in manifest_of(folder)["splits"]:
        for key, members in samples_of(folder, split).items():
            sample = parse_sample(members.pop("json"), place=key)
            objects = [
                tuple(getattr(item, name) for name in ("name", "bbox", *fields))
                for item in sample.objects
            ]
            size = (sample.width, sample.height, sample.orientation)
            found[split, Path(key).name] = (size, objects, members)
    return found
