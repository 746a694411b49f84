"""A source of COCO JSON as conversion sees it."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import SourceError
from shard_tool.sources.open import open_source
from tests.kit.datasets.coco_files import ANT, BEE, coco, image, one_of_each, thing, written

if TYPE_CHECKING:
    from pathlib import Path


def test_records_are_sorted_by_id_and_come_again(tmp_path: Path) -> None:
    stems = ["b", "a/c", "é", "a", "aa", "B"]
    root = written(tmp_path, {"x.json": one_of_each(*stems)}, [f"{stem}.jpg" for stem in stems])
    (source,) = open_source(str(root))
    records = [*source.records("detection", "train")]
    ids = [record.id for record in records]
    assert ids == sorted(stems, key=str.encode)
    assert [*source.records("detection", "train")] == records
    assert [*source.records("detection", "val")] == []
    a = records[ids.index("a")]
    assert a.annotation is not None
    assert (a.annotation.name, a.expected_image, a.is_plain) == ("x.json#4", "a.jpg", False)


def test_a_document_is_parsed_by_the_parser_in_any_process(tmp_path: Path) -> None:
    root = written(tmp_path, {"x.json": one_of_each("a")}, ["a.jpg"])
    (source,) = open_source(str(root))
    (record,) = source.records("detection", "train")
    parser = pickle.loads(pickle.dumps(source.parser))
    assert record.document is not None
    found = parser(record.document, "x.json#1")
    assert [item.name for item in found.objects] == ["ant"]


def test_documents_tell_when_categories_change(tmp_path: Path) -> None:
    other = coco([image(1, "a.jpg")], [thing(1, 1)], [{**ANT, "name": "x"}, BEE])
    documents = []
    for name, document in (("one", one_of_each("a")), ("two", other)):
        (source,) = open_source(str(written(tmp_path / name, {"x.json": document}, ["a.jpg"])))
        documents += [record.document for record in source.records("detection", "train")]
    assert documents[0] != documents[1]


def test_splits_of_a_source(tmp_path: Path) -> None:
    files = {"test.json": one_of_each("c"), "val.json": one_of_each("b")}
    root = written(tmp_path, {**files, "train.json": one_of_each("a")}, ["a.jpg", "b.jpg", "c.jpg"])
    (source,) = open_source(str(root))
    assert source.splits("detection") == ("train", "val", "test")
    source.check_split("detection", "val")
    with pytest.raises(SourceError, match="has no split 'mine'; splits: train, val, test"):
        source.check_split("detection", "mine")
    assert source.split_place("detection", "val").endswith("/val.json")
    assert source.is_listed
    assert source.class_labels("train", None, ()) is None  # type: ignore[arg-type]
