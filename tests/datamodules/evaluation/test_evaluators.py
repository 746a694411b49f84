"""Scores are the same to the last digit on any number of ranks, and nothing is counted twice."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from datamodules import ShardDataset, ShardLoader, VOCDataModule
from datamodules.evaluation.evaluators import (
    VOID,
    ClassificationEvaluator,
    DetectionEvaluator,
    DetectionScores,
    SegmentationEvaluator,
)
from datamodules.presets import classification_eval, detection_eval, segmentation_eval
from scripts.train import Detector
from shard_tool.errors import EvaluationError, OptionError
from tests.kit.datasets.detections import near_the_truth
from tests.kit.models.evaluators import SIZES, evaluated_together, evaluator_of, take_in
from tests.kit.models.recorder import trainer
from tests.kit.models.tiny_detector import SIZE, trained_on
from tests.kit.processes.evaluate_ranks import BATCH_SIZES, WORLDS
from tests.kit.processes.warm_python import warm_python

if TYPE_CHECKING:
    from datamodules import Batch

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),  # on purpose
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),  # Lightning's own
]

ROOT = Path(__file__).resolve().parents[3]
BOX = [[10.0, 10.0, 20.0, 20.0]]


def prediction(boxes: Any = BOX, label: int = 1, score: float = 0.5) -> dict[str, torch.Tensor]:
    found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.full((len(found),), label)
    return {"boxes": found, "labels": labels, "scores": torch.full((len(found),), score)}


def target(boxes: Any = BOX, label: int = 1, difficult: bool = False) -> dict[str, torch.Tensor]:
    truths = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.full((len(truths),), label)
    return {"boxes": truths, "labels": labels, "difficult": torch.full((len(truths),), difficult)}


# The same everywhere: all ranks in one process --------------------------------------------------


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
    assert is_telling(dataclasses.asdict(expected))


def same(a: Any, b: Any) -> bool:
    """Equal to the last digit; NaN is NaN."""
    return dump(dataclasses.asdict(a)) == dump(dataclasses.asdict(b))


def dump(scores: Any) -> str:
    return json.dumps(scores, default=np.ndarray.tolist)


def is_telling(scores: dict[str, Any]) -> bool:
    """Neither perfect nor nothing: a score that could differ."""
    if "confusion" in scores:
        confusion = np.array(scores["confusion"])
        return 0 < confusion.trace() < confusion.sum()
    values = [value for pair in scores["voc_ap"].values() for value in pair]
    return len(values) >= 2 and all(0 < value < 1 for value in values)


# The same everywhere: real processes ------------------------------------------------------------


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
    """Of every rank in every world, by world."""
    return [by_rank[rank][case, world] for world in WORLDS for rank in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["detection", "segmentation", "classification"])
def test_real_ranks_get_equal_scores_all_of_them(by_rank: list[dict[Any, Any]], kind: str) -> None:
    for num_samples, batch_size in SIZES:
        first, *others = outcomes(by_rank, f"{kind} of {num_samples} by {batch_size}")
        assert first["num_samples"] == num_samples
        assert all(dump(other) == dump(first) for other in others)
    assert is_telling(first)
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
    """None waits for the others until the process group's timeout."""
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


# Values -----------------------------------------------------------------------------------------


def test_detections_of_a_batch_are_scored_as_the_challenge_and_coco_do() -> None:
    evaluator = DetectionEvaluator(3)
    found = [prediction(), prediction(label=2, score=0.9), prediction([])]
    evaluator.update([0, 1, 2], found, [target(), target(), target()])
    scores = evaluator.compute(3)
    assert scores.voc_ap == {1: (1 / 3, 4 / 11)}
    assert (scores.voc_map, scores.voc07_map) == (1 / 3, 4 / 11)
    assert scores.coco_ap50 == scores.coco_map == pytest.approx(34 / 101)  # 0, 0.01, … 0.33


def test_difficult_truths_count_neither_way_for_either_metric() -> None:
    evaluator = DetectionEvaluator(3)
    evaluator.update([0, 1], [prediction(), prediction([])], [target(), target(difficult=True)])
    evaluator.update([2], [prediction()], [target(difficult=True)])
    scores = evaluator.compute()
    assert (scores.voc_map, scores.coco_map) == (1, 1)


def test_coco_forgives_a_small_detection_within_a_difficult_truth_and_voc_does_not() -> None:
    """As the docs say: COCO measures a crowd by the share of the detection that lies in it."""
    evaluator = DetectionEvaluator(2)
    evaluator.update([0], [prediction()], [target()])
    large = target([[0.0, 0.0, 100.0, 100.0]], difficult=True)
    evaluator.update([1], [prediction(score=0.9)], [large])
    scores = evaluator.compute()
    assert scores.coco_ap50 == 1
    assert scores.voc_map == 0.5


def test_nothing_to_find_is_nan_and_not_a_score() -> None:
    for evaluator in (DetectionEvaluator(3), DetectionEvaluator(3, coco_backend=None)):
        for _ in range(2):
            scores = evaluator.compute()
            values = (scores.voc_map, scores.voc07_map, scores.coco_map, scores.coco_ap50)
            assert all(map(math.isnan, values))
            evaluator.update([0], [prediction()], [target(difficult=True)])
    assert math.isnan(SegmentationEvaluator(2).compute(0).miou)
    assert math.isnan(SegmentationEvaluator(2).compute(0).pixel_accuracy)


def test_segmentation_leaves_void_out_and_counts_whole_pixels() -> None:
    evaluator = SegmentationEvaluator(3)
    mask = torch.tensor([[[0, 1], [255, 2]]])
    evaluator.update([0], torch.tensor([[[0, 2], [1, 2]]]), mask)
    other = torch.tensor([[0, 0, 255]], dtype=torch.uint8)
    evaluator.update([1], [torch.tensor([[0, 1, 7]])], [other])  # another size and dtype
    scores = evaluator.compute(2)
    assert scores.confusion.dtype == np.int64
    assert scores.confusion.tolist() == [[2, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert scores.iou == {0: 2 / 3, 1: 0, 2: 1 / 2}
    assert scores.miou == pytest.approx(7 / 18)
    assert scores.pixel_accuracy == 3 / 5


def test_classification_takes_the_labels_of_the_loader() -> None:
    evaluator = ClassificationEvaluator(2)
    scores = torch.tensor([[0.1, 2.0], [0.2, 1.0], [0.3, 0.0]], dtype=torch.bfloat16)
    evaluator.update([0, 1, 2], scores, torch.tensor([[1.0, -1], [0, 1], [-1, 0]]))
    found = evaluator.compute(3)
    assert found.voc_ap == {0: (1 / 2, 1 / 2), 1: (1, 1)}
    assert found.voc_map == 0.75


def test_batches_of_the_loader_are_taken_as_they_come(mini_masks: Path, mini_labels: Path) -> None:
    """Whoever knows the truth is right about everything."""
    dataset = ShardDataset(str(mini_masks), "val", shuffle=False, transform=segmentation_eval(64))
    masks = SegmentationEvaluator(21)
    for batch in ShardLoader(dataset, batch_size=4):
        masks.update(batch.sample_ids, batch.targets.where(batch.targets != VOID, 0), batch.targets)
    assert masks.compute(dataset.num_samples).miou == 1

    transform = classification_eval(32)
    dataset = ShardDataset(str(mini_labels), "val", shuffle=False, transform=transform)
    labels = ClassificationEvaluator(20)
    for batch in ShardLoader(dataset, batch_size=4):
        labels.update(batch.sample_ids, batch.targets.clamp(min=0), batch.targets)
    assert labels.compute(dataset.num_samples).voc_map == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_detections_of_any_float_type_and_with_a_gradient_are_taken(dtype: torch.dtype) -> None:
    evaluator = DetectionEvaluator(2)
    found = {**prediction(), "boxes": torch.tensor(BOX, dtype=dtype, requires_grad=True)}
    evaluator.update([0], [found], [target()])
    assert evaluator.compute().voc_map == 1


def test_what_was_taken_down_does_not_change_with_the_tensors_it_came_from() -> None:
    """Batches lie in memory that is used again."""
    evaluator = DetectionEvaluator(2)
    found, truth, ids = prediction(), target(), torch.tensor([4])
    evaluator.update(ids, [found], [truth])
    for tensor in (found["boxes"], truth["boxes"], ids):
        tensor.zero_()
    evaluator.update([0], [prediction([])], [target([])])
    assert evaluator.compute(2).voc_map == 1


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        pytest.param([], [target()], "predictions: 0 for 1 samples", id="no prediction"),
        pytest.param([prediction()], [], "targets: 0 for 1 samples", id="no target"),
        pytest.param(
            [{"boxes": torch.empty(0, 4)}],
            [target()],
            "predictions of sample 8: no 'labels', found 'boxes'",
            id="losses",
        ),
        pytest.param(
            [prediction()],
            [{name: value for name, value in target().items() if name != "difficult"}],
            "targets of sample 8: no 'difficult', found 'boxes', 'labels'",
            id="no difficult",
        ),
        pytest.param(
            [{**prediction(), "scores": torch.empty(0)}],
            [target()],
            "predictions of sample 8: shapes {'labels': [1], 'scores': [0], 'boxes': [1, 4]} do "
            "not fit, expected [N, 4] and [N]",
            id="lengths",
        ),
        pytest.param(
            [prediction(label=3)],
            [target()],
            "predictions of sample 8: label 3, expected in [1, 3)",
            id="label",
        ),
        pytest.param(
            [prediction()],
            [target(label=0)],
            "targets of sample 8: label 0, expected in [1, 3)",
            id="background",
        ),
        pytest.param(
            [prediction(score=math.nan)],
            [target()],
            "predictions of sample 8: score nan, expected a number",
            id="score",
        ),
        pytest.param(
            [prediction([[0, 0, math.inf, 1]])],
            [target()],
            "predictions of sample 8: box [0.0, 0.0, inf, 1.0], expected finite",
            id="box",
        ),
    ],
)
def test_detections_that_cannot_be_judged_are_errors_that_name_the_sample(
    found: Any, truth: Any, message: str
) -> None:
    with pytest.raises(EvaluationError) as caught:
        DetectionEvaluator(3).update([8], found, truth)
    assert str(caught.value) == message


def test_masks_that_cannot_be_judged_are_errors_that_name_the_sample() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.int64)
    evaluator = SegmentationEvaluator(3)
    with pytest.raises(EvaluationError) as caught:
        evaluator.update([8, 9], torch.zeros(2, 3, 4, 4), masks)
    assert str(caught.value) == (
        "predictions of sample 8: torch.float32 [3, 4, 4] for a mask [4, 4]; "
        "give the class of every pixel: logits.argmax(1), at the mask's size"
    )
    for predicted, truth in ((3, 0), (-1, 0), (0, 3), (0, 254)):
        found, true = masks.clone(), masks.clone()
        found[1, 2, 2], true[1, 2, 2] = predicted, truth
        with pytest.raises(EvaluationError) as caught:
            evaluator.update([8, 9], found, true)
        assert str(caught.value) == (
            "sample 9: a class is not in [0, 3); num_classes includes the background"
        )
    assert evaluator.compute().num_samples == 0


def test_classifications_that_cannot_be_judged_are_errors() -> None:
    with pytest.raises(EvaluationError, match=r"scores: \[1, 3\], expected \[1, 2\]"):
        ClassificationEvaluator(2).update([8], torch.zeros(1, 3), torch.zeros(1, 2))
    with pytest.raises(EvaluationError, match=r"scores of sample 8: scores \[0.0, nan\], expected"):
        ClassificationEvaluator(2).update([8], torch.tensor([[0, math.nan]]), torch.zeros(1, 2))


def test_a_backend_that_is_not_installed_is_an_error_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        DetectionEvaluator(3, coco_backend="not_there")
    assert str(caught.value) == (
        "coco_backend: not_there is not installed; pip install 'voc-shards[train]', "
        "or give None to do without COCO's scores"
    )


# Under Lightning --------------------------------------------------------------------------------


class Prompted(torch.nn.Module):
    """A detector that finds what it was told to, and whose loss is the pictures' brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answers: list[dict[str, torch.Tensor]] = []

    def forward(self, images: list[torch.Tensor], targets: Any = None) -> Any:
        if targets is None:
            return self.answers
        brightness = torch.stack([image.mean() for image in images]).mean()
        return {"loss": brightness + 0 * self.weight.sum()}


class Watched(Detector):
    """Logs means over epochs, and keeps what each epoch's batches were."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = Prompted()
        self.seen: list[tuple[int, float]] = []  # of each sample: its batch's size, brightness

    def log(self, name: str, value: Any, **options: Any) -> None:  # type: ignore[override]
        super().log(name, value, **{**options, "on_step": False, "on_epoch": True})

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.seen += [(len(batch), float(image.mean())) for image in batch.images]
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.detector.answers = near_the_truth(batch)
        super().validation_step(batch, batch_idx)


def fitted(mini_dataset: Path, tmp_path: Path, **options: Any) -> tuple[Watched, Any]:
    model = Watched()
    data = VOCDataModule(str(mini_dataset), batch_size=4, image_size=64)
    lightning = trainer(tmp_path, **{"max_epochs": 1, **options})
    lightning.fit(model, data)
    return model, lightning


def test_logged_scores_are_those_of_every_sample_counted_once(
    mini_dataset: Path, tmp_path: Path
) -> None:
    """Also after a sanity check, which counts a few of them before."""
    _, lightning = fitted(mini_dataset, tmp_path, num_sanity_val_steps=2, limit_train_batches=1)
    logged = lightning.callback_metrics
    dataset = ShardDataset(str(mini_dataset), "val", shuffle=False, transform=detection_eval(64))
    expected = DetectionEvaluator(21)
    for batch in ShardLoader(dataset, batch_size=7):
        expected.update(batch.sample_ids, near_the_truth(batch), batch.targets)
    scores = expected.compute(dataset.num_samples)
    assert 0.1 < scores.voc_map < 1
    assert {name: float(value) for name, value in logged.items() if name.startswith("val")} == {
        "val_ap50": float(np.float32(scores.coco_ap50)),
        "val_map": float(np.float32(scores.coco_map)),
        "val_voc_map": float(np.float32(scores.voc_map)),
        "val_voc07_map": float(np.float32(scores.voc07_map)),
    }


def test_a_logged_score_is_not_rounded_by_a_mean_over_samples_or_ranks(
    mini_dataset: Path, tmp_path: Path
) -> None:
    dataset = ShardDataset(str(mini_dataset), "val", shuffle=False)
    weight = np.float32(dataset.num_samples)
    score = next(v for v in np.arange(0.1, 1, 1e-3, np.float32) if v * weight / weight != v)
    scores = DetectionScores(num_samples=1, voc_ap={}, coco_map=float(score), coco_ap50=0.5)
    with patch.object(DetectionEvaluator, "_scores", lambda *_: scores):
        _, lightning = fitted(mini_dataset, tmp_path, limit_train_batches=1)
    assert float(lightning.callback_metrics["val_map"]) == score


def test_a_logged_mean_over_uneven_batches_is_the_mean_over_samples(
    mini_dataset: Path, tmp_path: Path
) -> None:
    model, lightning = fitted(mini_dataset, tmp_path, limit_val_batches=0)
    sizes = {size for size, _ in model.seen}
    assert len(sizes) > 1, "batches are even: the check would be vacuous"
    mean = np.mean([brightness for _, brightness in model.seen])
    assert float(lightning.callback_metrics["train_loss"]) == pytest.approx(mean, rel=1e-6)


def test_a_pass_cut_short_is_scored_and_one_that_lost_a_batch_is_an_error(
    mini_dataset: Path, tmp_path: Path
) -> None:
    _, lightning = fitted(mini_dataset, tmp_path, limit_train_batches=1, limit_val_batches=2)
    assert "val_voc_map" in lightning.callback_metrics

    class Forgetful(Watched):
        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            if batch_idx:
                super().validation_step(batch, batch_idx)

    data = VOCDataModule(str(mini_dataset), batch_size=4, image_size=64)
    with pytest.raises(EvaluationError, match="4 samples were counted, expected 8"):
        trainer(tmp_path, limit_val_batches=2).validate(Forgetful(), data, verbose=False)


def test_labels_that_are_no_answers_are_refused() -> None:
    evaluator = ClassificationEvaluator(1)
    for label in (0.5, 7.0, 255.0, float("nan")):
        expected = rf"^labels of sample 4: {label}, expected 1, 0 or -1; -1 counts neither way$"
        with pytest.raises(EvaluationError, match=expected):
            evaluator.update([3, 4], torch.rand(2, 1), torch.tensor([[1.0], [label]]))


def test_more_classes_than_a_mask_can_hold_are_refused_and_no_picture_is_none() -> None:
    for number in (0, 256):
        with pytest.raises(OptionError, match=rf"^num_classes: {number} is not in 1 … 255$"):
            SegmentationEvaluator(number)
    evaluator = SegmentationEvaluator(3)
    evaluator.update([], [], [])
    assert evaluator.compute(0).num_samples == 0


def test_every_log_passes_the_batch_size() -> None:
    """Lightning infers the channels from a list of pictures."""
    calls = 0
    for path in sorted([*(ROOT / "scripts").glob("*.py"), *(ROOT / "datamodules").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "self.log",
                "self.log_dict",
                "pl_module.log",
                "pl_module.log_dict",
            }:
                calls += 1
                names = {keyword.arg for keyword in node.keywords}
                assert "batch_size" in names, f"{path.name}:{node.lineno}"
    assert calls >= 2
