"""Pictures without a mask and masks without a picture: none vanishes without a word."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import pytest
from PIL import Image

from shard_tool.convert.rules import Choices
from shard_tool.errors import SourceError
from shard_tool.sources.report import LEFT_OUT
from tests.kit.datasets.converted import converted, manifest_of
from tests.kit.datasets.wild import counted, documents, folder, picture, xml

if TYPE_CHECKING:
    from pathlib import Path

Files = dict[str, bytes | str]


def some_missing() -> Files:
    """The picture b lacks a mask, the XML c and the mask d lack a picture."""
    buffer = io.BytesIO()
    Image.new("L", (20, 10), 1).save(buffer, "PNG")
    annotation = xml((20, 10), ("car", (1, 1, 5, 5)))
    return {
        "JPEGImages/a.jpg": picture(),
        "JPEGImages/b.jpg": picture(shade=2),
        "SegmentationClass/a.png": buffer.getvalue(),
        "SegmentationClass/d.png": buffer.getvalue(),
        "labelmap.txt": "background:0,0,0::\ncar:200,0,0::\n",
        **{f"Annotations/{name}.xml": annotation for name in "abc"},
    }


def test_pictures_without_mask_and_masks_without_picture_are_counted(tmp_path: Path) -> None:
    its = folder(tmp_path / "in", some_missing())
    converted(its, tmp_path / "out", task="segmentation")
    assert list(documents(tmp_path / "out")) == ["a"]
    report = manifest_of(tmp_path / "out")["report"]
    del report["mask-by-value"]
    assert {code: counts["examples"] for code, counts in report.items()} == {
        "annotation-without-picture": ["Annotations/c.xml"],
        "mask-without-picture": ["SegmentationClass/d.png"],
        "unlabelled": ["JPEGImages/b.jpg: no mask"],
    }
    assert {*report} <= LEFT_OUT, "--strict sees them"
    converted(its, tmp_path / "boxes", task="detection")
    assert counted(tmp_path / "boxes") == {"annotation-without-picture": 1}


@pytest.mark.parametrize("choice", ["fail", "background"])
def test_picture_without_mask_is_an_error_where_none_may_be_left_out(
    tmp_path: Path, choice: Literal["fail", "background"]
) -> None:
    its = folder(tmp_path / "in", some_missing())
    with pytest.raises(SourceError) as caught:
        converted(its, tmp_path / "out", task="segmentation", choices=Choices(unlabelled=choice))
    assert caught.value.place == f"{its}/SegmentationClass/b.png"
    assert caught.value.problem.startswith("is missing: a picture without mask")
    assert caught.value.hint == "leave it out by --unlabelled drop"


def test_segmentation_without_any_mask_says_so(tmp_path: Path) -> None:
    files: Files = {"a.jpg": picture(), "a.xml": xml((20, 10), ("car", (1, 1, 5, 5)))}
    its = folder(tmp_path / "in", files)
    with pytest.raises(SourceError) as caught:
        converted(its, tmp_path / "out", task="segmentation")
    way = "put masks into SegmentationClass, or choose another --task"
    assert str(caught.value) == f"{its}: no picture of split 'train' has a mask; {way}"
