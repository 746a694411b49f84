"""Says in words what training waited for and what the user can change."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytorch_lightning.utilities import rank_zero_warn

from datamodules.transforms.fused import FusedTransform

if TYPE_CHECKING:
    from datamodules.loading.loader import ShardLoader
    from datamodules.profiling.stalls import StepTotals

_WORKERS_PER_CORE = 2
"""Workers also wait for storage, so a few more than cores do no harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What advice depends on, on one rank."""

    num_workers: int
    num_cores: int
    """Processor cores of this rank: its share of the machine's."""
    on_gpu: bool = False
    pin_memory: bool = False
    is_generic: bool = False
    recipe_decode: str | None = None
    """How the recipe decodes; None: the transform is not a recipe."""
    has_after: bool = False
    """Whether another transform follows the recipe."""

    @classmethod
    def of(cls, loader: ShardLoader, device_type: str) -> Setup:
        """The setup of a loader that feeds a device of this type."""
        dataset = loader.dataset.dataset
        recipe = dataset.transform if isinstance(dataset.transform, FusedTransform) else None
        return cls(
            num_workers=loader.num_workers,
            num_cores=max(1, num_cores() // dataset.world.ranks_per_node),
            on_gpu=device_type == "cuda",
            pin_memory=bool(loader.pin_memory),
            is_generic=dataset.is_generic,
            recipe_decode=recipe.decode if recipe else None,
            has_after=bool(recipe and recipe.after),
        )


def advice(totals: StepTotals, setup: Setup) -> str:
    """Say what the steps of `totals` waited for most, and what would help, the best first."""
    wait_s, hand_over_s = totals.wait_s, totals.cost.hand_over_s
    if totals.copy_s > totals.idle_s:
        share = totals.copy_s / totals.seconds
        found = f"the copy to the device takes {_percent(share)} of the time"
        return f"{found}: {_copy_advice(setup)}"
    if hand_over_s > wait_s / 2:
        share = hand_over_s / wait_s
        found = f"handing over batches that are made takes {_percent(share)} of the waiting"
        return f"{found}: {_hand_over_advice(setup)}"
    shares = totals.worker_shares
    cause = max(shares, key=lambda name: shares[name])
    whose = "the workers' time" if setup.num_workers else "the time a batch takes to make"
    advise = {
        "fetch": _fetch_advice,
        "decode": _decode_advice,
        "transform": _transform_advice,
        "collate": _collate_advice,
    }[cause]
    ways = [way for way in (_workers_advice(totals, setup), *advise(totals, setup)) if way]
    return f"{cause} takes {_percent(shares[cause])} of {whose}: {', or '.join(ways)}"


def _workers_advice(totals: StepTotals, setup: Setup) -> str:
    """A better number of workers, never above that of cores; empty if there is none."""
    here, cores = setup.num_workers, setup.num_cores
    if here > cores:
        return f"lower num_workers from {here} to {cores}, the cores there are for it"
    if here == cores:
        return ""
    # So many make one batch in the time that a step takes without waiting.
    work_s = totals.cost.worker_s / max(totals.num_batches, 1)
    needed = math.ceil(work_s / totals.step_s) if totals.step_s else cores
    return f"raise num_workers from {here} to {max(here + 1, min(needed, cores))}"


def _fetch_advice(totals: StepTotals, setup: Setup) -> list[str]:  # noqa: ARG001
    cost = totals.cost
    if cost.read_through_bytes > max(cost.network_bytes, cost.cache_bytes):
        share = cost.read_through_bytes / cost.sample_bytes
        return [
            f"raise cache_limit or lower window: {_percent(share)} of it was read past the cache"
        ]
    return ["keep cache_dir from run to run", "keep the data nearer (`shard-tool copy`)"]


def _decode_advice(totals: StepTotals, setup: Setup) -> list[str]:  # noqa: ARG001
    ways = []
    if setup.recipe_decode == "exact":
        ways.append('decode="fast"')
    if setup.recipe_decode in ("exact", "fast") and setup.on_gpu:
        ways.append('decode="cuda"')
    if not ways:
        ways.append("store smaller pictures (`shard-tool convert --resize`)")
    return ways


def _transform_advice(totals: StepTotals, setup: Setup) -> list[str]:  # noqa: ARG001
    if setup.recipe_decode is None and not setup.is_generic:
        return ["take a recipe, which does geometry and colours in one go"]
    if setup.has_after:
        return ["move what follows the recipe to the device"]
    if setup.recipe_decode is not None and setup.on_gpu:
        return ["change colours on the device"]
    return ["make transforms cheaper"]


def _collate_advice(totals: StepTotals, setup: Setup) -> list[str]:  # noqa: ARG001
    return ["make collate_fn cheaper" if setup.is_generic else "take a smaller image_size"]


def _hand_over_advice(setup: Setup) -> str:
    here = setup.num_workers
    if here > 1 and here >= setup.num_cores:  # the process that trains wants one as well
        return f"lower num_workers from {here} to {max(1, setup.num_cores - 1)}"
    if setup.is_generic:
        return "let collate_fn pack a batch into few tensors"
    if setup.recipe_decode is None:
        return "let transforms return uint8 pictures, or smaller ones"
    return "take a smaller image_size"


def _copy_advice(setup: Setup) -> str:
    if not setup.pin_memory:
        return "set pin_memory=True"
    return "let transforms return uint8 pictures, or smaller ones"


def warn_of_workers(num_workers: int, trainer: Any) -> None:
    """Warn if there are more workers than the machine can run well.

    Args:
        num_workers: Of each rank.
        trainer: Says how many ranks this node has; None: one.
    """
    ranks = 1 if trainer is None else trainer.world_size // trainer.num_nodes
    workers, cores = ranks * num_workers, num_cores()
    if workers > _WORKERS_PER_CORE * cores:
        each = f"num_workers={num_workers}"
        each += f" on each of {ranks} ranks: {workers}" if ranks > 1 else ": so many"
        rank_zero_warn(
            f"VOCDataModule: {each} processes share {cores} cores and slow each other down; "
            f"num_workers={max(1, cores // ranks)} will be as fast"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def num_cores() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
