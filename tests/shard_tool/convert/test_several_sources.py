"""Several sources in one dataset, and remote archives."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shard_tool import ConvertOptions, convert
from shard_tool.convert.run import prepare
from shard_tool.dataset.verify import verify
from shard_tool.errors import ObjectMissing, SourceError
from shard_tool.sources.files.archive import FileSpan
from shard_tool.storage.location import Folder
from tests.kit.clock import only_pauses_count
from tests.kit.datasets.converted import converted, files_of, manifest_of, samples_of, shards_of
from tests.kit.datasets.voc_sources import opened, span_of
from tests.kit.datasets.voc_tree import Picture, jpeg, pictures, voc_tar, voc_tree, write
from tests.kit.servers.s3 import put
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shard_tool.sources.source import Record
    from tests.kit.servers.s3 import S3

    Run = Callable[..., tuple[str | int | None, str, str]]


@pytest.fixture
def trees(tmp_path: Path) -> list[Path]:
    """2007 trainval, 2007 test and 2012 trainval, no picture twice."""
    trainval = voc_tree(
        tmp_path / "07", [*pictures(4), *pictures(3, split="val", first=5)], year="2007"
    )
    test = voc_tree(tmp_path / "07t", pictures(3, split="test", first=8), year="2007")
    newer = [Picture(key=f"2012_{i:06d}", split="train" if i % 3 else "val") for i in range(8)]
    latest = voc_tree(tmp_path / "12", newer, year="2012")
    for shift, tree in enumerate((trainval, test, latest)):
        for number, path in enumerate(sorted((tree / "JPEGImages").iterdir())):
            write(path, jpeg((20, 10), 10 * shift + number))
    return [trainval, test, latest]


def merged(dest: Path, sources: list[Path], **options: Any) -> dict[str, Any]:
    given = {"workers": 1, "shard_bytes": 4000} | options
    convert(ConvertOptions(source=[str(source) for source in sources], dest=str(dest), **given))
    return manifest_of(dest)


# Several sources ------------------------------------------------------------------------------


def test_07_and_12_become_one_dataset_with_the_usual_splits(
    trees: list[Path], tmp_path: Path
) -> None:
    """train and val of both, which together are 07+12's trainval; test is that of 2007."""
    manifest = merged(tmp_path / "out", trees)
    assert manifest["name"] == "voc07+12"
    counts = {name: split["num_samples"] for name, split in manifest["splits"].items()}
    assert counts == {"train": 4 + 5, "val": 3 + 3, "test": 3}
    assert [source["year"] for source in manifest["sources"]] == ["2007", "2007", "2012"]
    assert manifest["duplicates"] == []
    keys = {path.stem for tree in trees for path in (tree / "JPEGImages").iterdir()}
    found = {split: samples_of(tmp_path / "out", split) for split in counts}
    assert {key for samples in found.values() for key in samples} == keys
    assert {key[:5] for key in found["test"]} == {"00000", "00001"}
    mixed = [key[:4] for key in found["train"]]
    assert sorted(mixed) != mixed, "the sources lie one after the other"
    assert verify(Folder(str(tmp_path / "out")), workers=1).problems == ()


def test_split_trainval_holds_the_trainval_of_every_source(
    trees: list[Path], tmp_path: Path
) -> None:
    for tree in (trees[0], trees[2]):
        lists = tree / "ImageSets/Main"
        both = (lists / "train.txt").read_text() + (lists / "val.txt").read_text()
        (lists / "trainval.txt").write_text(both)
    manifest = merged(tmp_path / "out", trees, splits=("trainval", "test"))
    counts = {name: split["num_samples"] for name, split in manifest["splits"].items()}
    assert counts == {"trainval": 15, "test": 3}


def test_samples_say_which_source_they_came_from(trees: list[Path], tmp_path: Path) -> None:
    merged(tmp_path / "out", trees)
    for split in ("train", "val", "test"):
        for key, parts in samples_of(tmp_path / "out", split).items():
            number = 2 if key.startswith("2012") else (1 if split == "test" else 0)
            source = b'"source":{"year":"%s","archive":%d}' % (
                b"2012" if number == 2 else b"2007",
                number,
            )
            assert source in parts["json"]


@pytest.mark.parametrize("as_archive", [False, True])
def test_picture_of_two_sources_is_kept_once_and_the_other_is_listed(
    trees: list[Path], tmp_path: Path, as_archive: bool
) -> None:
    old, test, new = trees
    shutil.copy(old / "JPEGImages/000002.jpg", new / "JPEGImages/2012_000001.jpg")
    shutil.copy(test / "JPEGImages/000008.jpg", new / "JPEGImages/2012_000004.jpg")
    same_size = bytearray((old / "JPEGImages/000003.jpg").read_bytes())
    same_size[-3] ^= 1
    (new / "JPEGImages/2012_000002.jpg").write_bytes(same_size)  # another picture of equal size
    sources = trees
    if as_archive:
        sources = [voc_tar(tmp_path / f"{i}.tar", tree.parents[1]) for i, tree in enumerate(trees)]
    manifest = merged(tmp_path / "out", sources)
    assert manifest["duplicates"] == [
        {
            "key": "2012_000001",
            "split": "train",
            "source": 2,
            "same_as": {"key": "000002", "split": "train", "source": 0},
        },
        {
            "key": "2012_000004",
            "split": "train",
            "source": 2,
            "same_as": {"key": "000008", "split": "test", "source": 1},
        },
    ]
    train = samples_of(tmp_path / "out", "train")
    assert "2012_000002" in train
    assert not {"2012_000001", "2012_000004"} & train.keys()


def test_a_test_set_keeps_a_picture_that_train_has_as_well_in_any_order_of_sources(
    trees: list[Path], tmp_path: Path
) -> None:
    """Otherwise a test set would lack a picture, or training would see it."""
    _, test, new = trees
    shutil.copy(test / "JPEGImages/000008.jpg", new / "JPEGImages/2012_000004.jpg")
    for number, sources in enumerate(([test, new], [new, test])):
        manifest = merged(tmp_path / f"{number}", sources)
        assert manifest["splits"]["test"]["num_samples"] == 3
        (dropped,) = manifest["duplicates"]
        assert (dropped["key"], dropped["same_as"]["key"]) == ("2012_000004", "000008")


def test_equal_pictures_of_one_source_both_stay(trees: list[Path], tmp_path: Path) -> None:
    shutil.copy(trees[0] / "JPEGImages/000001.jpg", trees[0] / "JPEGImages/000002.jpg")
    manifest = merged(tmp_path / "out", trees)
    assert manifest["duplicates"] == []
    assert manifest["splits"]["train"]["num_samples"] == 9


def test_years_that_share_pictures_are_merged_without_duplicates(tmp_path: Path) -> None:
    """2008 is part of 2009 and so on: same ids, same pictures."""
    older = voc_tree(tmp_path / "a", pictures(3), year="2008")
    newer = voc_tree(tmp_path / "b", pictures(5), year="2009")
    manifest = merged(tmp_path / "out", [older, newer])
    assert manifest["splits"]["train"]["num_samples"] == 5
    assert [item["key"] for item in manifest["duplicates"]] == ["000001", "000002", "000003"]
    assert set(samples_of(tmp_path / "out", "train")) == {f"{i:06d}" for i in range(1, 6)}


def test_two_pictures_under_one_id_are_refused_with_both_places(tmp_path: Path) -> None:
    one = voc_tree(tmp_path / "a", pictures(2), year="2008")
    other = voc_tree(tmp_path / "b", pictures(2), year="2009")
    write(other / "JPEGImages/000002.jpg", jpeg((20, 10), 77))
    with pytest.raises(SourceError) as caught:
        merged(tmp_path / "out", [one, other])
    assert str(caught.value) == (
        f"{other}/JPEGImages/000002.jpg: another picture than {one}/JPEGImages/000002.jpg, "
        "under the same id; rename one of them; ids are keys"
    )
    assert not (tmp_path / "out").exists()


def test_source_without_any_of_the_splits_is_refused(trees: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        merged(tmp_path / "out", trees, splits=("train", "val"))
    place = f"{trees[1]}/ImageSets/Main"
    problem = "no list of train, val names a picture; leave this source out"
    assert str(caught.value) == f"{place}: {problem}"


def test_list_of_any_name_may_be_in_some_of_the_sources(trees: list[Path], tmp_path: Path) -> None:
    write(trees[0] / "ImageSets/Main/mine.txt", b"000001\n")
    manifest = merged(tmp_path / "out", trees[:2], splits=("mine", "test"))
    counts = {name: split["num_samples"] for name, split in manifest["splits"].items()}
    assert counts == {"mine": 1, "test": 3}
    with pytest.raises(SourceError) as caught:
        merged(tmp_path / "again", trees[:2], splits=("mine",))
    problem = "no list of mine names a picture; leave this source out"
    assert str(caught.value) == f"{trees[1]}/ImageSets/Main: {problem}"


def test_empty_list_of_one_source_leaves_the_split_to_the_others(
    trees: list[Path], tmp_path: Path
) -> None:
    """Official archives have such lists: 2007's trainval one an empty list of test."""
    write(trees[0] / "ImageSets/Main/test.txt", b"\n")
    manifest = merged(tmp_path / "out", trees)
    counts = {name: split["num_samples"] for name, split in manifest["splits"].items()}
    assert counts == {"train": 9, "val": 6, "test": 3}


def test_split_whose_pictures_are_all_in_other_sources_is_refused_before_writing(
    tmp_path: Path,
) -> None:
    test = voc_tree(tmp_path / "a", pictures(3, split="test"), year="2007")
    train = voc_tree(tmp_path / "b", pictures(3), year="2012")
    with pytest.raises(SourceError) as caught:
        merged(tmp_path / "out", [test, train])
    problem = "every picture of split 'train' is in another source's split as well"
    assert str(caught.value).startswith(f"{test}, {train}: {problem}; leave a source out")
    assert not (tmp_path / "out").exists()


def test_list_with_a_byte_order_mark_names_its_first_picture(
    trees: list[Path], tmp_path: Path
) -> None:
    path = trees[0] / "ImageSets/Main/train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"  # a comment\n")
    assert merged(tmp_path / "out", trees[:1])["splits"]["train"]["num_samples"] == 4


def test_any_number_of_lists_are_splits_if_they_share_no_picture(
    trees: list[Path], tmp_path: Path
) -> None:
    names = [f"part{number}" for number in range(70)]
    for number, name in enumerate(names):
        write(trees[0] / f"ImageSets/Main/{name}.txt", b"%06d\n" % (number % 7 + 1))
    with pytest.raises(SourceError) as caught:
        merged(tmp_path / "out", trees[:1], splits=tuple(names))
    place = f"{trees[0]}/ImageSets/Main/part7.txt"
    problem = "picture '000001' is in split 'part0' as well (and 62 more)"
    assert str(caught.value) == f"{place}: {problem}; convert splits that share no picture"
    tree = voc_tree(tmp_path / "many", pictures(70), year="2012")
    for number, name in enumerate(names):
        write(tree / f"ImageSets/Main/{name}.txt", b"%06d\n" % (number + 1))
    manifest = merged(tmp_path / "out", [tree], splits=tuple(names))
    assert [*manifest["splits"]] == names
    ((key, parts),) = samples_of(tmp_path / "out", "part69").items()
    assert key == "000070"
    assert json.loads(parts["json"])["image_sets"] == ["Main/part69", "Main/train"]


@pytest.mark.slow
def test_archive_behind_a_server_without_ranges_is_refused_with_the_way_out(
    mini_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_pauses_count(monkeypatch)
    big = tmp_path / "big.tar"
    big.write_bytes(mini_archive.read_bytes() + bytes(9 << 20))
    with web_server(tmp_path, has_ranges=False) as url, pytest.raises(SourceError) as caught:
        converted(f"{url}/big.tar", tmp_path / "out")  # type: ignore[arg-type]
    way = "its server ignores Range: download the archive and give its path"
    assert str(caught.value).endswith(way)


def test_source_with_only_trainval_beside_sources_with_train_is_refused(tmp_path: Path) -> None:
    one = voc_tree(tmp_path / "a", pictures(2), year="2008")
    other = voc_tree(tmp_path / "b", pictures(2, first=5, split="trainval"), year="2009")
    with pytest.raises(SourceError, match="name the splits: --split trainval"):
        merged(tmp_path / "out", [one, other])


def test_promise_1_merged_bytes_do_not_depend_on_workers(trees: list[Path], tmp_path: Path) -> None:
    made = [merged(tmp_path / f"{workers}", trees, workers=workers) for workers in (1, 2, 3)]
    assert made[0] == made[1] == made[2]
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "3")


def num_bytes(record: Record) -> int:
    assert record.annotation
    return record.annotation.size + sum(span.size for span in record.pictures)


def test_plan_of_one_source_is_the_same_however_many_records_a_shard_has(tmp_path: Path) -> None:
    """The records of all shards together are all records, in the same order."""
    tree = voc_tree(tmp_path, [*pictures(20), *pictures(7, split="val", first=21)])
    orders = []
    for shard_bytes in (1, 3000, 1 << 30):
        plan = prepare(ConvertOptions(source=str(tree), dest="unused", shard_bytes=shard_bytes))
        tasks = [plan.shard_task(number) for number in range(plan.num_shards)]
        assert [(task.split, task.shard_name) for task in tasks] == list(plan.shard_names())
        assert [len(task.records) for task in tasks] == [
            plan.num_records_of(number) for number in range(plan.num_shards)
        ]
        shards = [[read.record for read in task.reads()] for task in tasks]
        orders.append([record.key for records in shards for record in records])
        sizes = [sum(map(num_bytes, records)) for records in shards]
        assert all(
            size <= shard_bytes or len(records) == 1
            for size, records in zip(sizes, shards, strict=True)
        )
    assert orders[0] == orders[1] == orders[2]
    assert sorted(orders[0]) == [f"{i:06d}" for i in range(1, 28)]


# Remote archives ------------------------------------------------------------------------------


@pytest.mark.slow
def test_archive_behind_http_gives_the_same_bytes_as_on_disk(
    mini_archive: Path, tmp_path: Path
) -> None:
    converted(mini_archive, tmp_path / "local", shard_bytes=150_000)
    with web_server(mini_archive.parent) as server:
        url = f"{server}/{mini_archive.name}?signature=s3cr3t"
        for workers in (1, 2):
            options = ConvertOptions(
                source=url, dest=str(tmp_path / f"{workers}"), shard_bytes=150_000, workers=workers
            )
            convert(options)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "local")
    assert b"s3cr3t" not in b"".join(files_of(tmp_path / "1").values())


@pytest.mark.slow
def test_archive_in_a_bucket_gives_the_same_bytes_as_on_disk(
    mini_archive: Path, tmp_path: Path, s3: S3, bucket: str
) -> None:
    put(s3, f"{bucket}/in/mini.tar", mini_archive.read_bytes())
    converted(mini_archive, tmp_path / "local", shard_bytes=150_000)
    options = ConvertOptions(
        source=f"{bucket}/in/mini.tar",
        dest=str(tmp_path / "out"),
        shard_bytes=150_000,
        workers=2,
        storage_options=s3.storage_options,
    )
    convert(options)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "local")


def test_scan_of_a_remote_archive_reports_progress(mini_archive: Path) -> None:
    seen: list[tuple[int, int]] = []
    with web_server(mini_archive.parent) as server:
        source = f"{server}/{mini_archive.name}"
        prepare(
            ConvertOptions(source=source, dest="unused"),
            on_scan=lambda _, done, total: seen.append((done, total)),
        )
    size = mini_archive.stat().st_size
    assert seen[-1] == (size, size)


def test_missing_or_damaged_remote_archive_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "web/voc.tar.gz", b"\x1f\x8b\x08" + bytes(2000))
    with web_server(tmp_path / "web") as server:
        with pytest.raises(ObjectMissing) as missing:
            converted(f"{server}/no.tar?key=s3cr3t", tmp_path / "out")  # type: ignore[arg-type]
        with pytest.raises(SourceError) as packed:
            converted(f"{server}/voc.tar.gz", tmp_path / "out")  # type: ignore[arg-type]
    assert str(missing.value) == f"{server}/no.tar: there is no such object"
    assert str(packed.value).startswith(f"{server}/voc.tar.gz: its gzip data is damaged (")
    assert not (tmp_path / "out").exists()


# Links, names and sizes -----------------------------------------------------------------------


def test_files_of_a_devkit_are_found_as_a_dictionary_would(tmp_path: Path) -> None:
    names = ["a", "a-1", "b", "\u732b", "z" * 80]
    tree = voc_tree(tmp_path, [Picture(key=name) for name in names])
    source = opened(tree)
    for name in names:
        path = f"JPEGImages/{name}.jpg"
        size = (tree / path).stat().st_size
        assert span_of(source, path) == FileSpan(path, 0, size)
    for name in ("", "a-", "zz", "\u732b\u732b", "0"):
        assert span_of(source, f"JPEGImages/{name}.jpg") is None
    assert span_of(source, "NoSuchFolder/a.jpg") is None
    stems = np.array([name.encode() for name in ("b", "nosuch", "a")], np.bytes_)
    assert source.table.files["JPEGImages", "picture"].rows(stems).tolist()[1] == -1


def test_one_source_and_a_list_of_one_source_give_the_same_shards(tmp_path: Path) -> None:
    """One source given alone and given as a list of one."""
    tree = voc_tree(tmp_path / "in", pictures(5))
    converted(tree, tmp_path / "a")
    merged(tmp_path / "b", [tree], shard_bytes=64 << 20)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert shards_of(tmp_path / "a")
