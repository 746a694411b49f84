"""Records that break a rule are errors, or are skipped, counted and listed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import BoxError, DataError, OptionError, SourceError
from tests.kit.datasets.annotations import BOX_HINT
from tests.kit.datasets.converted import converted, files_of, manifest_of, samples_of
from tests.kit.datasets.voc_tree import CAT, Picture, annotation, mask, pictures, voc_tree, write

if TYPE_CHECKING:
    from pathlib import Path

OUTSIDE = ("cat", (1, 1, 22, 10))
PROBLEM = "object {} 'cat': xmax 22 is outside width 20"
GOOD = ["000001", "000002", "000004", "000006", "000007"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Eight pictures: 000002 has a good object and a box outside, 000003 a box outside alone,
    000005 no annotation, and 000008 is cut short."""
    good = pictures(8)
    good[1] = Picture(key="000002", objects=(CAT, OUTSIDE))
    good[2] = Picture(key="000003", objects=(OUTSIDE,))
    tree = voc_tree(tmp_path / "in", good)
    (tree / "Annotations/000005.xml").unlink()
    write(tree / "JPEGImages/000008.jpg", b"GIF89a")
    return tree


def problems(tree: Path) -> dict[str, str]:
    """The bad records, whose errors name no object."""
    missing = "is missing: a picture without its annotation (Main/train names '000005')"
    return {
        "000003": f"{tree}/Annotations/000003.xml: none of its 1 objects can be read: "
        f"{PROBLEM.format(1)}",
        "000005": f"{tree}/Annotations/000005.xml: {missing}",
        "000008": f"{tree}/JPEGImages/000008.jpg: not a picture of a known format (6 bytes)",
    }


def bad_objects(tree: Path) -> dict[tuple[str, int], str]:
    """Picture and number of each bad object, and what is wrong with it."""
    return {
        ("000002", 2): f"{tree}/Annotations/000002.xml: {PROBLEM.format(2)}",
    }


def listed(dest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (dest / "bad_records.jsonl").read_text().splitlines()]


def test_bad_records_are_skipped_counted_and_listed_when_asked(tree: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    report = converted(tree, dest, on_bad_record="skip")
    assert sorted(samples_of(dest, "train")) == GOOD
    document = manifest_of(dest)
    assert document["num_bad_records"] == 3
    assert document["options"]["on_bad_record"] == "skip"
    assert document["splits"]["train"]["num_samples"] == 5
    assert document["splits"]["train"]["objects"] == {"cat": 5, "dog": 4}
    assert listed(dest) == list(report.bad_records)
    assert {bad["split"] for bad in listed(dest)} == {"train"}
    assert sorted((bad["key"], bad.get("object", 0)) for bad in listed(dest)) == [
        *(("000002", 2), ("000003", 0), ("000005", 0), ("000008", 0))
    ]
    first = next(bad["error"] for bad in listed(dest) if "object" not in bad)
    assert document["report"] == {
        "bad-object-dropped": {
            "count": 1,
            "examples": [f"Annotations/000002.xml: {PROBLEM.format(2)}"],
        },
        "bad-record-skipped": {"count": 3, "examples": [first.removeprefix(f"{tree}/")]},
    }


def test_list_of_bad_records_says_what_is_wrong_not_what_was_already_done(
    tree: Path, tmp_path: Path
) -> None:
    converted(tree, tmp_path / "out", on_bad_record="skip")
    lines = listed(tmp_path / "out")
    records = {bad["key"]: bad["error"] for bad in lines if "object" not in bad}
    objects = {(bad["key"], bad["object"]): bad["error"] for bad in lines if "object" in bad}
    assert (records, objects) == (problems(tree), bad_objects(tree))


def test_skipping_gives_the_same_files_for_any_number_of_workers(
    tree: Path, tmp_path: Path
) -> None:
    for workers in (1, 2):
        dest = tmp_path / f"{workers}"
        converted(tree, dest, on_bad_record="skip", workers=workers, shard_bytes=2500)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_skipped_records_and_objects_leave_the_bytes_of_the_others_alone(
    tree: Path, tmp_path: Path
) -> None:
    converted(tree, tmp_path / "a", on_bad_record="skip")
    write(tree / "ImageSets/Main/train.txt", "\n".join(GOOD).encode())
    write(tree / "Annotations/000002.xml", annotation(Picture(key="000002", objects=(CAT,))))
    converted(tree, tmp_path / "b")
    assert samples_of(tmp_path / "a", "train") == samples_of(tmp_path / "b", "train")
    assert not (tmp_path / "b/bad_records.jsonl").exists()


def test_shard_of_bad_records_alone_is_left_out(tree: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    converted(tree, dest, on_bad_record="skip", shard_bytes=1)
    names = [shard["name"] for shard in manifest_of(dest)["splits"]["train"]["shards"]]
    assert len(names) == 5
    assert sorted(path.name for path in dest.glob("*.tar")) == names
    assert sorted(path.name for path in dest.glob("*.idx")) == [f"{name}.idx" for name in names]


def test_bad_record_is_an_error_by_default(tree: Path, tmp_path: Path) -> None:
    write(tree / "ImageSets/Main/train.txt", b"000001\n000002\n")
    with pytest.raises(BoxError) as caught:
        converted(tree, tmp_path / "out")
    assert str(caught.value) == f"{bad_objects(tree)['000002', 2]}{BOX_HINT}"
    assert not (tmp_path / "out/manifest.json").exists()


def test_more_bad_records_than_allowed_are_an_error(tree: Path, tmp_path: Path) -> None:
    converted(tree, tmp_path / "three", on_bad_record="skip", max_bad_records=3)
    with pytest.raises(DataError) as caught:
        converted(tree, tmp_path / "two", on_bad_record="skip", max_bad_records=2)
    problem = "3 bad records exceed --max-bad-records 2; among them: "
    assert str(caught.value) in {f"{tree}: {problem}{error}" for error in problems(tree).values()}
    assert not (tmp_path / "two/manifest.json").exists()


def test_limit_of_bad_records_below_zero_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        converted(tree, tmp_path / "out", on_bad_record="skip", max_bad_records=-1)
    assert str(caught.value) == "--max-bad-records: -1 is below 0"


def test_split_of_bad_records_alone_is_an_error(tree: Path, tmp_path: Path) -> None:
    write(tree / "ImageSets/Main/val.txt", b"000005\n000008\n")
    write(tree / "ImageSets/Main/train.txt", b"000001\n")
    with pytest.raises(DataError) as caught:
        converted(tree, tmp_path / "out", on_bad_record="skip")
    problem = "every record of split 'val' is bad; see bad_records.jsonl"
    assert str(caught.value) == f"{tree}: {problem}"
    assert [bad["key"] for bad in listed(tmp_path / "out")] != []
    assert not (tmp_path / "out/manifest.json").exists()


def test_missing_list_is_an_error_even_if_bad_records_are_skipped(
    tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="there is no such split list"):
        converted(tree, tmp_path / "out", on_bad_record="skip", splits=("test",))


def test_overwriting_deletes_the_old_list_of_bad_records(tree: Path, tmp_path: Path) -> None:
    converted(tree, tmp_path / "out", on_bad_record="skip")
    write(tree / "ImageSets/Main/train.txt", b"000001\n")
    converted(tree, tmp_path / "out", on_existing="overwrite")
    assert sorted(files_of(tmp_path / "out")) == [
        "manifest.json",
        "train-000000.tar",
        "train-000000.tar.idx",
    ]


def test_key_too_long_for_a_tar_is_a_bad_record(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", [*pictures(2), Picture(key="k" * 245)])
    with pytest.raises(DataError) as caught:
        converted(tree, tmp_path / "fail")
    problem = "cannot be a sample's key: 245 bytes (most: 244); rename the picture"
    assert str(caught.value) == f"{tree}/JPEGImages/{'k' * 245}.jpg: {problem}"
    converted(tree, tmp_path / "skip", on_bad_record="skip")
    assert sorted(samples_of(tmp_path / "skip", "train")) == ["000001", "000002"]


def test_bad_mask_is_a_bad_record(tmp_path: Path) -> None:
    tree = voc_tree(
        tmp_path / "in", [Picture(key=f"{number}", has_mask=True) for number in range(4)]
    )
    write(tree / "SegmentationClass/1.png", mask((10, 20)))
    write(tree / "SegmentationObject/2.png", b"")
    (tree / "SegmentationClass/3.png").unlink()
    converted(tree, tmp_path / "out", task="segmentation", on_bad_record="skip")
    assert list(samples_of(tmp_path / "out", "train")) == ["0"]
    assert {bad["key"]: bad["error"] for bad in listed(tmp_path / "out")} == {
        "1": f"{tree}/SegmentationClass/1.png: is 10 x 20 px, its picture 20 x 10",
        "2": f"{tree}/SegmentationObject/2.png: not a PNG picture (0 bytes)",
        "3": f"{tree}/SegmentationClass/3.png: is missing: a picture without mask "
        "(Main/train, Segmentation/train names '3')",
    }
