"""Scores are the same to the last digit on any number of ranks, and count no sample twice."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import ShardDataset, ShardLoader
from datamodules.presets import detection_eval
from shard_tool.errors import EvaluationError, OptionError
from tests.kit.models.evaluators import SIZES, evaluated_together, evaluator_of, take_in
from tests.kit.models.tiny_detector import SIZE, trained_on
from tests.kit.processes.evaluate_ranks import BATCH_SIZES, WORLDS
from tests.kit.processes.warm_python import warm_python

ROOT = Path(__file__).resolve().parents[3]


# All ranks in one process --------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["detection", "segmentation", "classification"])
def test_scores_are_equal_for_every_size_on_every_number_of_ranks_at_every_batch_size(
    kind: str,
) -> None:
    """1 to 40 samples, 1 to 4 ranks, batch sizes 1 to 5; fewer samples than ranks is an error."""
    step = 1 if kind == "detection" else 3
    for num_samples in range(1, 41, step):
        expected = evaluated_together(kind, num_samples, num_samples, 1)
        assert expected.num_samples == num_samples
        for world_size in range(1, 5):
            for batch_size in range(1, 6):
                case = (kind, num_samples, batch_size, world_size)
                if num_samples < world_size:
                    with pytest.raises(OptionError) as caught:
                        evaluated_together(*case)
                    assert str(caught.value) == (
                        f"epoch: {num_samples} samples are left for {world_size} ranks, so some "
                        f"would have none; use at most {num_samples} ranks, or drop_last=True"
                    )
                    continue
                assert same(evaluated_together(*case), expected), case
    assert could_differ(dataclasses.asdict(expected))


def same(a: Any, b: Any) -> bool:
    """Whether scores are equal to the last digit; NaN equals NaN."""
    return dump(dataclasses.asdict(a)) == dump(dataclasses.asdict(b))


def dump(scores: Any) -> str:
    return json.dumps(scores, default=np.ndarray.tolist)


def could_differ(scores: dict[str, Any]) -> bool:
    """Whether scores are neither perfect nor zero, so that they could differ."""
    if "confusion" in scores:
        confusion = np.array(scores["confusion"])
        return 0 < confusion.trace() < confusion.sum()
    values = [value for pair in scores["voc_ap"].values() for value in pair]
    return len(values) >= 2 and all(0 < value < 1 for value in values)


# Real processes ------------------------------------------------------------


@pytest.fixture(scope="module")
def by_rank(mini_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """For each of three ranks, (case, world size) to its outcome."""
    folder = tmp_path_factory.mktemp("ranks")
    dataset = ShardDataset(str(mini_dataset), "val", shuffle=False, transform=detection_eval(SIZE))
    model = trained_on(next(iter(ShardLoader(dataset, batch_size=10))), steps=30)
    torch.save(model.state_dict(), folder / "weights")
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={max(WORLDS)}"]
    script = str(ROOT / "tests/kit/processes/evaluate_ranks.py")
    arguments = [script, str(folder), str(mini_dataset), str(folder / "weights")]
    subprocess.run(
        [warm_python(), "-m", *launcher, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHON_EXEC": warm_python()},
        timeout=240,
        check=True,
    )
    ranks = [
        [json.loads(line) for line in (folder / f"rank{rank}").read_text().splitlines()]
        for rank in range(max(WORLDS))
    ]
    return [{(case, world): outcome for case, world, outcome in lines} for lines in ranks]


def outcomes(by_rank: list[dict[Any, Any]], case: str) -> list[Any]:
    """The outcomes of every rank in every world, by world."""
    return [by_rank[rank][case, world] for world in WORLDS for rank in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["detection", "segmentation", "classification"])
def test_all_real_ranks_get_equal_scores(by_rank: list[dict[Any, Any]], kind: str) -> None:
    for num_samples, batch_size in SIZES:
        first, *others = outcomes(by_rank, f"{kind} of {num_samples} by {batch_size}")
        assert first["num_samples"] == num_samples
        assert all(dump(other) == dump(first) for other in others)
    assert could_differ(first)
    if kind == "detection":
        assert 0 < first["coco_map"] < first["coco_ap50"] < 1


@pytest.mark.slow
def test_real_ranks_get_equal_scores_from_a_loader_at_any_batch_size(
    by_rank: list[dict[Any, Any]],
) -> None:
    """For predictions that depend on the sample alone."""
    found = [dump(o) for size in BATCH_SIZES for o in outcomes(by_rank, f"loader by {size}")]
    assert len(found) == 2 * 6
    assert len(set(found)) == 1
    assert 0.1 < json.loads(found[0])["coco_ap50"] < 0.95


@pytest.mark.slow
def test_a_real_detector_gets_scores_equal_to_a_thousandth(by_rank: list[dict[Any, Any]]) -> None:
    """A network's last digits may depend on what else is in its batch."""
    found = [o for size in BATCH_SIZES for o in outcomes(by_rank, f"detector by {size}")]
    values = np.array([[*o["voc_ap"]["1"], o["coco_map"], o["coco_ap50"]] for o in found])
    assert (values > 0.05).all()
    assert (values < 0.95).all()
    assert np.ptp(values, axis=0).max() < 1e-3


@pytest.mark.slow
def test_ranks_whose_group_carries_gpu_tensors_alone_use_a_group_of_their_own(
    by_rank: list[dict[Any, Any]],
) -> None:
    assert outcomes(by_rank, "as under NCCL") == outcomes(by_rank, "detection of 7 by 2")


@pytest.mark.slow
def test_an_error_of_the_scores_is_raised_on_every_rank(by_rank: list[dict[Any, Any]]) -> None:
    """No rank waits until the timeout of the process group."""
    alone, *together = outcomes(by_rank, "twice")
    assert not isinstance(alone, str)
    assert set(together) == {
        "EvaluationError: evaluation: 1 samples were counted more than once, the first is 0; "
        "call reset() before each pass, and let each rank evaluate its own samples alone"
    }
    alone, *together = outcomes(by_rank, "broken")
    assert {outcome[:49] for outcome in (alone, *together)} == {
        "EvaluationError: evaluation: failed on rank 0: Va"
    }


# Counted once -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["detection", "segmentation", "classification"])
def test_a_sample_counted_twice_or_missing_is_an_error_until_reset(kind: str) -> None:
    evaluator = evaluator_of(kind, coco_backend=None)
    take_in(evaluator, kind, (5, 7))
    take_in(evaluator, kind, (6,))
    assert evaluator.compute(3).num_samples == evaluator.compute().num_samples == 3
    with pytest.raises(EvaluationError) as caught:
        evaluator.compute(4)
    assert str(caught.value) == (
        "evaluation: 3 samples were counted, expected 4; give every batch of the pass to update(), "
        "or num_samples=None where it is cut short"
    )
    take_in(evaluator, kind, (7, 6))
    with pytest.raises(EvaluationError, match="2 samples were counted more than once, the first i"):
        evaluator.compute(5)
    evaluator.reset()
    take_in(evaluator, kind, (7,))
    assert evaluator.compute(1).num_samples == 1


def test_a_loader_says_how_many_samples_a_pass_over_some_batches_has(mini_dataset: Path) -> None:
    dataset = ShardDataset(str(mini_dataset), "val", shuffle=False)
    loader = ShardLoader(dataset, batch_size=4)
    sizes = [len(batch) for batch in loader]
    assert len(set(sizes)) == 2
    for num_batches in range(len(sizes) + 2):
        assert loader.num_samples_of(num_batches) == sum(sizes[:num_batches])
