"""Tars of several writers, and the dataset they are indexed into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from datamodules.loading import dataset
from tests.kit.datasets.foreign_tars import (
    adopted,
    by_gnu_tar,
    shards_of_others,
)
from tests.kit.datasets.generic_samples import LENGTHS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def foreign_shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tars of several writers. Read only."""
    folder = tmp_path_factory.mktemp("adopted") / "shards"
    found = shards_of_others(folder, LENGTHS)
    files = {"d/": b"", f"{'deep/' * 60}a.b.JPG": b"j" * 900, "d/c.txt": b"t", "README": b"-"}
    return [*found, by_gnu_tar(folder / "zz.tar", files)]


@pytest.fixture(scope="module")
def indexed_root(foreign_shards: list[Path]) -> Path:
    """A dataset that indexes `foreign_shards`. Read only."""
    dest = foreign_shards[0].parent.parent / "out"
    adopted(foreign_shards, dest)
    return dest


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare dataset reads four samples at a time, so that tests wait for later windows."""
    monkeypatch.setattr(dataset, "_SMALL_CHUNK", 4)
