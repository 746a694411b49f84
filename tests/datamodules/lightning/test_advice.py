"""What `Monitor` advises: sentences for made-up costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from datamodules import ShardDataset, ShardLoader, World
from datamodules.lightning.advice import Setup, advice
from datamodules.presets import detection_train
from datamodules.profiling.batch_cost import Cost
from datamodules.profiling.device_clock import DeviceCopy, DeviceEvent
from datamodules.profiling.stalls import StepMeter, StepTotals

CPU = torch.device("cpu")


def at(seconds: float) -> DeviceEvent:
    """An event of the CPU at this time."""
    event = DeviceEvent(CPU)
    event.host_s = seconds
    return event


def steps(*costs: Cost, seconds: float = 1.0, copy_s: float = 0.0) -> StepTotals:
    """Totals of a pass: a first batch, then one of each cost every so many seconds."""
    meter = StepMeter()
    meter.arrived(Cost(num_samples=1, wait_s=9.0, start_s=9.0), at(0.0))
    for number, cost in enumerate(costs, start=1):
        copy = DeviceCopy(at(0.0), at(copy_s)) if copy_s else None
        meter.arrived(cost, at(number * seconds), copy)
    return meter.take()


SETUP = Setup(num_workers=2, num_cores=8, recipe_decode="exact")
WORK: dict[str, Any] = {"num_samples": 4, "wait_s": 0.5}


@pytest.mark.parametrize(
    ("cost", "setup", "text"),
    [
        pytest.param(
            {"decode_s": 1.42, "transform_s": 0.58},
            replace(SETUP, on_gpu=True),
            "decode takes 71 % of the workers' time: raise num_workers from 2 to 4, "
            'or decode="fast", or decode="cuda"',
            id="decode",
        ),
        pytest.param(
            {"decode_s": 1.42, "transform_s": 0.58},
            replace(SETUP, num_workers=0, recipe_decode="fast"),
            "decode takes 71 % of the time a batch takes to make: raise num_workers from 0 to 4, "
            "or store smaller pictures (`shard-tool convert --resize`)",
            id="decode-in-this-process",
        ),
        pytest.param(
            {"decode_s": 20.0},
            replace(SETUP, num_workers=7),
            "decode takes 100 % of the workers' time: raise num_workers from 7 to 8, "
            'or decode="fast"',
            id="never-more-workers-than-cores",
        ),
        pytest.param(
            {"decode_s": 20.0},
            replace(SETUP, num_workers=8),
            'decode takes 100 % of the workers\' time: decode="fast"',
            id="all-cores-have-one",
        ),
        pytest.param(
            {"decode_s": 20.0},
            replace(SETUP, num_workers=12),
            "decode takes 100 % of the workers' time: lower num_workers from 12 to 8, the cores "
            'there are for it, or decode="fast"',
            id="too-many-workers",
        ),
        pytest.param(
            {"transform_s": 0.9, "decode_s": 0.1},
            replace(SETUP, recipe_decode=None),
            "transform takes 90 % of the workers' time: raise num_workers from 2 to 3, "
            "or take a recipe, which does geometry and colours in one go",
            id="transform",
        ),
        pytest.param(
            {"transform_s": 0.9, "decode_s": 0.1},
            replace(SETUP, num_workers=8, on_gpu=True),
            "transform takes 90 % of the workers' time: change colours on the device",
            id="transform-of-a-recipe",
        ),
        pytest.param(
            {"transform_s": 0.9, "decode_s": 0.1},
            replace(SETUP, num_workers=8, has_after=True),
            "transform takes 90 % of the workers' time: move what follows the recipe to the device",
            id="transform-after-a-recipe",
        ),
        pytest.param(
            {"transform_s": 0.9, "collate_s": 0.1},
            replace(SETUP, num_workers=8, is_generic=True, recipe_decode=None),
            "transform takes 90 % of the workers' time: make transforms cheaper",
            id="transform-of-generic-samples",
        ),
        pytest.param(
            {"fetch_s": 3.0, "decode_s": 1.0, "network_bytes": 50, "read_through_bytes": 20},
            SETUP,
            "fetch takes 75 % of the workers' time: raise num_workers from 2 to 8, or keep "
            "cache_dir from run to run, or keep the data nearer (`shard-tool copy`)",
            id="fetch",
        ),
        pytest.param(
            {"fetch_s": 3.0, "decode_s": 1.0, "cache_bytes": 10, "read_through_bytes": 30},
            replace(SETUP, num_workers=8),
            "fetch takes 75 % of the workers' time: raise cache_limit or lower window: 75 % of it "
            "was read past the cache",
            id="fetch-past-the-cache",
        ),
        pytest.param(
            {"collate_s": 0.9, "decode_s": 0.1},
            replace(SETUP, num_workers=8, is_generic=True),
            "collate takes 90 % of the workers' time: make collate_fn cheaper",
            id="collate",
        ),
        pytest.param(
            {"hand_over_s": 0.4, "decode_s": 0.1},
            replace(SETUP, is_generic=True),
            "handing over batches that are made takes 80 % of the waiting: let collate_fn pack a "
            "batch into few tensors",
            id="hand-over-of-generic-samples",
        ),
        pytest.param(
            {"hand_over_s": 0.4, "decode_s": 0.1},
            replace(SETUP, recipe_decode=None),
            "handing over batches that are made takes 80 % of the waiting: let transforms return "
            "uint8 pictures, or smaller ones",
            id="hand-over",
        ),
        pytest.param(
            {"hand_over_s": 0.4, "decode_s": 0.1},
            replace(SETUP, num_workers=8),
            "handing over batches that are made takes 80 % of the waiting: lower num_workers from "
            "8 to 7",
            id="hand-over-where-workers-have-all-cores",
        ),
    ],
)
def test_advice_names_what_workers_spend_most_time_on(
    cost: dict[str, Any], setup: Setup, text: str
) -> None:
    totals = steps(Cost(**WORK | cost), Cost(**WORK | cost))
    # The span of a warning has no first batches of its own.
    totals.num_batches = 2
    assert advice(totals, setup) == text


def test_advice_names_a_slow_copy() -> None:
    totals = steps(Cost(num_samples=4, wait_s=0.1, decode_s=9.0), copy_s=0.4)
    setup = replace(SETUP, on_gpu=True)
    found = "the copy to the device takes 40 % of the time: "
    assert advice(totals, setup) == found + "set pin_memory=True"
    smaller = "let transforms return uint8 pictures, or smaller ones"
    assert advice(totals, replace(setup, pin_memory=True)) == found + smaller


def test_cores_are_shared_by_the_ranks_of_a_node(
    mini_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    world = World(rank=5, world_size=8, node=1, num_nodes=2)
    recipe = detection_train(32).then(lambda image, target: (image, target))
    dataset = ShardDataset(str(mini_dataset), world=world, transform=recipe)
    loader = ShardLoader(dataset, num_workers=3)
    assert Setup.of(loader, "cuda") == Setup(
        num_workers=3, num_cores=4, on_gpu=True, recipe_decode="exact", has_after=True
    )
    assert Setup.of(ShardLoader(ShardDataset(str(mini_dataset), world=world)), "cpu") == Setup(
        num_workers=0, num_cores=4
    )
