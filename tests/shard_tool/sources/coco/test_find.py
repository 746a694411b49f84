"""COCO JSON is found by its content, and what is none of it is not read."""

from __future__ import annotations

import json
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.sources.coco import find
from shard_tool.sources.coco.find import candidates, find_json
from shard_tool.sources.coco.text import PEEKED_BYTES, content_of, peeks
from shard_tool.sources.files.listing import list_files
from tests.kit.datasets.coco_files import coco, image, one_of_each, thing, written

if TYPE_CHECKING:
    from pathlib import Path

    from shard_tool.sources.files.archive import SourceFiles


def packed(kind: str, path: Path, folder: Path) -> Path:
    """The folder itself, or a zip or tar of it."""
    if kind == "folder":
        return folder
    if kind.startswith("zip"):
        method = zipfile.ZIP_DEFLATED if kind == "zip" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
            tar.add(folder, ".")
    return path


KINDS = ["folder", "tar", "tar.gz", "zip", "zip-stored"]


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_the_same_wherever_they_lie(tmp_path: Path, kind: str) -> None:
    large = one_of_each(*(f"{n:05d}" for n in range(2000)))
    files = {"x/train.json": large, "val.json": one_of_each("a"), "other.json": {"shapes": []}}
    source = packed(kind, tmp_path / "packed", written(tmp_path / "in", files))
    found = find_json(list_files(str(source)))
    assert [its.span.name for its in found.read] == ["val.json", "x/train.json"]
    assert found.other is not None
    assert (found.num_others, found.other.name) == (1, "other.json")
    train = found.read[1]
    assert len(json.dumps(large)) > 2 * PEEKED_BYTES
    assert train.image_ids == [str(n) for n in range(1, 2001)]
    document = json.loads(train.document(1999))
    assert document["image"] == large["images"][-1]
    assert document["annotations"] == [large["annotations"][-1]]


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_large_file_the_ends_are_looked_at(tmp_path: Path, kind: str) -> None:
    content = b'{"shapes": "' + b"x" * 500_000 + b'"}'
    source = packed(kind, tmp_path / "packed", written(tmp_path / "in", {"a.json": content}))
    listing = list_files(str(source))
    spans = candidates(listing.table)
    (ends,) = peeks(listing.files, spans)
    assert len(ends) == (len(content) if kind.startswith("zip") else 2 * PEEKED_BYTES)
    assert (ends[:12], ends[-2:]) == (content[:12], content[-2:])
    assert bytes(content_of(listing.files, spans[0])) == content


def test_lists_may_come_in_any_order(tmp_path: Path) -> None:
    document = one_of_each(*(f"{n:05d}" for n in range(2000)))
    for keys in (["annotations", "categories", "images"], ["categories", "images", "annotations"]):
        turned = {"note": "x" * (PEEKED_BYTES - 100), **{key: document[key] for key in keys}}
        source = written(tmp_path / "-".join(keys), {"x.json": turned})
        (found,) = find_json(list_files(str(source))).read
        assert len(found.images) == 2000


def test_of_many_files_few_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelme = {"version": "5", "shapes": [], "imageData": "x" * 5000}
    files: dict[str, Any] = {f"{n:03d}.json": labelme for n in range(200)}
    source = written(tmp_path / "in", {**files, "all.json": one_of_each("000")})
    for n in range(200):
        (source / f"{n:03d}.jpg").touch()
    looked = list[int]()

    def counting(of: SourceFiles, spans: Any) -> list[bytes]:
        looked.append(len(spans))
        return peeks(of, spans)

    monkeypatch.setattr(find, "peeks", counting)
    found = find_json(list_files(str(source)))
    assert [its.span.name for its in found.read] == ["all.json"]
    assert (found.num_others, found.other and found.other.name) == (200, "000.json")
    assert looked == [1]
    for n in range(200):
        (source / f"{n:03d}.jpg").unlink()
    monkeypatch.setattr(find, "_MOST_LOOKED_AT", 40)
    assert find_json(list_files(str(source))).read == ()  # larger files hide it
    large = one_of_each(*(f"{n:05d}" for n in range(100)))
    written(source, {"all.json": large})
    assert [its.span.name for its in find_json(list_files(str(source))).read] == ["all.json"]
    assert looked == [1, 40, 40]


def test_annotations_keep_their_order_within_an_image() -> None:
    from shard_tool.sources.coco.content import read_json
    from shard_tool.sources.files.archive import FileSpan

    things = [thing(n, n % 3, bbox=[n, 0, 1, 1]) for n in range(30)]
    content = json.dumps(coco([image(n, f"{n}.jpg") for n in range(4)], things)).encode()
    found = read_json(content, FileSpan("x.json", 0, len(content)), "x.json")
    assert found is not None
    for row in range(3):
        ids = [its["id"] for its in json.loads(found.document(row))["annotations"]]
        assert ids == list(range(row, 30, 3))
    assert json.loads(found.document(3))["annotations"] == []
    assert found.used == {"ant": 30}
