"""`index --task` checks that samples fit their task and takes classes from them."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from shard_tool.dataset.verify import verify
from shard_tool.errors import DataError, ShardError
from shard_tool.format.tar import padded
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.converted import reworded
from tests.kit.datasets.foreign_tars import adopted, by_webdataset, read_by_webdataset
from tests.kit.datasets.tars import END, members_of
from tests.kit.datasets.voc_tree import jpeg
from tests.kit.datasets.wild import picture

if TYPE_CHECKING:
    from pathlib import Path


def test_samples_as_convert_writes_them_become_a_dataset_of_their_task(
    mini_masks: Path, tmp_path: Path
) -> None:
    original = load_manifest(Folder(str(mini_masks)))
    for split in original.splits:
        dest = tmp_path / split
        report = adopted([mini_masks / f"{split}-*.tar"], dest, split=split, task="segmentation")
        found, expected = report.manifest.splits[split], original.splits[split]
        assert (found.objects, found.difficult) == (expected.objects, expected.difficult)
        assert found.counts == {}
        assert report.manifest.classes == original.classes
        assert (tmp_path / split / f"{split}-000000.tar.idx").read_bytes() == (
            mini_masks / f"{split}-000000.tar.idx"
        ).read_bytes()
        for decode in (False, True):
            assert verify(Folder(str(dest)), decode=decode, workers=1).problems == ()


def test_samples_that_do_not_fit_their_task_are_named(mini_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"has no class\.png member, which segmentation needs"):
        adopted([mini_dataset / "train-000000.tar"], tmp_path / "a", task="segmentation")
    records = {"a": {"jpg": b"", "json": b'{"key": "a"}'}, "b": {"jpg": b""}, "c": {"json": b"["}}
    shard = by_webdataset(tmp_path / "bad.tar", records)
    with pytest.raises(ShardError) as caught:
        adopted([shard], tmp_path / "b", task="detection")
    place = f"{shard}: sample"
    problems = str(caught.value).splitlines()[1:]
    assert problems[0] == f"{place} 'a'.json: field 'objects' is missing"
    assert problems[1] == f"{place} 'b': has no json member, which detection needs"
    assert problems[2].startswith(f"{place} 'c': has no picture; it needs one member of jpg, ")


def test_other_members_and_keys_repeated_in_other_shards_are_accepted(
    mini_dataset: Path, tmp_path: Path
) -> None:
    samples = {
        key: members | {"txt": b"a cat", "thumb.png": b"no PNG"}
        for key, members in read_by_webdataset([mini_dataset / "train-000000.tar"])
    }
    shards = [by_webdataset(tmp_path / f"{name}.tar", samples) for name in "ab"]
    twice = by_webdataset(tmp_path / "twice.tar", dict(list(samples.items())[:2]))
    content = twice.read_bytes()
    end = members_of(content)[-1]
    run = content[: end.offset + padded(end.size)]
    twice.write_bytes(run + run + END)
    report = adopted([*shards, twice], tmp_path / "out", task="detection")
    assert report.manifest.num_samples == 2 * len(samples) + 4
    for decode in (False, True):
        assert verify(Folder(str(tmp_path / "out")), decode=decode, workers=1).problems == ()


def relabelled(content: bytes, names: dict[str, tuple[str, int]]) -> bytes:
    document = json.loads(content)
    for item in document["objects"]:
        item["name"], item["label"] = names.get(item["name"], (item["name"], item["label"]))
    return json.dumps(document).encode()


def test_other_classes_than_vocs_are_taken_from_the_samples_and_must_agree(
    mini_dataset: Path, tmp_path: Path
) -> None:
    samples = dict(read_by_webdataset([mini_dataset / "train-000000.tar"]))
    names = sorted({o["name"] for s in samples.values() for o in json.loads(s["json"])["objects"]})

    def shard(name: str, labels: dict[str, tuple[str, int]]) -> Path:
        changed = {k: {**s, "json": relabelled(s["json"], labels)} for k, s in samples.items()}
        return by_webdataset(tmp_path / f"{name}.tar", changed)

    good = shard("good", {name: (f"my {name}", len(names) - i) for i, name in enumerate(names)})
    report = adopted([good], tmp_path / "out", task="detection")
    expected = {f"my {name}": len(names) - i for i, name in enumerate(names)}
    assert report.manifest.classes == expected
    assert list(report.manifest.classes.values()) == sorted(expected.values())
    other = shard("other", {name: (f"my {name}", 50 + i) for i, name in enumerate(names)})
    with pytest.raises(
        DataError, match=r"class 'my \w+' has label \d in one shard, \d+ in another"
    ):
        adopted([good, other], tmp_path / "out2", task="detection")
    if len(names) > 1:
        same = shard("same", {name: (f"my {name}", 3) for name in names})
        with pytest.raises(DataError, match="both have label 3"):
            adopted([same], tmp_path / "out3", task="detection")


def shard_of(tmp_path: Path, *objects: dict[str, object], **fields: object) -> Path:
    """A tar of one sample of 20 x 10 px with these objects."""
    document = {"objects": objects, **fields}
    members = {"jpg": jpeg((20, 10)), "json": json.dumps(document).encode()}
    return by_webdataset(tmp_path / "own.tar", {"a": members})


BOX = {"bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"label": 0, **BOX}, "has label 0 and no name; labels begin at 1, 0 is background"),
        ({"label": -5, **BOX}, "has label -5 and no name; labels begin at 1, 0 is background"),
        ({"name": "cat", "bbox": [3, 2, 1, 4]}, "its box (3, 2, 1, 4) is empty or inverted"),
        ({"name": "cat", "bbox": [1, 2, 21, 4]}, "its box (1, 2, 21, 4) leaves 20 x 10 px"),
        ({"name": "cat", "bbox": [-0.5, 2, 3, 4]}, "its box (-0.5, 2, 3, 4) leaves 20 x 10 px"),
    ],
)
def test_objects_that_no_training_bears_are_refused(
    tmp_path: Path, item: dict[str, object], problem: str
) -> None:
    with pytest.raises(ShardError) as caught:
        adopted([shard_of(tmp_path, item)], tmp_path / "out", task="detection")
    assert f"own.tar: sample 'a'.json: object 1: {problem}" in str(caught.value)


def test_labels_must_be_those_of_the_table(tmp_path: Path) -> None:
    out = tmp_path / "other"
    far = shard_of(tmp_path, {"name": "crab", "label": 1_000_000, **BOX})
    with pytest.raises(DataError) as caught:
        adopted([far], tmp_path / "out", task="detection")
    assert str(caught.value) == (
        f"{tmp_path}/out: labels are not 1 … 1: 'crab' 1000000; "
        "give all names in label order by --classes"
    )
    with pytest.raises(ShardError, match="'crab' has label 1000000, its class has 1"):
        adopted([far], out, task="detection", classes=("crab",))
    unnamed = shard_of(tmp_path, {"label": 2, **BOX})
    with pytest.raises(ShardError, match="label 2 and no name; give the names by --classes"):
        adopted([unnamed], out, task="detection")
    with pytest.raises(ShardError, match=r"has label 2, which is none of the classes' \(1 … 1\)"):
        adopted([unnamed], out, task="detection", classes=("crab",))


def test_minimal_json_is_enough(tmp_path: Path) -> None:
    """Names alone give the names found; labels alone take the names given."""
    named = shard_of(tmp_path, {"name": "shrimp", **BOX}, {"name": "crab", **BOX})
    report = adopted([named], tmp_path / "named", task="detection")
    assert report.manifest.classes == {"crab": 1, "shrimp": 2}
    labelled = shard_of(tmp_path, {"label": 2, **BOX})
    report = adopted([labelled], tmp_path / "l", task="detection", classes=("crab", "shrimp"))
    assert report.manifest.classes == {"crab": 1, "shrimp": 2}
    assert report.manifest.splits["train"].objects == {"shrimp": 1}
    assert verify(Folder(str(tmp_path / "l")), decode=True, workers=1).problems == ()


def test_a_size_that_is_not_the_pictures_is_refused(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, {"name": "cat", **BOX}, width=10, height=20)
    with pytest.raises(ShardError, match="is 20 x 10 px, the JSON says 10 x 20"):
        adopted([shard], tmp_path / "out", task="detection")
    turned = shard_of(tmp_path, {"name": "cat", **BOX}, width=10, height=20, orientation=6)
    report = adopted([turned], tmp_path / "turned", task="detection")
    assert report.manifest.num_samples == 1
    assert verify(Folder(str(tmp_path / "turned")), decode=True, workers=1).problems == ()


def masked(tmp_path: Path, mask: Image.Image, **fields: object) -> Path:
    """A tar of one sample of 20 x 10 px with a crab and this mask."""
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    document = {"objects": [{"name": "crab", "label": 1, **BOX}], **fields}
    content = json.dumps(document).encode()
    members = {"jpg": jpeg((20, 10)), "json": content, "class.png": buffer.getvalue()}
    return by_webdataset(tmp_path / "own.tar", {"a": members})


@pytest.mark.parametrize("orientation", [5, 6, 8])
def test_the_upright_size_of_a_turned_picture_needs_its_orientation(
    tmp_path: Path, orientation: int
) -> None:
    fields = {"objects": [{"name": "cat", **BOX}], "width": 10, "height": 20}
    stored = picture((20, 10), exif=orientation)
    members = {"jpg": stored, "json": json.dumps(fields).encode()}
    shard = by_webdataset(tmp_path / "turned.tar", {"a": members})
    with pytest.raises(ShardError) as caught:
        adopted([shard], tmp_path / "out", task="detection")
    told = "is 20 x 10 px, the JSON says 10 x 20"
    way = f'add "orientation": {orientation} to the JSON, since EXIF turns it so'
    assert f"sample 'a'.jpg: {told}; {way}" in str(caught.value)
    members["json"] = json.dumps(fields | {"orientation": orientation}).encode()
    shard = by_webdataset(tmp_path / "turned.tar", {"a": members})
    assert adopted([shard], tmp_path / "ok", task="detection").manifest.num_samples == 1


@pytest.mark.parametrize("fields", [{"objects": [{"name": "a\ud800", **BOX}]}, []])
def test_json_that_no_manifest_can_hold_is_refused(tmp_path: Path, fields: object) -> None:
    members = {"jpg": jpeg((20, 10)), "json": json.dumps(fields).encode()}
    shard = by_webdataset(tmp_path / "own.tar", {"a": members})
    with pytest.raises(ShardError, match=r"sample 'a'\.json: not the JSON of a sample: "):
        adopted([shard], tmp_path / "out", task="detection")


def paletted(value: int) -> Image.Image:
    mask = Image.new("P", (20, 10), value)
    mask.putpalette(bytes(range(256)) * 3)
    return mask


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (Image.new("L", (10, 20), 1), "is 10 x 20 px, its picture 20 x 10"),
        (Image.new("L", (20, 10), 2), "holds values of no class: 2 (classes: 1 … 1, void 255)"),
        (paletted(77), "holds values of no class: 77 (classes: 1 … 1, void 255)"),
        (Image.new("RGB", (20, 10)), "a mask of classes has mode 'P' or 'L', not 'RGB'"),
    ],
)
@pytest.mark.parametrize("fields", [{}, {"width": 20, "height": 10}])
def test_masks_that_no_training_bears_are_refused(
    tmp_path: Path, mask: Image.Image, problem: str, fields: dict[str, object]
) -> None:
    shard = masked(tmp_path, mask, **fields)
    with pytest.raises(ShardError) as caught:
        adopted([shard], tmp_path / "out", task="segmentation", classes=("crab",))
    assert f"own.tar: sample 'a'.class.png: {problem}" in str(caught.value)


def test_masks_of_more_classes_than_the_samples_name_are_refused(tmp_path: Path) -> None:
    shard = masked(tmp_path, Image.new("L", (20, 10), 2))
    with pytest.raises(DataError) as caught:
        adopted([shard], tmp_path / "out", task="segmentation")
    told = "masks hold class 2, and there are 1 classes"
    way = "give all names in label order by --classes"
    assert str(caught.value) == f"{tmp_path}/out: {told}; {way}"
    adopted([shard], tmp_path / "ok", task="segmentation", classes=("crab", "eel"))
    assert verify(Folder(str(tmp_path / "ok")), decode=True, workers=1).problems == ()


def test_verify_finds_masks_of_another_size_and_of_no_class(tmp_path: Path) -> None:
    """Also where the JSON says no size; values are found by decoding alone."""
    shard = masked(tmp_path, Image.new("L", (20, 10), 2))
    adopted([shard], tmp_path / "v", task="segmentation", classes=("crab", "eel"))
    reworded(tmp_path / "v", lambda d: d.update(classes=d["classes"][:1]))
    assert verify(Folder(str(tmp_path / "v")), workers=1).problems == ()
    (found,) = verify(Folder(str(tmp_path / "v")), decode=True, workers=1).problems
    told = "holds values of no class: 2 (classes: 1 … 1, void 255)"
    assert found.startswith(f"{shard}: a.class.png: {told}")
    small = masked(tmp_path, Image.new("L", (10, 20), 1))
    adopted([small], tmp_path / "d", task="detection")
    problems = verify(Folder(str(tmp_path / "d")), workers=1).problems
    assert problems == (f"{small}: a.class.png: is 10 x 20 px, its picture 20 x 10",)
