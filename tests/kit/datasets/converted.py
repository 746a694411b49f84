"""Converts sources, and reads the datasets with the standard library alone."""

from __future__ import annotations

import json
import tarfile
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from shard_tool import ConvertOptions, ConvertReport, convert
from tests.kit.datasets.tars import written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def converted(source: Path, dest: Path, **options: Any) -> ConvertReport:
    """Convert in this process, unless `workers` says otherwise."""
    return convert(ConvertOptions(source=str(source), dest=str(dest), **({"workers": 1} | options)))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included; empty for a missing folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def shards_of(folder: Path) -> dict[str, bytes]:
    """The shards and indexes of a folder."""
    files = files_of(folder)
    return {name: content for name, content in files.items() if ".tar" in name and "/" not in name}


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest as JSON."""
    document: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return document


def samples_of(folder: Path, split: str) -> dict[str, dict[str, bytes]]:
    """Key to extension to bytes, over all shards of a split in manifest order."""
    samples: dict[str, dict[str, bytes]] = {}
    for shard in manifest_of(folder)["splits"][split]["shards"]:
        samples |= _samples_of_shard(folder / shard["name"])
    return samples


def _samples_of_shard(path: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            file = tar.extractfile(member)
            assert file is not None, f"{member.name} is no file"
            samples.setdefault(key, {})[extension] = file.read()
    return samples


def resealed(
    folder: Path, split: str, change: Callable[[dict[str, dict[str, bytes]]], object]
) -> None:
    """Change samples, then rewrite shards, indexes and manifest so that all digests agree."""
    document = manifest_of(folder)
    for shard in document["splits"][split]["shards"]:
        samples = _samples_of_shard(folder / shard["name"])
        change(samples)
        content, result = written(samples)
        index = result.index.to_bytes()
        (folder / shard["name"]).write_bytes(content)
        (folder / f"{shard['name']}.idx").write_bytes(index)
        shard |= {"num_bytes": len(content), "num_samples": len(samples)}
        shard |= {"sha256": result.sha256, "index_sha256": sha256(index).hexdigest()}
    reworded(folder, lambda _: document)


def reworded(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change the manifest, then make its totals, fingerprint and digest fit again."""
    document = manifest_of(folder)
    document = change(document) or document
    shards = [shard for split in document["splits"].values() for shard in split["shards"]]
    for split in document["splits"].values():
        for total in ("num_samples", "num_bytes"):
            split[total] = sum(shard[total] for shard in split["shards"])
    digests = b"".join(bytes.fromhex(shard["sha256"]) for shard in shards)
    document["fingerprint"] = sha256(digests).hexdigest()
    document.pop("sha256")
    content = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    document["sha256"] = sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(document))
