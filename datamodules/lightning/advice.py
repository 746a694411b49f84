"""From what training waited for to what the reader can do about it, in words."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datamodules.transforms.fused import FusedTransform

if TYPE_CHECKING:
    from datamodules.loading.loader import ShardLoader
    from datamodules.profiling.stalls import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a remedy has to know of a run, on one rank."""

    num_workers: int
    num_cores: int
    """Cores of the machine that are this rank's."""
    on_gpu: bool = False
    pin_memory: bool = False
    is_generic: bool = False
    recipe_decode: str | None = None
    """How the recipe decodes; None: transforms are no recipe."""
    has_after: bool = False
    """Whether other transforms follow the recipe."""

    @classmethod
    def of(cls, loader: ShardLoader, device_type: str) -> Setup:
        """That of a loader that feeds a device."""
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


def advice(tally: Tally, setup: Setup) -> str:
    """What held the steps of `tally` up, and the most likely remedies, the best first."""
    wait_s, hand_over_s = tally.wait_s, tally.cost.hand_over_s
    if tally.copy_s > tally.idle_s:
        share = tally.copy_s / tally.seconds
        found = f"the copy to the device takes {_percent(share)} of the time"
        return f"{found}: {_copy_remedy(setup)}"
    if hand_over_s > wait_s / 2:
        share = hand_over_s / wait_s
        found = f"handing over batches that are made takes {_percent(share)} of the waiting"
        return f"{found}: {_hand_over_remedy(setup)}"
    shares = tally.worker_shares
    cause = max(shares, key=lambda name: shares[name])
    whose = "the workers' time" if setup.num_workers else "the time a batch takes to make"
    remedies = {
        "fetch": _fetch_remedies,
        "decode": _decode_remedies,
        "transform": _transform_remedies,
        "collate": _collate_remedies,
    }
    ways = [way for way in (_other_workers(tally, setup), *remedies[cause](tally, setup)) if way]
    return f"{cause} takes {_percent(shares[cause])} of {whose}: {', or '.join(ways)}"


def _other_workers(tally: Tally, setup: Setup) -> str:
    """Another number of workers, never above that of cores; empty where it is right already."""
    here, cores = setup.num_workers, setup.num_cores
    if here > cores:
        return f"lower num_workers from {here} to {cores}, the cores there are for it"
    if here == cores:
        return ""
    # As many as make a batch in the time that a step takes when it waits for none.
    work_s = tally.cost.worker_s / max(tally.num_batches, 1)
    needed = math.ceil(work_s / tally.step_s) if tally.step_s else cores
    return f"raise num_workers from {here} to {max(here + 1, min(needed, cores))}"


def _fetch_remedies(tally: Tally, setup: Setup) -> list[str]:  # noqa: ARG001
    cost = tally.cost
    if cost.read_through_bytes > max(cost.network_bytes, cost.cache_bytes):
        share = cost.read_through_bytes / cost.sample_bytes
        return [
            f"raise cache_limit or lower window: {_percent(share)} of it was read past the cache"
        ]
    return ["keep cache_dir from run to run", "keep the data nearer (`shard-tool copy`)"]


def _decode_remedies(tally: Tally, setup: Setup) -> list[str]:  # noqa: ARG001
    ways = []
    if setup.recipe_decode == "exact":
        ways.append('decode="fast"')
    if setup.recipe_decode in ("exact", "fast") and setup.on_gpu:
        ways.append('decode="cuda"')
    if not ways:
        ways.append("store smaller pictures (`shard-tool convert --resize`)")
    return ways


def _transform_remedies(tally: Tally, setup: Setup) -> list[str]:  # noqa: ARG001
    if setup.recipe_decode is None and not setup.is_generic:
        return ["take a recipe, which does geometry and colours in one go"]
    if setup.has_after:
        return ["move what follows the recipe to the device"]
    if setup.recipe_decode is not None and setup.on_gpu:
        return ["change colours on the device"]
    return ["make transforms cheaper"]


def _collate_remedies(tally: Tally, setup: Setup) -> list[str]:  # noqa: ARG001
    return ["make collate_fn cheaper" if setup.is_generic else "take a smaller image_size"]


def _hand_over_remedy(setup: Setup) -> str:
    here = setup.num_workers
    if here > 1 and here >= setup.num_cores:  # the process that trains wants one as well
        return f"lower num_workers from {here} to {max(1, setup.num_cores - 1)}"
    if setup.is_generic:
        return "let collate_fn pack a batch into few tensors"
    if setup.recipe_decode is None:
        return "let transforms return uint8 pictures, or smaller ones"
    return "take a smaller image_size"


def _copy_remedy(setup: Setup) -> str:
    if not setup.pin_memory:
        return "set pin_memory=True"
    return "let transforms return uint8 pictures, or smaller ones"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def num_cores() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
