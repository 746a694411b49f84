"""Which process of how many: read from each launcher, refused where numbers contradict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from datamodules.order.world import World, detect_world
from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable


def torchrun(rank: int, num_nodes: int, per_node: int) -> dict[str, str]:
    node, local_rank = divmod(rank, per_node)
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(num_nodes * per_node),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(per_node),
        "GROUP_RANK": str(node),
        "GROUP_WORLD_SIZE": str(num_nodes),
    }


def slurm_block(rank: int, num_nodes: int, per_node: int) -> dict[str, str]:
    """srun --ntasks-per-node, ranks numbered node by node (--distribution=block)."""
    node, local_rank = divmod(rank, per_node)
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_NTASKS": str(num_nodes * per_node),
        "SLURM_LOCALID": str(local_rank),
        "SLURM_NTASKS_PER_NODE": str(per_node),
        "SLURM_NODEID": str(node),
        "SLURM_NNODES": str(num_nodes),
        "SLURM_STEP_ID": "0",
    }


def slurm_cyclic(rank: int, num_nodes: int, per_node: int) -> dict[str, str]:
    """srun --distribution=cyclic deals the ranks out; without --ntasks-per-node."""
    local_rank, node = divmod(rank, num_nodes)
    environ = slurm_block(rank, num_nodes, per_node)
    del environ["SLURM_NTASKS_PER_NODE"]
    return environ | {"SLURM_LOCALID": str(local_rank), "SLURM_NODEID": str(node)}


def no_group(rank: int, num_nodes: int, per_node: int) -> dict[str, str]:
    """A launcher that sets what `env://` needs and the local numbers (mpirun wrappers do)."""
    environ = torchrun(rank, num_nodes, per_node)
    del environ["GROUP_RANK"], environ["GROUP_WORLD_SIZE"]
    return environ


LAUNCHERS = [torchrun, slurm_block, slurm_cyclic, no_group]


# The slot -------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 5))
def test_slots_of_all_ranks_are_a_permutation_of_the_ranks(num_nodes: int, per_node: int) -> None:
    size = num_nodes * per_node
    slots = [
        World(rank=rank, world_size=size, node=rank // per_node, num_nodes=num_nodes).slot
        for rank in range(size)
    ]
    assert sorted(slots) == list(range(size))


@pytest.mark.parametrize("launcher", LAUNCHERS)
@given(st.integers(1, 6), st.integers(1, 5))
def test_slots_of_all_processes_of_a_launcher_are_a_permutation_of_the_ranks(
    launcher: Callable[[int, int, int], dict[str, str]], num_nodes: int, per_node: int
) -> None:
    """Two ranks of one slot would read every sample twice."""
    size = num_nodes * per_node
    slots = [detect_world(launcher(rank, num_nodes, per_node)).slot for rank in range(size)]
    assert sorted(slots) == list(range(size))


def test_slot_counts_over_nodes_first() -> None:
    worlds = [World(rank=r, world_size=6, node=r // 2, num_nodes=3) for r in range(6)]
    assert [world.slot for world in worlds] == [0, 3, 1, 4, 2, 5]
    assert [world.slot % 3 for world in worlds] == [world.node for world in worlds]


def test_slot_follows_the_local_rank_where_ranks_are_dealt_out() -> None:
    worlds = [
        World(rank=r, world_size=6, node=r % 3, num_nodes=3, local_rank=r // 3) for r in range(6)
    ]
    assert [world.slot for world in worlds] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"rank": 5, "world_size": 4}, "rank 5 of world_size 4: must be in [0, 4)"),
        ({"rank": -1, "world_size": 4}, "rank -1 of world_size 4: must be in [0, 4)"),
        ({"world_size": 0}, "rank 0 of world_size 0: must be in [0, 0)"),
        (
            {"world_size": 4, "node": 2, "num_nodes": 2},
            "node 2 of num_nodes 2: must be in [0, 2)",
        ),
        ({"num_nodes": 0}, "node 0 of num_nodes 0: must be in [0, 0)"),
        (
            {"world_size": 5, "num_nodes": 2},
            "world: 5 ranks do not divide over 2 nodes; "
            "start the same number of ranks on every node",
        ),
        (
            {"rank": 3, "world_size": 4, "node": 0, "num_nodes": 2},
            "rank - node * ranks_per_node 3: must be in [0, 2)",
        ),
        (
            {"rank": 0, "world_size": 4, "node": 1, "num_nodes": 2},
            "rank - node * ranks_per_node -2: must be in [0, 2)",
        ),
        (
            {"rank": 3, "world_size": 4, "node": 1, "num_nodes": 2, "local_rank": 2},
            "local_rank 2 of ranks_per_node 2: must be in [0, 2)",
        ),
    ],
)
def test_world_refuses_numbers_that_contradict_each_other(
    numbers: dict[str, int], message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        World(**numbers)
    assert str(caught.value) == message


# Detection ------------------------------------------------------------------------------------


def test_process_started_alone_is_rank_0_of_1() -> None:
    assert detect_world({}) == World(rank=0, world_size=1, node=0, num_nodes=1)


def test_detect_reads_torchrun() -> None:
    expected = World(rank=5, world_size=8, node=1, num_nodes=2, local_rank=1)
    assert detect_world(torchrun(5, num_nodes=2, per_node=4)) == expected


def test_detect_reads_slurm() -> None:
    expected = World(rank=5, world_size=8, node=1, num_nodes=2, local_rank=1)
    assert detect_world(slurm_block(5, num_nodes=2, per_node=4)) == expected


def test_detect_reads_ranks_that_slurm_dealt_out() -> None:
    expected = World(rank=5, world_size=8, node=1, num_nodes=2, local_rank=2)
    assert detect_world(slurm_cyclic(5, num_nodes=2, per_node=4)) == expected


def test_detect_reads_what_lightnings_own_launcher_set() -> None:
    """It sets no RANK; on one node, the local rank is the rank."""
    environ = {"NODE_RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}
    found = detect_world(environ)
    assert (found.rank, found.world_size, found.slot) == (1, 2, 1)


def test_detect_finds_the_node_by_the_rank_where_only_local_numbers_are_given() -> None:
    found = detect_world(no_group(2, num_nodes=2, per_node=2))
    assert (found.node, found.num_nodes, found.slot) == (1, 2, 1)


def test_detect_takes_ranks_without_local_numbers_for_one_node() -> None:
    found = detect_world({"RANK": "3", "WORLD_SIZE": "4"})
    assert (found.rank, found.node, found.num_nodes, found.slot) == (3, 0, 1, 3)


def test_detect_ignores_slurm_outside_of_srun() -> None:
    """The batch script itself, or a notebook in an allocation, is one process, not many."""
    environ = slurm_block(0, num_nodes=2, per_node=4)
    del environ["SLURM_STEP_ID"]
    assert detect_world(environ) == World()


def test_detect_prefers_torchrun_to_the_slurm_job_it_runs_in() -> None:
    """One task of srun on each node starts torchrun, which starts the ranks."""
    environ = slurm_block(1, num_nodes=2, per_node=1) | torchrun(5, num_nodes=2, per_node=4)
    expected = World(rank=5, world_size=8, node=1, num_nodes=2, local_rank=1)
    assert detect_world(environ) == expected


def test_detect_reads_torchrun_on_one_node_of_a_slurm_job_of_two() -> None:
    environ = slurm_block(0, num_nodes=2, per_node=1) | torchrun(3, num_nodes=1, per_node=4)
    found = detect_world(environ)
    assert (found.rank, found.world_size, found.num_nodes, found.slot) == (3, 4, 1, 3)


def test_detect_prefers_an_initialised_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    found = detect_world({"RANK": "0", "WORLD_SIZE": "1"})
    assert (found.rank, found.world_size, found.slot) == (1, 2, 1)


def test_detect_reads_this_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in torchrun(5, num_nodes=2, per_node=4).items():
        monkeypatch.setenv(name, value)
    expected = World(rank=5, world_size=8, node=1, num_nodes=2, local_rank=1)
    assert detect_world() == expected


def test_detect_refuses_nodes_with_different_numbers_of_ranks() -> None:
    """Three ranks on the first node and five on the second: one of them at least says so."""
    errors = []
    for rank in range(8):
        node, local_rank = (0, rank) if rank < 3 else (1, rank - 3)
        environ = torchrun(rank, num_nodes=2, per_node=4) | {
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": "3" if node == 0 else "5",
            "GROUP_RANK": str(node),
        }
        try:
            detect_world(environ)
        except OptionError as exc:
            errors.append(str(exc))
    assert "local_rank 4 of ranks_per_node 4: must be in [0, 4)" in errors


def test_detect_refuses_a_node_number_without_a_number_of_nodes() -> None:
    """Lightning's own launcher on several nodes: nothing says how many there are."""
    environ = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "NODE_RANK": "1"}
    with pytest.raises(OptionError) as caught:
        detect_world(environ)
    assert str(caught.value) == "node 1 of num_nodes 1: must be in [0, 1)"
