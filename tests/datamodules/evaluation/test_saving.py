"""Predictions are saved as COCO's results, as YOLO's text and as VOC's comp4 files."""

from __future__ import annotations

import contextlib
import io
import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pycocotools.coco import COCO
from torchvision.transforms import v2

from datamodules import ShardDataset, ShardLoader
from datamodules.evaluation import DetectionEvaluator
from datamodules.presets import detection_eval, ssdlite
from shard_tool.errors import EvaluationError, OptionError
from shard_tool.export.run import ExportOptions, export_dataset
from tests.kit.datasets.coco_sets import coco_document, predictions_of, results_of, stored_coco
from tests.kit.datasets.own_classes import THREE, WH, own_classes

if TYPE_CHECKING:
    from pathlib import Path

    from datamodules.evaluation.truth import Truth

BOX = [8.0, 16.0, 24.0, 48.0]


def predicted(
    root: Path, *, transform: Any = None, box: Any = BOX, scores: Any = (0.5, 0.25), **options: Any
) -> DetectionEvaluator:
    """One box of each of the first two classes in every sample of val, with these scores."""
    dataset = ShardDataset(str(root), "val", shuffle=False, transform=transform)
    evaluator = DetectionEvaluator(
        dataset.num_classes, class_names=dataset.class_names, coco_backend=None
    )
    found = {
        "boxes": torch.tensor([box, box], dtype=torch.float64),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor(scores, dtype=torch.float64),
    }
    for batch in ShardLoader(dataset, batch_size=3):
        evaluator.update(batch.sample_ids, [found] * len(batch), batch.targets, **options)
    return evaluator


def test_coco_s_results_hold_doubles_as_they_were_given(tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own")
    box = [0.1, 0.2, 0.1 + 30.3, 0.2 + 40.4]
    saved = predicted(root, box=box, scores=(1 / 3, 0.1)).save(tmp_path / "deep" / "found.json")
    assert (saved.num_samples, saved.num_detections) == (4, 8)
    assert (saved.image_ids, saved.category_ids) == ("numbered", "labels")
    found = json.loads((tmp_path / "deep" / "found.json").read_text())
    assert [its["score"] for its in found] == [1 / 3, 0.1] * 4
    assert [its["category_id"] for its in found] == [1, 2] * 4
    assert [its["image_id"] for its in found] == [9, 9, 10, 10, 11, 11, 12, 12]  # train has eight
    assert found[0]["bbox"] == [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def test_saved_again_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own")
    (tmp_path / "found.json").write_text("old")
    predicted(root).save(tmp_path / "found.json")
    assert len(json.loads((tmp_path / "found.json").read_text())) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "own"]


def test_yolo_s_text_has_a_file_for_each_sample(tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own")
    evaluator = predicted(
        root, transform=detection_eval(48)
    )  # half of the width, 3/4 of the height
    saved = evaluator.save(tmp_path / "labels", format="yolo")
    assert saved.num_samples == 4
    files = sorted((tmp_path / "labels").iterdir())
    assert [path.name for path in files] == [f"val-{row:04d}.txt" for row in range(4)]
    lines = files[0].read_text().splitlines()
    centre = ((8 + 24) / 2 / 48, (16 + 48) / 2 / 48)
    sides = ((24 - 8) / 48, (48 - 16) / 48)
    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert [float(value) for value in lines[0].split()[1:]] == pytest.approx(
        [*centre, *sides, 0.5], abs=1e-15
    )


def test_samples_without_detections_have_an_empty_file(tmp_path: Path) -> None:
    dataset = ShardDataset(str(own_classes(tmp_path / "own")), "val", shuffle=False)
    evaluator = DetectionEvaluator(4, coco_backend=None)
    nothing = {"boxes": torch.empty(0, 4), "labels": torch.empty(0), "scores": torch.empty(0)}
    for batch in ShardLoader(dataset, batch_size=4):
        evaluator.update(batch.sample_ids, [nothing] * 4, batch.targets)
    evaluator.save(tmp_path / "labels", "yolo")
    assert [path.read_text() for path in (tmp_path / "labels").iterdir()] == [""] * 4
    evaluator.save(tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_vocs_files_count_pixels_from_1_and_there_is_one_for_each_class(tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own")
    predicted(root).save(tmp_path / "results", "voc", split="test")
    files = {path.name: path.read_text() for path in (tmp_path / "results").iterdir()}
    assert sorted(files) == sorted(f"comp4_det_test_{name}.txt" for name in THREE)
    first, second, third = (files[f"comp4_det_test_{name}.txt"] for name in THREE)
    assert first.splitlines()[0] == "val-0000 0.5 9.0 17.0 24.0 48.0"
    assert second.splitlines()[3] == "val-0003 0.25 9.0 17.0 24.0 48.0"
    assert third == ""


def test_source_s_ids_are_written_where_all_samples_have_one(tmp_path: Path) -> None:
    draw = Random(3)
    document = coco_document(draw, num_images=4)
    results = results_of(document, draw)
    dataset = ShardDataset(str(stored_coco(tmp_path / "coco", document)), "val", shuffle=False)
    evaluator = DetectionEvaluator(dataset.num_classes)

    def update(*, forget: int | None) -> None:
        evaluator.reset()
        for batch in ShardLoader(dataset, batch_size=4):
            ids = [target["truth"].image_id for target in batch.targets]
            targets = batch.targets
            for number, target in enumerate(targets):
                truth: Truth = target["truth"]
                lost = truth._replace(image_id=ids[0] if number == forget else truth.image_id)
                target["truth"] = lost
            evaluator.update(batch.sample_ids, predictions_of(results, document, ids), targets)

    update(forget=None)
    saved = evaluator.save(tmp_path / "found.json")
    assert (saved.image_ids, saved.category_ids) == ("source", "source")
    assert json.loads((tmp_path / "found.json").read_text()) == results
    update(forget=2)
    assert evaluator.save(tmp_path / "found.json").image_ids == "numbered"


def test_an_export_of_the_dataset_has_the_ids_of_saved_predictions(tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own")
    predicted(root).save(tmp_path / "found.json")
    options = ExportOptions(dest=str(root), out=str(tmp_path / "out"), format="coco")
    export_dataset(options)
    with contextlib.redirect_stdout(io.StringIO()):
        truths = COCO(str(tmp_path / "out/annotations/instances_val.json"))
        found = truths.loadRes(str(tmp_path / "found.json"))
    assert [its["image_id"] for its in found.loadAnns(found.getAnnIds())] == [
        number for number in truths.getImgIds() for _ in range(2)
    ]


# Refused ----------------------------------------------------------------------------------------


def test_boxes_whose_way_back_is_unknown_are_refused(tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own")
    mirror = v2.RandomHorizontalFlip(1.0)
    for transform in (ssdlite(64), mirror, detection_eval(64).then(mirror)):
        with pytest.raises(EvaluationError, match=r"no resize of the whole picture.*in_original_p"):
            predicted(root, transform=transform).save(tmp_path / "found.json")
        evaluator = predicted(root, transform=transform, in_original_pixels=True)
        evaluator.save(tmp_path / "found.json")
        assert json.loads((tmp_path / "found.json").read_text())[0]["bbox"] == [8, 16, 16, 32]


def test_a_resize_of_another_library_is_understood(tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own")
    resize = v2.Resize((WH[1] // 2, WH[0] // 2))
    for transform in (resize, detection_eval(64).then(resize)):
        predicted(root, transform=transform).save(tmp_path / "found.json")
        found = json.loads((tmp_path / "found.json").read_text())
        assert found[0]["bbox"] == [16, 32, 32, 64]


def test_targets_that_say_nothing_of_their_sample_are_refused(tmp_path: Path) -> None:
    evaluator = DetectionEvaluator(2, coco_backend=None)
    target = {"boxes": torch.empty(0, 4), "labels": torch.empty(0), "difficult": torch.empty(0)}
    evaluator.update([5], [{**target, "scores": torch.empty(0)}], [target])
    with pytest.raises(
        EvaluationError, match=r"^targets of sample 5: no 'truth'; give the targets"
    ):
        evaluator.save(tmp_path / "found.json")
    assert not any(tmp_path.iterdir())


def test_unknown_formats_and_missing_names_are_refused(tmp_path: Path) -> None:
    evaluator = DetectionEvaluator(2, coco_backend=None)
    with pytest.raises(OptionError, match=r"^format: 'csv' is not one of coco, yolo, voc$"):
        evaluator.save(tmp_path / "found", "csv")
    with pytest.raises(OptionError, match=r"^class_names: VOC's files are named by classes, and"):
        evaluator.save(tmp_path / "found", "voc")


def test_folders_with_files_and_places_that_cannot_be_written_are_errors(tmp_path: Path) -> None:
    evaluator = predicted(own_classes(tmp_path / "own"))
    (tmp_path / "labels").mkdir()
    evaluator.save(tmp_path / "labels", "yolo")
    with pytest.raises(
        EvaluationError, match=r"labels: is there and not empty; give a new folder$"
    ):
        evaluator.save(tmp_path / "labels", "yolo")
    with pytest.raises(EvaluationError, match=r"cannot be written: (File exists|Not a directory)"):
        evaluator.save(tmp_path / "own" / "manifest.json" / "found.json")
    with pytest.raises(EvaluationError, match=r"^evaluation: 4 samples were counted, expected 5"):
        evaluator.save(tmp_path / "found.json", num_samples=5)


def test_something_else_called_truth_is_no_truth() -> None:
    target = {
        "boxes": torch.tensor([[1.0, 2.0, 9.0, 8.0]]),
        "labels": torch.tensor([1]),
        "difficult": torch.tensor([False]),
        "truth": torch.zeros(3),
    }
    found = {**target, "scores": torch.ones(1)}
    evaluator = DetectionEvaluator(2)
    evaluator.update([0], [found], [target])
    scores = evaluator.compute(1)
    assert (scores.voc_map, scores.coco_map) == (1, 1)
