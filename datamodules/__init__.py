"""voc-shards, the streaming half: shards into PyTorch and Lightning, exact and resumable.

Names are imported when first used: the arithmetic of order and partition needs no torch, and a
spawned worker no Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.lightning.datamodule import VOCDataModule
    from datamodules.lightning.monitor import Monitor
    from datamodules.loading.batch import Batch
    from datamodules.loading.dataset import ShardDataset
    from datamodules.loading.loader import ShardLoader
    from datamodules.loading.on_device import finish
    from datamodules.order.cursor import Cursor
    from datamodules.order.world import World

__all__ = [
    "Batch",
    "Cursor",
    "Monitor",
    "ShardDataset",
    "ShardLoader",
    "VOCDataModule",
    "World",
    "finish",
]

_HOMES = {
    "Batch": "loading.batch",
    "Cursor": "order.cursor",
    "Monitor": "lightning.monitor",
    "ShardDataset": "loading.dataset",
    "ShardLoader": "loading.loader",
    "VOCDataModule": "lightning.datamodule",
    "World": "order.world",
    "finish": "loading.on_device",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"datamodules.{_HOMES[name]}"), name)
