"""Masks of real data: the same pictures as COCO JSON and as YOLO text, and VOC's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torchvision.ops import box_iou, masks_to_boxes

from datamodules import ShardDataset, presets
from shard_tool.errors import SampleError
from tests.kit.datasets.converted import converted

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 256


@pytest.fixture(scope="module")
def sharks(voc_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ten frames, at 256 and at 640 pixels; 60 objects, some with an outline, some with a box."""
    data, dest = voc_sample.parent / "data", tmp_path_factory.mktemp("sharks")
    names = ("sharks-tiny-coco", "sharks-tiny-yolov9")
    for name in names:
        if not (data / name).exists():
            pytest.skip(f"no {name} beside VOC_SAMPLE_DIR, in data")
        converted(data / name, dest / name)
    return {name: dest / name for name in names}


def targets(root: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Frame to target, all at one size."""
    splits = ["train", "val", "test"]
    recipe = presets.resize(SIZE)
    data = ShardDataset(
        str(root), splits, task="instances", shuffle=False, transform=recipe, **options
    )
    return {target["key"].rpartition("/")[2].partition("_jpg")[0]: target for _, target in data}


@pytest.mark.slow
def test_masks_of_one_frame_agree_between_coco_and_yolo(sharks: dict[str, Path]) -> None:
    ours, theirs = (targets(root, unmasked="box") for root in sharks.values())
    assert ours.keys() == theirs.keys()
    found: list[float] = []
    for frame, target in ours.items():
        one, other = (its["masks"].flatten(1).float() for its in (target, theirs[frame]))
        both = one @ other.T
        ious, at = (both / (one.sum(1)[:, None] + other.sum(1) - both)).max(1)
        assert torch.equal(target["labels"], theirs[frame]["labels"][at])
        found += ious.tolist()
    assert len(found) == 60
    assert min(found) > 0.9
    assert sum(found) / len(found) > 0.99


@pytest.mark.slow
def test_objects_that_have_a_box_alone_are_told_or_left_out(sharks: dict[str, Path]) -> None:
    for root in sharks.values():
        with pytest.raises(SampleError, match="has no polygon and no run lengths; give unmasked="):
            targets(root)
        count = sum(len(target["masks"]) for target in targets(root, unmasked="drop").values())
        assert 0 < count < 60


@pytest.mark.slow
@pytest.mark.parametrize("year", ["2007", "2012"])
def test_value_n_of_real_voc_masks_is_the_nth_object(
    voc_sample: Path, tmp_path: Path, year: str
) -> None:
    """Each object's box fits the extent of its own mask best, and well: an IoU of 0.6 at least.

    Annotators drew both by hand, and borders are void.
    """
    tree = tmp_path / f"VOCdevkit/VOC{year}"
    keys = [
        path.stem for path in (voc_sample / f"VOCdevkit/VOC{year}/SegmentationObject").iterdir()
    ]
    for folder, suffix in (
        ("JPEGImages", "jpg"),
        ("Annotations", "xml"),
        ("SegmentationClass", "png"),
        ("SegmentationObject", "png"),
    ):
        (tree / folder).mkdir(parents=True)
        for key in keys:
            content = (voc_sample / f"VOCdevkit/VOC{year}/{folder}/{key}.{suffix}").read_bytes()
            (tree / f"{folder}/{key}.{suffix}").write_bytes(content)
    (tree / "ImageSets/Segmentation").mkdir(parents=True)
    (tree / "ImageSets/Segmentation/train.txt").write_text("\n".join(keys) + "\n")
    converted(tmp_path / "VOCdevkit", tmp_path / "out", task="segmentation")
    count = 0
    for _, target in ShardDataset(str(tmp_path / "out"), task="instances", shuffle=False):
        ious = box_iou(
            masks_to_boxes(target["masks"]) + torch.tensor([0, 0, 1, 1]), target["boxes"]
        )
        assert ious.argmax(1).tolist() == list(range(len(ious)))
        assert float(ious.diag().min()) > 0.6
        count += len(ious)
    assert count == (8 if year == "2007" else 10)
