"""Read a whole dataset and compare it with what it says of itself.

Every problem is found and reported, not only the first: a shard is a task, tasks run in a pool of
processes, and each returns what is wrong with its shard and what it counted.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from shard_tool.errors import DataError, ShardError, StoreError
from shard_tool.pool import process_pool
from shard_tool.sample import parse_sample
from shard_tool.storage import Folder, load_manifest
from shard_tool.tarshard import (
    INDEX_SUFFIX,
    ShardIndex,
    read_at_of,
    sample_starts,
    split_name,
    walk,
)
from shard_tool.voc.record import picture_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shard_tool.manifest import Manifest, ShardEntry, Split
    from shard_tool.sample import Sample

_MAX_PROBLEMS_OF_SHARD = 20
"""More problems of one shard than this are counted, not listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was read and what is wrong with it; no problems means the dataset is whole."""

    manifest: Manifest
    problems: tuple[str, ...]
    num_samples: int
    num_bytes: int
    seconds: float


@dataclass(slots=True)
class _Findings:
    """What one shard turned out to hold."""

    problems: list[str] = field(default_factory=list)
    num_samples: int = 0
    num_bytes: int = 0
    keys: list[str] = field(default_factory=list)
    objects: Counter[str] = field(default_factory=Counter)
    difficult: Counter[str] = field(default_factory=Counter)


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
        decode: Decode every picture and mask as well, instead of reading their headers.
        workers: Processes; None: one a core.
        on_progress: Called with (shards done, shards in all).

    Returns:
        Sizes, digests, indexes, CRCs, JSON, picture headers and totals, as far as they are wrong.

    Raises:
        ShardToolError: There is no dataset, or its manifest cannot be read.
    """
    began = time.monotonic()
    manifest = load_manifest(folder)
    entries = [(name, entry) for name, split in manifest.splits.items() for entry in split.shards]
    found: dict[str, list[_Findings]] = {name: [] for name in manifest.splits}
    with process_pool(workers or len(os.sched_getaffinity(0))) as pool:
        tasks = [pool.submit(_check_shard, folder, entry, decode) for _, entry in entries]
        for number, ((split, _), task) in enumerate(zip(entries, tasks, strict=True), start=1):
            found[split].append(task.result())
            if on_progress:
                on_progress(number, len(entries))
    findings = [item for items in found.values() for item in items]
    problems = [problem for item in findings for problem in item.problems]
    for name, its_findings in found.items():
        if not any(item.problems for item in its_findings):  # else the totals only repeat them
            place = f"{folder}: split {name!r}"
            problems += _check_totals(place, manifest.splits[name], its_findings)
    return VerifyReport(
        manifest=manifest,
        problems=tuple(problems),
        num_samples=sum(item.num_samples for item in findings),
        num_bytes=sum(item.num_bytes for item in findings),
        seconds=time.monotonic() - began,
    )


def _check_shard(folder: Folder, entry: ShardEntry, decode: bool) -> _Findings:  # noqa: FBT001
    """Check one shard. Runs in a worker."""
    findings, place = _Findings(), folder.place(entry.name)
    content, index_content = (
        _read(findings, folder, name) for name in (entry.name, entry.name + INDEX_SUFFIX)
    )
    expected: dict[str, tuple[int | str, int | str]] = {}
    if content is not None:
        findings.num_bytes = len(content)
        expected["bytes"] = (len(content), entry.num_bytes)
        expected["sha256"] = (hashlib.sha256(content).hexdigest(), entry.sha256)
    if index_content is not None:
        got = hashlib.sha256(index_content).hexdigest()
        expected["index sha256"] = (got, entry.index_sha256)
    for what, (found, claimed) in expected.items():
        if found != claimed:
            findings.problems.append(f"{place}: {what} {found}, the manifest says {claimed}")
    if content is None or index_content is None:
        return findings
    try:
        _check_samples(findings, content, index_content, place, decode=decode)
    except ShardError as exc:
        findings.problems.append(str(exc))
    if findings.num_samples != entry.num_samples:
        problem = f"{findings.num_samples} samples, the manifest says {entry.num_samples}"
        findings.problems.append(f"{place}: {problem}")
    extra = len(findings.problems) - _MAX_PROBLEMS_OF_SHARD
    if extra > 0:
        findings.problems[_MAX_PROBLEMS_OF_SHARD:] = [f"{place}: and {extra} problems more"]
    return findings


def _read(findings: _Findings, folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read(name)
    except StoreError as exc:
        findings.problems.append(str(exc))
        return None


def _check_samples(
    findings: _Findings, content: bytes, index_content: bytes, place: str, *, decode: bool
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
    samples: dict[str, dict[str, bytes]] = {}
    for member in members:
        if member.is_file and (named := split_name(member.name)):
            span = content[member.offset : member.offset + member.size]
            samples.setdefault(named[0], {})[named[1]] = span
    if len(samples) != len(findings.keys):
        findings.problems.append(f"{place}: a key occurs twice")
    for key, parts in samples.items():
        try:
            sample = _check_sample(key, parts, f"{place}: {key}", decode=decode)
        except DataError as exc:
            findings.problems.append(str(exc))
            continue
        findings.objects.update(item.name for item in sample.objects)
        findings.difficult.update(item.name for item in sample.objects if item.difficult)


def _check_sample(key: str, parts: Mapping[str, bytes], place: str, *, decode: bool) -> Sample:
    if missing := {"jpg", "json"} - parts.keys():
        raise DataError(place, f"has no {' and no '.join(sorted(missing))} member")
    sample = parse_sample(parts["json"], place=f"{place}.json")
    if sample.key != key:
        raise DataError(f"{place}.json", f"its key is {sample.key!r}")
    pictures = {name: "JPEG" if name == "jpg" else "PNG" for name in parts if name != "json"}
    for name, format_ in pictures.items():
        size_wh = picture_size(parts[name], format_, f"{place}.{name}")
        if size_wh != (sample.width, sample.height):
            problem = f"is {size_wh[0]} x {size_wh[1]} px, the JSON says"
            raise DataError(f"{place}.{name}", f"{problem} {sample.width} x {sample.height}")
        if decode:
            _decode(parts[name], f"{place}.{name}")
    return sample


def _decode(content: bytes, place: str) -> None:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DataError(place, f"does not decode: {exc}") from exc


def _check_totals(place: str, split: Split, findings: list[_Findings]) -> list[str]:
    """Problems that only show over all shards of a split."""
    totals = {
        "objects": (sum((item.objects for item in findings), Counter()), split.objects),
        "difficult": (sum((item.difficult for item in findings), Counter()), split.difficult),
    }
    problems = [
        f"{place}: {what} of {name!r} is {claimed.get(name, 0)}, counted {counted[name]}"
        for what, (counted, claimed) in totals.items()
        for name in sorted(counted.keys() | claimed.keys())
        if counted[name] != claimed.get(name, 0)
    ]
    keys = Counter(key for item in findings for key in item.keys)
    twice = [key for key, count in keys.items() if count > 1]
    return problems + [f"{place}: key {key!r} occurs in more than one place" for key in twice[:3]]
