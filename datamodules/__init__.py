"""voc-shards, the streaming half: shards into PyTorch and Lightning, exact and resumable.

Names are imported when first used: the arithmetic of order and partition needs no torch, and a
spawned worker no Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.collate import Batch
    from datamodules.cursor import Cursor
    from datamodules.dataset import ShardDataset
    from datamodules.loader import ShardLoader
    from datamodules.monitor import Monitor
    from datamodules.voc import VOCDataModule
    from datamodules.world import World

__all__ = ["Batch", "Cursor", "Monitor", "ShardDataset", "ShardLoader", "VOCDataModule", "World"]

_HOMES = {
    "Batch": "collate",
    "Cursor": "cursor",
    "Monitor": "monitor",
    "ShardDataset": "dataset",
    "ShardLoader": "loader",
    "VOCDataModule": "voc",
    "World": "world",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"datamodules.{_HOMES[name]}"), name)
