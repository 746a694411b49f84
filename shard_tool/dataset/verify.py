"""Reads a whole dataset and compares it with its manifest and its indexes.

It finds every problem, not only the first. Each shard is a task. A task returns what is wrong with
its shard and what it counted; the totals of the splits are compared at the end.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from shard_tool.dataset.sample_rules import check_class_mask, checked_sample, picture_extension
from shard_tool.dataset.scan import printable, scan_stored
from shard_tool.dataset.shard_urls import locate_shard
from shard_tool.errors import DataError, ShardError, StoreError
from shard_tool.format.counts import SplitCounts
from shard_tool.format.manifest import GENERIC
from shard_tool.format.sample import PICTURES
from shard_tool.format.tar import (
    INDEX_SUFFIX,
    ShardIndex,
    read_at_of,
    sample_part,
    sample_starts,
    walk,
)
from shard_tool.pictures.masks import check_mask_size
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from shard_tool.storage.wrong_bytes import WrongBytes
from shard_tool.tasks.pool import open_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shard_tool.dataset.scan import ScannedShard
    from shard_tool.format.manifest import Manifest, ShardEntry, Split
    from shard_tool.format.sample import Sample
    from shard_tool.storage.location import Folder, StoredObject

_MAX_PROBLEMS_OF_SHARD = 20
"""How many problems of one shard are listed; the rest is only counted."""
_MASKS = ("class.png", "object.png")
"""Members that are checked beside the picture and the JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was read and what is wrong; without problems the dataset is whole."""

    manifest: Manifest
    problems: tuple[str, ...]
    num_samples: int
    num_bytes: int
    seconds: float


@dataclass(slots=True)
class _Findings:
    """What was found in one shard."""

    problems: list[str] = field(default_factory=list)
    num_samples: int = 0
    num_bytes: int = 0
    keys: list[str] = field(default_factory=list)
    totals: dict[str, Any] = field(default_factory=lambda: SplitCounts("").as_json())
    """The result of `SplitCounts.as_json`."""


def verify(
    folder: Folder,
    *,
    decode: bool = False,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Check every byte of a dataset.

    Args:
        folder: The dataset.
        decode: Whether to decode every picture and mask, instead of reading their headers.
        workers: Number of processes; None: one for each core.
        on_progress: Called with (shards done, shards in all).

    Returns:
        Everything that is wrong with sizes, digests, indexes, CRCs, JSON, picture headers and
        totals.

    Raises:
        ShardToolError: There is no dataset, or its manifest cannot be read.
    """
    began = time.monotonic()
    manifest = load_manifest(folder)
    entries = [(name, entry) for name, split in manifest.splits.items() for entry in split.shards]
    by_number: dict[int, _Findings] = {}
    with open_pool("local", workers or len(os.sched_getaffinity(0))) as pool:
        its = (decode, manifest.task, manifest.classes)
        tasks = ((folder, entry, *its) for _, entry in entries)
        for number, its_findings in pool.run(_check_shard, tasks):
            by_number[number] = its_findings
            if on_progress:
                on_progress(len(by_number), len(entries))
    found: dict[str, list[_Findings]] = {name: [] for name in manifest.splits}
    for number, (split, _) in enumerate(entries):  # in the order of the manifest
        found[split].append(by_number[number])
    findings = [item for items in found.values() for item in items]
    problems = [problem for item in findings for problem in item.problems]
    for name, its_findings in found.items():
        if not any(item.problems for item in its_findings):  # totals would only repeat these
            place = f"{folder}: split {name!r}"
            problems += _check_totals(place, manifest.splits[name], its_findings)
    return VerifyReport(
        manifest=manifest,
        problems=tuple(map(printable, problems)),
        num_samples=sum(item.num_samples for item in findings),
        num_bytes=sum(item.num_bytes for item in findings),
        seconds=time.monotonic() - began,
    )


def _check_shard(
    folder: Folder,
    entry: ShardEntry,
    decode: bool,  # noqa: FBT001
    task: str,
    classes: Mapping[str, int],
) -> _Findings:
    """Check one shard; runs in a worker."""
    its_folder, file = (
        (folder, entry.name) if entry.url is None else locate_shard(entry.url, folder)
    )
    if task == GENERIC:
        return _check_generic(folder, entry, its_folder.object(file))
    findings, place = _Findings(), its_folder.place(file)
    content, index_content = (
        _read(findings, *at)
        for at in (
            (its_folder, file, entry.sha256),
            (folder, entry.name + INDEX_SUFFIX, entry.index_sha256),
        )
    )
    if content is not None:
        findings.num_bytes = len(content)
        _compare(findings, place, "bytes", len(content), entry.num_bytes)
        _compare(findings, place, "sha256", hashlib.sha256(content).hexdigest(), entry.sha256)
    if index_content is not None:
        got = hashlib.sha256(index_content).hexdigest()
        _compare(findings, place, "index sha256", got, entry.index_sha256)
    if content is None or index_content is None:
        return findings
    try:
        check = partial(_check_sample, task=task, classes=classes, decode=decode)
        counts = SplitCounts(task, tuple(classes))
        _check_samples(findings, content, index_content, place, check=check, counts=counts)
        if entry.url is not None:  # in a tar of others a key may repeat
            findings.keys = []
        elif len(set(findings.keys)) != len(findings.keys):
            findings.problems.append(f"{place}: a key occurs twice")
    except ShardError as exc:
        findings.problems.append(str(exc))
    if findings.num_samples != entry.num_samples:
        problem = f"{findings.num_samples} samples, the manifest says {entry.num_samples}"
        findings.problems.append(f"{place}: {problem}")
    return _shortened(findings, place)


def _shortened(findings: _Findings, place: str) -> _Findings:
    extra = len(findings.problems) - _MAX_PROBLEMS_OF_SHARD
    if extra > 0:
        findings.problems[_MAX_PROBLEMS_OF_SHARD:] = [f"{place}: and {extra} more problems"]
    return findings


def _compare(
    findings: _Findings, place: str, what: str, found: int | str, claimed: int | str
) -> None:
    if found != claimed:
        findings.problems.append(f"{place}: {what} {found}, the manifest says {claimed}")


def _check_generic(folder: Folder, entry: ShardEntry, shard: StoredObject) -> _Findings:
    """Check a shard of generic samples, part by part: it may be large."""
    findings, place = _Findings(), shard.place
    index_content = _read(findings, folder, entry.name + INDEX_SUFFIX, entry.index_sha256)
    try:
        findings.num_bytes = shard.num_bytes()
        _compare(findings, place, "bytes", findings.num_bytes, entry.num_bytes)
        scanned = scan_stored(shard, findings.num_bytes)
    except (ShardError, StoreError) as exc:
        findings.problems.append(str(exc))
        return findings
    findings.num_samples = len(scanned.index)
    if scanned.members is not None:
        findings.totals["counts"] = {"members": dict(scanned.members)}
    _compare(findings, place, "sha256", scanned.sha256, entry.sha256)
    _compare(findings, place, "samples", findings.num_samples, entry.num_samples)
    if index_content is not None:
        try:
            index_place = folder.place(entry.name + INDEX_SUFFIX)
            _check_index(findings, (place, index_place), index_content, entry, scanned)
        except ShardError as exc:
            findings.problems.append(str(exc))
    return _shortened(findings, place)


def _check_index(
    findings: _Findings,
    places: tuple[str, str],
    content: bytes,
    entry: ShardEntry,
    scanned: ScannedShard,
) -> None:
    """Compare the index of a generic shard with what was found and with the manifest."""
    place, its_place = places
    got = hashlib.sha256(content).hexdigest()
    _compare(findings, its_place, "sha256", got, entry.index_sha256)
    index = ShardIndex.from_bytes(content, place=its_place, shard_bytes=scanned.num_bytes)
    if not np.array_equal(index.starts, scanned.index.starts):
        findings.problems.append(f"{its_place}: its offsets are not where the samples are")
        return
    for row in np.flatnonzero(index.crcs != scanned.index.crcs):
        got, claimed = f"{scanned.index.crcs[row]:08x}", f"{index.crcs[row]:08x}"
        problem = f"sample {row} has CRC-32 {got}, the index says {claimed}"
        findings.problems.append(f"{place}: {problem}")


def _read(findings: _Findings, folder: Folder, name: str, sha256: str) -> bytes | None:
    """Read an object; a remote one again until it is right, or wrong in the same way twice."""
    wrong = WrongBytes(folder.timeout_s)
    content = b""
    try:
        while True:
            content = folder.read(name)
            found = hashlib.sha256(content).hexdigest()
            if folder.local is not None or found == sha256:
                return content
            wrong.note(ShardError(folder.place(name), f"sha256 {found}"), found)
            wrong.wait()
    except ShardError:  # what is stored is wrong, and its reader finds out how
        return content
    except StoreError as exc:
        findings.problems.append(str(exc))
        return None


def _check_samples(
    findings: _Findings,
    content: bytes,
    index_content: bytes,
    place: str,
    *,
    check: Callable[..., Sample],
    counts: SplitCounts,
) -> None:
    read_at = read_at_of(memoryview(content))
    members = list(walk(read_at, 0, len(content), place=place))
    starts, findings.keys = sample_starts(members)
    findings.num_samples = len(findings.keys)
    index = ShardIndex.from_bytes(index_content, place=f"{place}.idx", shard_bytes=len(content))
    if index.starts.tolist() != starts:
        findings.problems.append(f"{place}.idx: its offsets are not where the samples are")
    else:
        for key, start, stop, crc in zip(
            findings.keys, starts[:-1], starts[1:], index.crcs.tolist(), strict=True
        ):
            if (got := zlib.crc32(content[start:stop])) != crc:
                problem = f"sample {key!r} has CRC-32 {got:08x}, the index says {crc:08x}"
                findings.problems.append(f"{place}: {problem}")
    samples: list[tuple[str, dict[str, bytes]]] = []
    for member in members:
        if part := sample_part(member):
            if not samples or samples[-1][0] != part[0]:
                samples.append((part[0], {}))
            span = content[member.offset : member.offset + member.size]
            samples[-1][1][part[1]] = span
    for key, parts in samples:
        try:
            sample = check(key, parts, place=f"{place}: {key}")
        except DataError as exc:
            findings.problems.append(str(exc))
            continue
        counts.add(sample)
    findings.totals = counts.as_json()


def _check_sample(
    key: str,
    parts: Mapping[str, bytes],
    place: str,
    *,
    task: str,
    classes: Mapping[str, int],
    decode: bool,
) -> Sample:
    sample = checked_sample(key, parts, classes, place)
    for name in (name for name in _MASKS if name in parts):
        check_mask_size(parts[name], (sample.width, sample.height), f"{place}.{name}")
        if decode and name == "class.png" and task == "segmentation":
            check_class_mask(sample, parts[name], classes, f"{place}.{name}")
        elif decode:
            _decode(parts[name], "PNG", f"{place}.{name}")
    if decode:
        extension = picture_extension(parts.keys(), place)
        _decode(parts[extension], PICTURES[extension], f"{place}.{extension}")
    return sample


def _decode(content: bytes, format_: str, place: str) -> None:
    try:
        with Image.open(io.BytesIO(content), formats=(format_,)) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DataError(place, f"does not decode: {exc}") from exc


def _check_totals(place: str, split: Split, findings: list[_Findings]) -> list[str]:
    """Compare the totals of a split; returns the problems."""
    counts = SplitCounts("")
    for item in findings:
        counts.merge(item.totals)
    counted_kinds: dict[str, Counter[str]] = {
        "objects": counts.objects,
        "difficult": counts.difficult,
        **counts.counts,
    }
    claimed_kinds = {"objects": split.objects, "difficult": split.difficult, **split.counts}
    if not split.counts:  # there are too many extensions to count
        counted_kinds.pop("members", None)
    problems = [
        f"{place}: {what} of {name!r} is {claimed.get(name, 0)}, counted {counted[name]}"
        for what in {**counted_kinds, **claimed_kinds}
        for counted, claimed in [
            (counted_kinds.get(what, Counter[str]()), claimed_kinds.get(what, {}))
        ]
        for name in sorted(counted.keys() | claimed.keys())
        if counted[name] != claimed.get(name, 0)
    ]
    keys = Counter(key for item in findings for key in item.keys)
    twice = [key for key, count in keys.items() if count > 1]
    return problems + [f"{place}: key {key!r} occurs in more than one place" for key in twice[:3]]
