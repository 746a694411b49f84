"""Opens a dataset for detection with small pictures and a fixed seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datamodules import ShardDataset
from datamodules.presets import detection_train

if TYPE_CHECKING:
    from pathlib import Path


def dataset(root: Path, **options: Any) -> ShardDataset:
    return ShardDataset(str(root), **{"transform": detection_train(64), "seed": 5, **options})
