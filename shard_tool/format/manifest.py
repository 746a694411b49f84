"""Encodes and parses the manifest, a dataset's commit record, and derives arrays from it.

All functions are pure: text in, values out. The manifest is written last; a folder without one is
no dataset. It grows with the number of shards, not of samples. It holds what decides bytes. It
holds no worker counts, engines, paths, URLs or times, so that equal data has an equal manifest.
Only a shard that `index` left in place has a URL, because nothing else tells where it lies.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from shard_tool.errors import ManifestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST_NAME = "manifest.json"
FORMAT = "voc-shards"
VERSION = 1
BOX_CONVENTION = "xyxy pixels, zero-based, half-open"
GENERIC = "generic"
"""Task of samples whose members are known by their extensions alone."""

_SHARD_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]*\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/@?#]*/[^?#]*[^/?#]")
_PATH = re.compile(r"[^\0]*[^\0/]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard of a split."""

    name: str
    """Name of the shard in the dataset's folder; with '.idx', of its index."""
    num_samples: int
    num_bytes: int
    sha256: str
    index_sha256: str
    url: str | None = None
    """URL or path of a shard that `index` left in place, relative to the dataset's folder unless
    absolute. That folder holds only its index. None: the shard lies there, under its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split: its shards in order and its totals."""

    shards: tuple[ShardEntry, ...]
    num_samples: int
    num_bytes: int
    objects: dict[str, int]
    """Objects of each class, difficult ones included."""
    difficult: dict[str, int]
    """Objects of each class that are marked difficult."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Other counts by kind: what the task is about (see `counts.SplitCounts`). For generic samples,
    `members` counts the samples that have a member of each extension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a manifest says of its dataset."""

    name: str
    task: str
    classes: dict[str, int]
    """Class name to label; labels start at 1, 0 is background."""
    sources: tuple[dict[str, Any], ...]
    release: str
    """Release of the tool that wrote the dataset."""
    options: dict[str, Any]
    """The options that decide bytes."""
    splits: dict[str, Split]
    num_bad_records: int = 0
    duplicates: tuple[dict[str, Any], ...] = ()
    """Pictures that were left out because another source has the same bytes: `key`, `split` and
    `source` of each, and in `same_as` those of the picture that was kept."""
    report: dict[str, Any] = field(default_factory=dict)
    """What was dropped, altered or read otherwise than written: code to `count` and `examples`."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shards' digests in order, as 64 hex digits."""
        digests = [entry.sha256 for split in self.splits.values() for entry in split.shards]
        return hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()

    @property
    def num_samples(self) -> int:
        """Samples of all splits; sample ids run from 0 to one less."""
        return sum(split.num_samples for split in self.splits.values())

    @property
    def objects_beside(self) -> set[str]:
        """Names of the dataset's own objects in its folder, without the manifest.

        A shard with a URL is not among them, even if it lies in the folder under its name.
        """
        entries = [entry for split in self.splits.values() for entry in split.shards]
        shards = {entry.name for entry in entries if entry.url is None}
        return shards | {f"{entry.name}.idx" for entry in entries}


@dataclass(frozen=True, slots=True)
class ShardArrays:
    """The shards of one or more splits as arrays, which training workers get instead of JSON."""

    names: NDArray[np.bytes_]
    """ASCII [shards], in manifest order; takes a quarter of the memory of str."""
    num_samples: NDArray[np.int64]
    """int64 [shards]."""
    num_bytes: NDArray[np.int64]
    """int64 [shards]."""
    first_ids: NDArray[np.int64]
    """int64 [shards]: sample id of each shard's first sample, counted over all splits."""
    sha256: NDArray[np.uint8]
    """uint8 [shards, 32]."""
    index_sha256: NDArray[np.uint8]
    """uint8 [shards, 32]."""
    urls: NDArray[np.bytes_] | None = None
    """UTF-8 [shards]: URLs, empty for shards without; None if no shard has a URL."""


def shard_arrays(manifest: Manifest, splits: tuple[str, ...]) -> ShardArrays:
    """Make the arrays of some splits; sample ids stay those of the whole manifest."""
    entries, first_ids, next_id = [], [], 0
    for name, split in manifest.splits.items():
        for entry in split.shards:
            if name in splits:
                entries.append(entry)
                first_ids.append(next_id)
            next_id += entry.num_samples
    urls = [(entry.url or "").encode("utf-8", "surrogateescape") for entry in entries]
    return ShardArrays(
        names=np.array([entry.name for entry in entries], dtype=np.bytes_),
        num_samples=np.array([entry.num_samples for entry in entries], np.int64),
        num_bytes=np.array([entry.num_bytes for entry in entries], np.int64),
        first_ids=np.array(first_ids, np.int64),
        sha256=_digests([entry.sha256 for entry in entries]),
        index_sha256=_digests([entry.index_sha256 for entry in entries]),
        urls=np.array(urls, dtype=np.bytes_) if any(urls) else None,
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode a manifest as ``manifest.json``; equal manifests give equal bytes."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "name": manifest.name,
        "task": manifest.task,
        "classes": [{"name": name, "label": label} for name, label in manifest.classes.items()],
        "box_convention": BOX_CONVENTION,
        "sources": list(manifest.sources),
        "tool": {"name": "voc-shards", "release": manifest.release},
        "options": manifest.options,
        "num_bad_records": manifest.num_bad_records,
        "splits": {name: _split_to_json(split) for name, split in manifest.splits.items()},
        "fingerprint": manifest.fingerprint,
    }
    if len(manifest.sources) > 1:
        document["duplicates"] = list(manifest.duplicates)
    if manifest.report:
        document["report"] = manifest.report
    document["sha256"] = _digest(document)
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"


def parse_manifest(content: bytes, *, place: str) -> Manifest:
    """Read ``manifest.json`` and check that it agrees with itself.

    Raises:
        ManifestError: It is not JSON, or of another format or version; a field is missing or has
            another type; totals do not add up; the fingerprint is not that of the shards; or the
            digest is not that of the content.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ManifestError(place, f"not JSON: {exc}") from exc
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ManifestError(place, f"not a {FORMAT} manifest")
    if document.get("version") != VERSION:
        found = document.get("version")
        problem = f"version {found!r} is unknown (this release reads version {VERSION})"
        raise ManifestError(place, problem, "install a release of voc-shards that knows it")
    try:
        manifest = _manifest_from_json(document)
        claimed, digest = document["fingerprint"], document.pop("sha256")
    except KeyError as exc:
        hint = "it is damaged or of another release: delete the folder and convert again"
        raise ManifestError(place, f"field {exc.args[0]!r} is missing", hint) from exc
    except (TypeError, ValueError, AttributeError) as exc:
        raise ManifestError(place, f"a field holds what it cannot: {exc}") from exc
    names = [entry.name for split in manifest.splits.values() for entry in split.shards]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ManifestError(place, f"shard {twice[0]!r} is named twice")
    if claimed != manifest.fingerprint:
        problem = f"fingerprint {claimed!r} is not its shards' ({manifest.fingerprint})"
        raise ManifestError(place, problem)
    if digest != _digest(document):
        problem = f"sha256 {digest!r} is not that of its content ({_digest(document)})"
        raise ManifestError(place, problem, "it was changed or damaged: put the original there")
    return manifest


def _digest(document: dict[str, Any]) -> str:
    """SHA-256 of all other fields, so that a flipped bit never passes for a class or a count."""
    compact = json.dumps(document, ensure_ascii=False, separators=(",", ":"))  # the fast encoder
    return hashlib.sha256(compact.encode("utf-8", "surrogatepass")).hexdigest()


def _split_to_json(split: Split) -> dict[str, Any]:
    """Leave out `url` and `counts` where there are none."""
    document = asdict(split)
    for entry in document["shards"]:
        if entry["url"] is None:
            del entry["url"]
    if not split.counts:
        del document["counts"]
    return document


def _manifest_from_json(document: dict[str, Any]) -> Manifest:
    return Manifest(
        name=_text(document["name"]),
        task=_text(document["task"]),
        classes={_text(item["name"]): _count(item["label"]) for item in document["classes"]},
        sources=tuple(document["sources"]),
        release=_text(document["tool"]["release"]),
        options=dict(document["options"]),
        splits={name: _split_from_json(name, s) for name, s in document["splits"].items()},
        num_bad_records=_count(document["num_bad_records"]),
        duplicates=tuple(dict(item) for item in document.get("duplicates", ())),
        report=dict(document.get("report", {})),
    )


def _split_from_json(name: str, document: dict[str, Any]) -> Split:
    split = Split(
        shards=tuple(_entry_from_json(entry) for entry in document["shards"]),
        num_samples=_count(document["num_samples"]),
        num_bytes=_count(document["num_bytes"]),
        objects={key: _count(count) for key, count in document["objects"].items()},
        difficult={key: _count(count) for key, count in document["difficult"].items()},
        counts={
            what: {name: _count(number) for name, number in counted.items()}
            for what, counted in document.get("counts", {}).items()
        },
    )
    for total in ("num_samples", "num_bytes"):
        found = sum(getattr(entry, total) for entry in split.shards)
        if found != getattr(split, total):
            message = f"split {name!r}: {total} is {getattr(split, total)}, its shards' is {found}"
            raise ValueError(message)
    return split


def _entry_from_json(entry: dict[str, Any]) -> ShardEntry:
    parsed = ShardEntry(
        name=entry["name"],
        num_samples=_count(entry["num_samples"]),
        num_bytes=_count(entry["num_bytes"]),
        sha256=entry["sha256"],
        index_sha256=entry["index_sha256"],
        url=entry.get("url"),
    )
    if parsed.url is not None and not is_shard_url(parsed.url):
        message = f"shard {parsed.name!r} has a url that cannot be one"  # it may hold a password
        raise ValueError(message)
    if not _SHARD_NAME.fullmatch(parsed.name):  # names become paths: nothing may climb out
        message = f"shard name {parsed.name!r} is not a plain file name ending in .tar"
        raise ValueError(message)
    if not (_SHA256.fullmatch(parsed.sha256) and _SHA256.fullmatch(parsed.index_sha256)):
        message = f"shard {parsed.name!r}: a digest is not 64 hex digits"
        raise ValueError(message)
    if parsed.num_samples < 1 or parsed.num_bytes < 1:
        what = "samples" if parsed.num_samples < 1 else "bytes"
        message = f"shard {parsed.name!r} claims {getattr(parsed, f'num_{what}')} {what}"
        raise ValueError(message)
    return parsed


def is_shard_url(url: str) -> bool:
    """Whether a manifest may hold this URL of a shard: a path, or a URL without any secret.

    >>> is_shard_url("../shards/a.tar"), is_shard_url("s3://bucket/a.tar")
    (True, True)
    >>> is_shard_url("https://me:secret@host/a.tar"), is_shard_url("https://host/a.tar?token=secret")
    (False, False)
    """
    return bool((_URL if "://" in url else _PATH).fullmatch(url))


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = f"{value!r} is not text"
        raise TypeError(message)
    return value


def _count(value: object) -> int:
    if type(value) is not int:  # neither '7' nor 7.5 nor true
        message = f"{value!r} is not a whole number"
        raise TypeError(message)
    return value


def _digests(values: list[str]) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex("".join(values)), np.uint8).reshape(-1, 32)
