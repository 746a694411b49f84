"""Copies datasets in this process, and spoils files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset.copy import CopyOptions, CopyReport, copy_dataset
from shard_tool.errors import ObjectMissing
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest

if TYPE_CHECKING:
    from pathlib import Path


NAMES = ["train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar"]


def copied(source: object, dest: object, **options: Any) -> CopyReport:
    """Copy a dataset; in this process unless `workers` is given."""
    named = {"workers": 1} | options
    return copy_dataset(CopyOptions(source=str(source), dest=str(dest), **named))


def assert_no_dataset(folder: Path) -> None:
    with pytest.raises(ObjectMissing):
        load_manifest(Folder(str(folder)))


def spoil(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
