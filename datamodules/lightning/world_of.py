"""Says which place among all processes Lightning's Trainer has given to this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datamodules.order.world import World

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


def world_of(trainer: Trainer) -> World:
    """This process's place, as the Trainer counts ranks and nodes."""
    return World(
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        node=trainer.node_rank,
        num_nodes=trainer.num_nodes,
        local_rank=trainer.local_rank,
    )
