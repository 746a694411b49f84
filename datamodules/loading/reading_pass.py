"""Holds one worker's pass over an epoch: which order it follows, and where it starts to fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datamodules.order.canonical import EpochOrder
    from datamodules.order.node_shards import NodeShards


class Reading(NamedTuple):
    """One worker's pass over an epoch."""

    epoch: EpochOrder
    node_shards: NodeShards
    share: float
    """In [0, 1): where in a window the worker starts to fetch."""
