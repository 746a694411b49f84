"""Detects which of how many processes this is: one frozen value, made once, in the parent.

Only this module reads the environment; workers receive the `World` with their dataset.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A process's place among ranks and nodes. Every node has the same number of ranks.

    Raises:
        OptionError: The numbers contradict each other.
    """

    rank: int = 0
    """Global number of this process, in [0, world_size)."""
    world_size: int = 1
    """Number of ranks on all nodes."""
    node: int = 0
    """Number of this machine, in [0, num_nodes)."""
    num_nodes: int = 1
    local_rank: int | None = None
    """Number of this rank on its node; None: ranks are numbered node by node, as torchrun does."""

    def __post_init__(self) -> None:
        _check_range("rank", self.rank, "world_size", self.world_size)
        _check_range("node", self.node, "num_nodes", self.num_nodes)
        if self.world_size % self.num_nodes:
            problem = f"{self.world_size} ranks do not divide over {self.num_nodes} nodes"
            raise OptionError("world", problem, "start the same number of ranks on every node")
        if self.local_rank is None:
            start = self.node * self.ranks_per_node
            _check_range("rank - node * ranks_per_node", self.rank - start, "", self.ranks_per_node)
        else:
            _check_range("local_rank", self.local_rank, "ranks_per_node", self.ranks_per_node)

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node."""
        return self.world_size // self.num_nodes

    @property
    def slot(self) -> int:
        """The rank's number in the partition: node + num_nodes · local_rank.

        It takes the positions congruent to it modulo world_size, hence, where nodes divide the
        lanes, only its node's lanes.
        """
        start = self.node * self.ranks_per_node
        local_rank = self.rank - start if self.local_rank is None else self.local_rank
        return self.node + self.num_nodes * local_rank


def detect_world(environ: Mapping[str, str] | None = None) -> World:
    """Detect the world that this process was started in.

    Asks torch.distributed if it is initialised, else reads what torchrun (`RANK`, …), SLURM
    (`SLURM_PROCID`, …) or Lightning's own launcher set. A process started alone is rank 0 of 1.

    Args:
        environ: The environment; None: this process's.
    """
    env = os.environ if environ is None else environ
    initialised = _initialised()
    if initialised:
        rank, world_size = initialised
    elif "RANK" in env and "WORLD_SIZE" in env:
        rank, world_size = int(env["RANK"]), int(env["WORLD_SIZE"])
    elif "SLURM_PROCID" in env and "SLURM_STEP_ID" in env:  # a step of srun, not the batch script
        rank, world_size = int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"])
    elif "LOCAL_RANK" in env and "WORLD_SIZE" in env:  # Lightning's own launcher, on one node
        rank, world_size = int(env["LOCAL_RANK"]), int(env["WORLD_SIZE"])
    else:
        return World()
    ranks_per_node = _first(env, "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")
    num_nodes = _first(env, "GROUP_WORLD_SIZE", "SLURM_NNODES")
    if num_nodes is None:
        num_nodes = world_size // ranks_per_node if ranks_per_node else 1
    node = _first(env, "GROUP_RANK", "NODE_RANK", "SLURM_NODEID")
    if node is None:
        node = rank * num_nodes // world_size  # ranks numbered node by node
    local_rank = _first(env, "LOCAL_RANK", "SLURM_LOCALID") if num_nodes > 1 else None
    return World(
        rank=rank, world_size=world_size, node=node, num_nodes=num_nodes, local_rank=local_rank
    )


def _initialised() -> tuple[int, int] | None:
    """Return (rank, world size) of torch.distributed, if it is initialised."""
    import torch.distributed as dist  # here: the module stays importable without torch

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return None


def _first(env: Mapping[str, str], *names: str) -> int | None:
    return next((int(env[name]) for name in names if env.get(name, "").isdigit()), None)


def _check_range(what: str, value: int, limit_name: str, limit: int) -> None:
    if not 0 <= value < limit:
        of = f" of {limit_name} {limit}" if limit_name else ""
        raise OptionError(f"{what} {value}{of}", f"must be in [0, {limit})")
