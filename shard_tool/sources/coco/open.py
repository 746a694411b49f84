"""Opens COCO data: which JSON files are taken, of which splits they are, and what they agree on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shard_tool.errors import SourceError
from shard_tool.sources.coco.categories import is_agreed, parents_alone
from shard_tool.sources.coco.find import FoundJson, find_json, told
from shard_tool.sources.coco.images import Images
from shard_tool.sources.coco.listed import listed_images
from shard_tool.sources.coco.source import CocoSource
from shard_tool.sources.coco.splits import split_of
from shard_tool.sources.found import Found
from shard_tool.sources.report import Report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shard_tool.sources.coco.content import CocoJson
    from shard_tool.sources.files.listing import Listing

_ORDER = ("train", "val", "trainval", "test")
_WAYS = (
    "name each as its split (train.json, val.json), give the folder of each as a SOURCE of its "
    "own, or name the pictures by --split-file train=LIST"
)
_NO_CATEGORIES = "name the classes there, each with an id"


def find_coco(listing: Listing, split_files: Mapping[str, str]) -> Found | None:
    """Find COCO JSON.

    Args:
        listing: The files of the source.
        split_files: Split to the path of a local list of its pictures.

    Raises:
        SourceError: A file cannot be read at all.
        StoreError: Storage failed, and went on failing.
    """
    found = find_json(listing)
    if not found.read and found.broken is None:
        return None
    spans = [its.span for its in found.read if its.kind == "instances"]
    evidence = f"COCO JSON: {told(spans or [its.span for its in found.read])}"
    if found.broken is not None:
        evidence = f"COCO JSON that cannot be read: {found.broken.place}"
    return Found("coco", evidence, lambda: _open(listing, found, split_files, evidence))


def _open(
    listing: Listing, found: FoundJson, split_files: Mapping[str, str], evidence: str
) -> list[CocoSource]:
    """Make one source, or one for each group of files that agree on ids and names.

    Raises:
        SourceError: A file cannot be read or breaks a rule, or nothing tells its split.
    """
    if found.broken is not None:
        raise found.broken
    files = _taken(listing, found)
    splits = [""] * len(files) if split_files else _splits(listing, files)
    for its in files:
        its.check()
    if not any(its.categories for its in files):
        raise SourceError(files[0].place, "has no categories", _NO_CATEGORIES)
    order = sorted(range(len(files)), key=lambda at: (_ORDER.index(splits[at] or "train"), at))
    files, splits = [files[at] for at in order], [splits[at] for at in order]
    images = Images.of(listing, files, splits)
    chosen = listed_images(images, split_files)
    parents = parents_alone(
        [its.categories for its in files], {name for its in files for name in its.used}
    )
    for name in sorted(parents):
        listing.report.add("category-parent", f"{files[0].place}: {name!r}")
    groups = _groups(files)
    return [
        CocoSource(
            listing=listing if not at else _numbered(listing, at),
            evidence=evidence,
            split_files=split_files,
            images=images,
            members=tuple(members),
            chosen=chosen,
            parents=frozenset(parents),
        )
        for at, members in enumerate(groups)
    ]


def _taken(listing: Listing, found: FoundJson) -> list[CocoJson]:
    """The files that hold instances; counts the others.

    Raises:
        SourceError: There is none.
    """
    report, place = listing.report, listing.files.place
    taken = [its for its in found.read if its.kind == "instances"]
    if not taken:
        raise _no_instances(found.read[0])
    for its in found.read:
        if its.kind == "pictures":
            report.add("json-without-annotations", its.place)
        elif its.kind != "instances":
            report.add("json-beside-instances", its.place)
    for span in found.beside:
        report.add("json-beside-instances", place(span))
    if found.other is not None:
        report.add("json-other", place(found.other), found.num_others)
    return taken


def _no_instances(one: CocoJson) -> SourceError:
    """The error for a source without a JSON of instances."""
    what = {
        "panoptic": "holds panoptic segments, which are pixels of PNG files and no objects",
        "captions": "holds captions, which are texts and no objects",
        "pictures": "lists pictures and has no annotations, as COCO's test sets",
    }[one.kind]
    hint = "give the folder that holds an instances_*.json as well"
    return SourceError(one.place, what, hint)


def _splits(listing: Listing, files: Sequence[CocoJson]) -> list[str]:
    """The split of each file.

    Raises:
        SourceError: Nothing tells one of several, or two have one.
    """
    found = [split_of(its.span.name) for its in files]
    if len(files) == 1:
        return [found[0] or "train"]
    names = [its.span.name for its in files]
    for at, split in enumerate(found):
        if split is None:
            problem = f"nothing tells of which split {names[at]!r} is, beside {len(files) - 1} more"
            raise SourceError(listing.files.shown, problem, _WAYS)
        if split in found[:at]:
            other = names[found.index(split)]
            problem = f"{other!r} and {names[at]!r} are both of split {split!r}"
            raise SourceError(listing.files.shown, problem, _WAYS)
    return [split or "train" for split in found]


def _groups(files: Sequence[CocoJson]) -> list[list[int]]:
    """The numbers of files that give no name two ids, and no id two names."""
    groups: list[list[int]] = []
    for at, its in enumerate(files):
        for group in groups:
            if all(is_agreed(files[other].categories, its.categories) for other in group):
                group.append(at)
                break
        else:
            groups.append([at])
    return groups


def _numbered(listing: Listing, more: int) -> Listing:
    """The same files as another source of the dataset."""
    files = replace(listing.files, number=listing.files.number + more)
    return replace(listing, files=files, report=Report())
