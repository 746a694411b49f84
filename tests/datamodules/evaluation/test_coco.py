"""COCO's numbers are those of pycocotools on the original file, to the twelfth digit."""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import ShardDataset, ShardLoader
from datamodules.evaluation import DetectionEvaluator, DetectionScores
from datamodules.evaluation.coco_metrics import BACKENDS, CocoNumbers
from datamodules.presets import detection_eval, letterbox, letterbox_eval, ssdlite
from shard_tool.errors import EvaluationError
from tests.kit.datasets.coco_sets import (
    WH,
    by_pycocotools,
    coco_document,
    predictions_of,
    results_of,
    stored_coco,
)
from tests.kit.datasets.converted import converted
from tests.kit.datasets.voc_tree import jpeg, write
from tests.kit.processes.evaluate_coco import WORLDS
from tests.kit.processes.warm_python import warm_python

ROOT = Path(__file__).resolve().parents[3]
EXACT = 1e-12


def evaluated(
    document: dict[str, Any],
    results: list[dict[str, Any]],
    folder: Path,
    *,
    transform: Any = None,
    backend: str = BACKENDS[0],
    saved: Path | None = None,
    **options: Any,
) -> DetectionScores:
    """The scores of COCO's results, given as a detector's; with a transform, in its pixels."""
    dataset = ShardDataset(str(folder), "val", shuffle=False, transform=transform)
    evaluator = DetectionEvaluator(dataset.num_classes, coco_backend=backend)
    for batch in ShardLoader(dataset, batch_size=2):
        targets = batch.targets
        ids = [target["truth"].image_id for target in targets]
        found = predictions_of(results, document, ids, options.get("dtype", torch.float32))
        if transform is not None:
            for prediction, target in zip(found, targets, strict=True):
                prediction["boxes"] = seen(prediction["boxes"], target["truth"].to_original)
        evaluator.update(batch.sample_ids, found, targets)
    if saved is not None:
        evaluator.save(saved)
    return evaluator.compute(len(document["images"]))


def seen(boxes: torch.Tensor, way: Any) -> torch.Tensor:
    """Boxes of stored pictures in pixels of the transformed ones."""
    x_scale, x_offset, y_scale, y_offset = way
    moved = (boxes - torch.tensor([x_offset, y_offset] * 2)) / torch.tensor([x_scale, y_scale] * 2)
    return moved if x_scale > 0 else moved[:, [2, 1, 0, 3]]


def numbers_of(scores: DetectionScores) -> list[float]:
    """COCO's twelve numbers in its own order, -1 where no truth counts."""
    names = [f"coco_{name}" for name in ("map", *CocoNumbers._fields[1:])]
    values = [getattr(scores, name) for name in names]
    return [-1.0 if math.isnan(value) else value for value in values]


def assert_equal(found: list[float], expected: list[float]) -> None:
    assert len(found) == len(expected) == 12
    assert np.abs(np.array(found) - np.array(expected)).max() <= EXACT, (found, expected)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.sampled_from(BACKENDS), st.booleans())
def test_the_twelve_numbers_are_those_of_pycocotools_on_the_file(
    draw: Random, backend: str, is_double: bool
) -> None:
    """With crowds, areas of their own, equal scores, over 100 detections, and gaps in ids."""
    document = coco_document(draw)
    results = results_of(document, draw)
    dtype = torch.float64 if is_double else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        root = stored_coco(Path(folder, "coco"), document)
        scores = evaluated(document, results, root, backend=backend, dtype=dtype)
    assert_equal(numbers_of(scores), by_pycocotools(document, results))


@pytest.mark.slow
@settings(max_examples=30)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from([None, detection_eval(150), letterbox_eval(200), letterbox(200)]),
)
def test_saved_predictions_have_these_numbers_whatever_size_the_model_saw(
    draw: Random, transform: Any
) -> None:
    document = coco_document(draw)
    results = results_of(document, draw)
    with tempfile.TemporaryDirectory() as folder:
        root, saved = stored_coco(Path(folder, "coco"), document), Path(folder, "results.json")
        scores = evaluated(document, results, root, transform=transform, saved=saved)
        written = json.loads(saved.read_text())
    assert [(its["image_id"], its["category_id"]) for its in written] == [
        (its["image_id"], its["category_id"]) for its in results
    ]
    boxes = [[its["bbox"] for its in some] for some in (written, results)]
    np.testing.assert_allclose(*boxes, rtol=0, atol=0 if transform is None else 1e-3)
    assert_equal(numbers_of(scores), by_pycocotools(document, written))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_converted_files_have_these_numbers(tmp_path: Path, seed: int) -> None:
    """By way of `convert`; with doubles of many digits, and boxes that are clipped."""
    draw = Random(seed)
    document = coco_document(draw, num_images=6)
    for item in document["annotations"][:3]:
        item["bbox"] = [-0.5, item["bbox"][1], item["bbox"][2] + 0.5, item["bbox"][3]]
    for number, image in enumerate(document["images"]):
        write(tmp_path / "coco/val2017" / image["file_name"], jpeg(WH, number))
    text = json.dumps(document).encode()
    write(tmp_path / "coco/annotations/instances_val2017.json", text)
    converted(tmp_path / "coco", tmp_path / "set")
    results = results_of(document, draw)
    scores = evaluated(document, results, tmp_path / "set", saved=tmp_path / "saved.json")
    assert_equal(numbers_of(scores), by_pycocotools(document, results))
    key = ("image_id", "category_id", "score", "bbox")
    written = json.loads((tmp_path / "saved.json").read_text())
    assert sorted([str([its[name] for name in key]) for its in written]) == sorted(
        [str([*map(float_of, (its[name] for name in key))]) for its in results]
    )


def float_of(value: Any) -> Any:
    return [*map(float, value)] if isinstance(value, list) else value


@pytest.mark.slow
def test_one_to_four_real_ranks_get_these_numbers_and_save_the_same_file(tmp_path: Path) -> None:
    draw = Random(5)
    document = coco_document(draw, num_images=10)
    results = results_of(document, draw)
    stored_coco(tmp_path / "coco", document)
    (tmp_path / "coco.json").write_text(json.dumps([document, results]))
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={max(WORLDS)}"]
    script = str(ROOT / "tests/kit/processes/evaluate_coco.py")
    subprocess.run(
        [warm_python(), "-m", *launcher, script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHON_EXEC": warm_python()},
        timeout=240,
        check=True,
    )
    lines = [(tmp_path / f"rank{rank}").read_text().splitlines() for rank in range(max(WORLDS))]
    found = [json.loads(line) for its in lines for line in its]
    assert Counter(world for world, _ in found) == {world: world for world in WORLDS}
    expected = by_pycocotools(document, results)
    assert 0 < expected[0] < 1
    for _, scores in found:
        assert_equal(numbers_of(DetectionScores(**scores)), expected)
    one, *others = [(tmp_path / f"results{world}.json").read_bytes() for world in WORLDS]
    assert others == [one] * 3
    assert by_pycocotools(document, json.loads(one)) == expected


def test_an_annotation_of_id_0_is_never_found_as_in_pycocotools(tmp_path: Path) -> None:
    """It takes a match with id 0 for none; Roboflow counts annotations from 0."""
    draw = Random(1)
    document = coco_document(draw, first_id=0)
    first = document["annotations"][0]
    first["iscrowd"] = 0
    found = {"image_id": first["image_id"], "category_id": first["category_id"], "score": 1.0}
    results = [{**found, "bbox": first["bbox"]}]
    root = stored_coco(tmp_path / "coco", document)
    expected = by_pycocotools(document, results)
    assert expected[0] == 0
    assert_equal(numbers_of(evaluated(document, results, root, backend="pycocotools")), expected)
    with pytest.warns(UserWarning, match="Found annotation id 0"):
        assert_equal(numbers_of(evaluated(document, results, root)), expected)


def test_crowds_are_difficult_in_vocs_scores_and_targets_without_truth_have_them_too() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 40], [50, 50, 60, 60]])
    labels = torch.tensor([1, 1])
    target = {"boxes": boxes, "labels": labels, "difficult": torch.zeros(2).bool()}
    found = {"boxes": boxes, "labels": labels, "scores": torch.tensor([0.9, 0.8])}
    missed = {name: value[:1] for name, value in found.items()}
    for crowds, is_found in (([1, 0], 0), ([0, 1], 1), ([0, 0], 0.5)):
        evaluator = DetectionEvaluator(2)
        evaluator.update([0], [missed], [{**target, "iscrowd": torch.tensor(crowds)}])
        scores = evaluator.compute()
        assert scores.voc_map == is_found
        assert scores.coco_ap50 == pytest.approx(is_found, abs=0.01)
        assert math.isnan(scores.coco_ap_large)


@pytest.mark.parametrize("transform", [ssdlite(100), None])
def test_predictions_may_be_in_pixels_of_the_stored_picture(tmp_path: Path, transform: Any) -> None:
    """Then it does not matter what a transform shows of it."""
    draw = Random(2)
    document = coco_document(draw)
    results = results_of(document, draw)
    root = stored_coco(tmp_path / "coco", document)
    dataset = ShardDataset(str(root), "val", shuffle=False, transform=transform)
    evaluator = DetectionEvaluator(dataset.num_classes)
    for batch in ShardLoader(dataset, batch_size=2):
        ids = [target["truth"].image_id for target in batch.targets]
        found = predictions_of(results, document, ids)
        evaluator.update(batch.sample_ids, found, batch.targets, in_original_pixels=True)
    assert_equal(numbers_of(evaluator.compute()), by_pycocotools(document, results))
    with pytest.raises(
        EvaluationError, match=r"^targets of sample 0: no 'truth'; give the targets"
    ):
        evaluator.update([0], found[:1], [{}], in_original_pixels=True)


def test_labels_and_objects_that_the_caller_changed_count(tmp_path: Path) -> None:
    """A class-agnostic detector is evaluated on targets of one class, or of large objects alone."""
    root = stored_coco(tmp_path / "coco", coco_document(Random(2)))
    dataset = ShardDataset(str(root), "val", shuffle=False, transform=detection_eval(100))
    relabelled, reduced = DetectionEvaluator(2), DetectionEvaluator(dataset.num_classes)
    for batch in ShardLoader(dataset, batch_size=2):
        targets = [{**its, "labels": torch.ones_like(its["labels"])} for its in batch.targets]
        found = [{**its, "scores": torch.ones(len(its["labels"]))} for its in targets]
        relabelled.update(batch.sample_ids, found, targets)
        per_box = ("boxes", "labels", "difficult", "iscrowd")
        some = [
            {name: value[:1] if name in per_box else value for name, value in its.items()}
            for its in batch.targets
        ]
        found = [{**its, "scores": torch.ones(len(its["labels"]))} for its in some]
        reduced.update(batch.sample_ids, found, some)
    assert relabelled.compute().coco_ap50 == pytest.approx(1)
    assert reduced.compute().coco_map == pytest.approx(1)
