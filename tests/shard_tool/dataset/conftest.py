"""Tars and datasets that the tests of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.datasets.foreign_tars import shards_of_others

if TYPE_CHECKING:
    from pathlib import Path


LENGTHS = [4, 1, 6]


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return shards_of_others(tmp_path / "shards", LENGTHS)
