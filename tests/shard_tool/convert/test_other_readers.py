"""Other people's readers of VOC XML give the boxes that we give, or a line here says who is wrong.

supervision reads by the devkit's rule, labelformat takes the corners as they are: each convention
has one witness. Where they differ from us:

| what | supervision 0.31.2 | labelformat 0.1.17 | we | who is wrong |
|---|---|---|---|---|
| a box a pixel beyond the picture | keeps it | keeps it | clip it, and count it | they |
| an empty box (Supervisely's of one pixel, as corners) | | returns it | refuse it | they |
| `xmin` right of `xmax` | swaps them | returns it | refuse it | they |
| a box that CVAT has turned | the box before it | the same | the hull, and count it | they |
| `robndbox` | raises | raises | the hull, and count it | they |
| blanks around a name | a class of its own | the same | stripped | they |
| a picture without `size` | reads it | raises | read it, and count it | labelformat |
| `<Object>`, an `<objects>` wrapper | no objects | the same | read them, and count it | they |
"""

from __future__ import annotations

import math
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.convert.rules import Choices
from shard_tool.format.sample import parse_sample
from tests.kit.agreement import assert_agrees
from tests.kit.datasets.converted import converted, manifest_of, samples_of
from tests.kit.datasets.voc_tools import MAKERS, Item, cvat, rolabelimg
from tests.kit.datasets.voc_tree import jpeg, write
from tests.kit.other_readers import HOW, PYTHON, Objects, read_by_others

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason=HOW)]

WITNESSES = {"devkit": "supervision", "corners": "labelformat"}
SIZE = (60, 50)
ITEMS: list[list[Item]] = [
    [("raccoon", (2, 3.6, 20, 30.4)), ("Fuß und Ball", (10.5, 1, 60, 50))],
    [("raccoon", (1, 1, 60, 50)), ("猫", (5.25, 7.75, 33.5, 41)), ("raccoon", (30, 20, 33, 24))],
    [],
]
Others = dict[str, dict[str, Objects | str]]


def ours(source: Path, dest: Path, convention: str, **options: Any) -> dict[str, Objects]:
    """Key to name and box of each object."""
    converted(source, dest, choices=Choices(boxes=convention), **options)  # type: ignore[arg-type]
    found = {}
    for split in manifest_of(dest)["splits"]:
        for key, members in samples_of(dest, split).items():
            sample = parse_sample(members["json"], place=key)
            found[key] = [[item.name, *(item.bbox or ())] for item in sample.objects]
    return found


# Files as tools write them ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_tools(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Others]:
    """Pictures in `images`, what all tools write about them in `annotations`; and its readings."""
    root = tmp_path_factory.mktemp("tools") / "in"
    for tool, make in MAKERS.items():
        for number, items in enumerate(ITEMS):
            key = f"{tool}-{number}"
            write(root / f"images/{key}.jpg", jpeg(SIZE, number))
            write(root / f"annotations/{key}.xml", make(f"{key}.jpg", SIZE, items))
    return root, read_by_others(root / "images", root / "annotations")


@pytest.mark.parametrize("convention", WITNESSES)
def test_files_of_tools_are_read_as_others_read_them(
    tmp_path: Path, of_tools: tuple[Path, Others], convention: str
) -> None:
    source, others = of_tools
    found = ours(source, tmp_path / "out", convention)
    assert len(found) == len(MAKERS) * len(ITEMS)
    assert_agrees(found, others[WITNESSES[convention]], SIZE)


def test_where_we_differ_others_are_wrong(tmp_path: Path) -> None:
    item: list[Item] = [("raccoon", (10, 10, 30, 20))]
    plain = MAKERS["vott"]("x.jpg", SIZE, item)
    files = {
        "inverted": plain.replace(b"<xmin>10<", b"<xmin>40<"),
        "cvat-turned": cvat("x.jpg", SIZE, item, degrees=90),
        "robndbox": rolabelimg("x.jpg", SIZE, item, angle=math.pi / 2),
        "blanks": plain.replace(b">raccoon<", b"> raccoon <"),
        "no-size": plain.replace(b"size>", b"other>"),
        "tag-in-another-case": plain.replace(b"object>", b"Object>"),
        "wrapper": plain.replace(b"<object>", b"<objects><object>").replace(
            b"</object>", b"</object></objects>"
        ),
        "one-pixel": MAKERS["supervisely"]("x.jpg", SIZE, [("raccoon", (30, 20, 31, 21))]),
        "plain": plain,
    }
    for key, content in files.items():
        write(tmp_path / f"in/images/{key}.jpg", jpeg(SIZE))
        write(tmp_path / f"in/annotations/{key}.xml", content)
    others = read_by_others(tmp_path / "in/images", tmp_path / "in/annotations")
    found = ours(tmp_path / "in", tmp_path / "out", "corners", on_bad_record="skip")
    right, upright = ["raccoon", 10, 10, 30, 20], ["raccoon", 15, 5, 25, 25]
    assert found.pop("cvat-turned") == [[upright[0], *map(pytest.approx, upright[1:])]]
    assert found.pop("robndbox") == [[upright[0], *map(pytest.approx, upright[1:])]]
    assert not {"inverted", "one-pixel"} & found.keys()
    assert len(found) == 5
    assert all(objects == [right] for objects in found.values())

    of_supervision, of_labelformat = others["supervision"], others["labelformat"]
    as_devkit = ["raccoon", 9, 9, 30, 20]
    assert of_supervision["plain"] == of_supervision["no-size"] == [as_devkit]
    assert of_supervision["inverted"] == [["raccoon", 29, 9, 40, 20]]
    assert of_labelformat["inverted"] == [["raccoon", 40, 10, 30, 20]]
    assert of_labelformat["one-pixel"] == [["raccoon", 30, 20, 30, 20]]
    assert (of_supervision["cvat-turned"], of_labelformat["cvat-turned"]) == ([as_devkit], [right])
    assert of_labelformat["blanks"] == [[" raccoon ", *right[1:]]]
    assert of_supervision["blanks"] == [[" raccoon ", *as_devkit[1:]]]
    for reader in others.values():
        assert "Missing" in str(reader["robndbox"])
        assert reader["tag-in-another-case"] == reader["wrapper"] == []
    assert "Missing field 'size'" in str(of_labelformat["no-size"])


# Real files ---------------------------------------------------------------------------------------


def test_real_files_of_labelimg(tmp_path: Path, voc_sample: Path) -> None:
    source = voc_sample.parent / "data/raccoon"
    if not source.exists():
        pytest.skip("no raccoons beside VOC_SAMPLE_DIR, in data/raccoon")
    others = read_by_others(source / "images", source / "annotations")
    for convention, reader in WITNESSES.items():
        assert_agrees(ours(source, tmp_path / convention, convention), others[reader])


def test_real_files_of_voc(tmp_path: Path, voc_sample: Path) -> None:
    archive = voc_sample / "VOCtrainval_sample-2007.tar"
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "in", filter="data")
    folder = tmp_path / "in/VOCdevkit/VOC2007"
    others = read_by_others(folder / "JPEGImages", folder / "Annotations")
    for convention, reader in WITNESSES.items():
        found = ours(archive, tmp_path / convention, convention)
        assert len(found) > 100
        assert_agrees(found, others[reader])
