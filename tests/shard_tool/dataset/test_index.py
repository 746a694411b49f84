"""`index` turns tars of others into a dataset where they lie, with the samples webdataset reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shard_tool.dataset.verify import verify
from shard_tool.errors import DataError
from shard_tool.format.tar import ShardIndex, read_at_of
from shard_tool.storage.location import Folder
from tests.kit.datasets.converted import converted, files_of, manifest_of
from tests.kit.datasets.foreign_tars import adopted, by_gnu_tar, read_by_index, read_by_webdataset
from tests.kit.datasets.tars import END, info, tar_of

if TYPE_CHECKING:
    from pathlib import Path


def test_samples_are_those_webdataset_reads_and_the_tars_stay_as_they_are(
    shards: list[Path], tmp_path: Path
) -> None:
    before = {path: (path.read_bytes(), path.stat()) for path in shards}
    report = adopted(shards, tmp_path / "out")
    assert read_by_index(tmp_path / "out", shards) == read_by_webdataset(shards)
    assert {path: (path.read_bytes(), path.stat()) for path in shards} == before
    assert sorted(files_of(tmp_path / "out")) == [
        "manifest.json",
        *(f"train-{number:06d}.tar.idx" for number in range(3)),
    ]
    split = report.manifest.splits["train"]
    assert (split.num_samples, split.counts["members"]) == (11, {"jpg": 5, "txt": 11})
    assert split.num_bytes == sum(path.stat().st_size for path in shards)
    assert (report.manifest.task, report.manifest.classes) == ("generic", {})
    assert verify(Folder(str(tmp_path / "out")), workers=1).problems == ()


DEEP = "some/very/deep/folder/" * 12

FILES = {
    "d/": b"",
    "d/a.jpg": b"j" * 700,
    "d/a.JSON": b"{}",
    f"{DEEP}b.seg.png": b"p",
    "README": b"x",
}


@pytest.mark.parametrize("format_", ["gnu", "oldgnu", "pax", "posix", "ustar"])
def test_tar_by_gnu_tar_is_indexed_in_every_format(format_: str, tmp_path: Path) -> None:
    files = FILES if format_ != "ustar" else {n: c for n, c in FILES.items() if DEEP not in n}
    shard = by_gnu_tar(tmp_path / "a.tar", files, f"--format={format_}")
    adopted([shard], tmp_path / "out")
    found = read_by_index(tmp_path / "out", [shard])
    assert found == read_by_webdataset([shard])
    assert found[0] == ("d/a", {"jpg": b"j" * 700, "json": b"{}"})
    assert len(found) == len(files) - 3


def test_index_equals_the_one_made_by_a_walk_over_the_tar(
    shards: list[Path], tmp_path: Path
) -> None:
    adopted(shards, tmp_path / "out")
    for number, shard in enumerate(shards):
        content = shard.read_bytes()
        index = ShardIndex.from_shard(read_at_of(content), len(content), place="")
        name = f"train-{number:06d}.tar.idx"
        assert (tmp_path / "out" / name).read_bytes() == index.to_bytes()


def test_promise_1_same_bytes_for_any_number_of_workers(shards: list[Path], tmp_path: Path) -> None:
    made = []
    for workers in (1, 2):
        adopted(shards, tmp_path / f"{workers}", workers=workers)
        made.append(files_of(tmp_path / f"{workers}"))
    assert made[0] == made[1]


def test_tars_without_samples_are_left_out_and_counted(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shards/empty.tar").write_bytes(END)
    by_gnu_tar(tmp_path / "shards/folders.tar", {"a/": b"", "README": b"x"})
    both = [tmp_path / "shards/empty.tar", tmp_path / "shards/folders.tar"]
    report = adopted([both[0], *shards, both[1]], tmp_path / "out")
    assert report.left_out == ("../shards/empty.tar", "../shards/folders.tar")
    expected = (
        "2 shards hold no sample and are left out: '../shards/empty.tar', '../shards/folders.tar'"
    )
    assert [record.getMessage() for record in caplog.records] == [expected]
    assert read_by_index(tmp_path / "out", shards) == read_by_webdataset(shards)
    assert report.manifest.sources == ({"kind": "adopted", "num_shards": 5},)
    with pytest.raises(DataError, match="none of 2 shards holds a sample"):
        adopted(both, tmp_path / "none")


def test_repeated_key_is_another_sample_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = [info("a.x", 1), info("b.x", 2), info("a.x", 3), info("b.x", 4)]
    shards = [tmp_path / "a.tar", tmp_path / "b.tar"]
    for shard in shards:
        shard.write_bytes(tar_of(members))
    adopted(shards, tmp_path / "out")
    assert read_by_index(tmp_path / "out", shards) == read_by_webdataset(shards)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        "4 samples have the key of an earlier one in their shard, as in '../a.tar': each run of "
        "members is a sample, as for webdataset"
    )


def test_bytes_after_the_end_marker_are_reported_as_unread(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This is the result of `cat a.tar b.tar`; webdataset does not read those bytes either."""
    shards[0].write_bytes(shards[0].read_bytes() + shards[1].read_bytes())
    shards[1].write_bytes(shards[1].read_bytes() + bytes(5000))  # zeros are padding
    adopted(shards, tmp_path / "out")
    assert read_by_index(tmp_path / "out", shards) == read_by_webdataset(shards)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        "1 shards hold more after their end marker, which nobody reads (tars put one after the "
        "other?): '../shards/part-000.tar'"
    )


def test_tars_without_any_sample_leave_nothing_behind(shards: list[Path], tmp_path: Path) -> None:
    empty = tmp_path / "shards/empty.tar"
    empty.write_bytes(END)
    with pytest.raises(DataError, match="none of 1 shards holds a sample"):
        adopted([empty], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    adopted(shards, tmp_path / "out")


def test_names_with_parent_folders_are_keys_and_write_nothing_elsewhere(tmp_path: Path) -> None:
    shard = tmp_path / "in/a.tar"
    shard.parent.mkdir()
    shard.write_bytes(tar_of([info("../../x.jpg", 3), info("/etc/y.jpg", 4)]))
    adopted([shard], tmp_path / "out")
    assert [key for key, _ in read_by_index(tmp_path / "out", [shard])] == ["../../x", "/etc/y"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_manifest_of_a_conversion_has_no_urls_and_no_member_counts(
    mini_archive: Path, tmp_path: Path
) -> None:
    converted(mini_archive, tmp_path / "voc")
    text = (tmp_path / "voc/manifest.json").read_text()
    assert '"url"' not in text
    assert '"members"' not in text
    assert manifest_of(tmp_path / "voc")["splits"]["train"]["shards"][0].keys() == {
        "name",
        "num_samples",
        "num_bytes",
        "sha256",
        "index_sha256",
    }
