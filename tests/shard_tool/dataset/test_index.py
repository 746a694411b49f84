"""Existing tars become a dataset where they lie, and everything wrong with them is reported."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import tarfile
import traceback
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset.index import IndexOptions, index_tars
from shard_tool.dataset.scan import scan_stored
from shard_tool.dataset.shard_urls import locate_shard, storage_options_for, url_in_manifest
from shard_tool.dataset.verify import verify
from shard_tool.errors import (
    DataError,
    ObjectExists,
    ObjectMissing,
    OptionError,
    ShardError,
    ShardToolError,
)
from shard_tool.format.tar import ShardIndex, copy_members, padded, read_at_of
from shard_tool.storage.location import Folder, load_manifest
from tests.kit.datasets.converted import converted, files_of, manifest_of, reworded
from tests.kit.datasets.foreign_tars import (
    adopted,
    by_gnu_tar,
    by_webdataset,
    read_by_webdataset,
    records_of,
    shards_of_others,
)
from tests.kit.datasets.tars import END, info, members_of, tar_of
from tests.kit.processes.shard_tool_process import (
    eventually,
    group_is_gone,
    group_of_processes,
)
from tests.kit.servers.s3 import objects, put, remove, upload
from tests.kit.servers.uploads import begin_upload, unfinished_uploads
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path

    from shard_tool.dataset.scan import ScannedShard
    from shard_tool.format.manifest import ShardEntry
    from shard_tool.storage.location import StoredObject
    from tests.kit.servers.s3 import S3

LENGTHS = [4, 1, 6]
SECRET = "tr0ub4dor"


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return shards_of_others(tmp_path / "shards", LENGTHS)


def entries_of(dest: Path) -> list[ShardEntry]:
    return [e for s in load_manifest(Folder(str(dest))).splits.values() for e in s.shards]


def reads_noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tars that are read from here on, in order."""
    read: list[str] = []

    def noted(shard: StoredObject, *arguments: Any, **options: Any) -> ScannedShard:
        read.append(shard.place)
        return scan_stored(shard, *arguments, **options)

    monkeypatch.setattr("shard_tool.dataset.index_task.scan_stored", noted)
    return read


def read_by_index(dest: Path, shards: list[Path]) -> list[tuple[str, dict[str, bytes]]]:
    """Every sample, cut out of its tar by nothing but its index; CRCs compared."""
    found = []
    for entry, shard in zip(entries_of(dest), shards, strict=True):
        content = shard.read_bytes()
        index = (dest / f"{entry.name}.idx").read_bytes()
        parsed = ShardIndex.from_bytes(index, place="", shard_bytes=len(content))
        for (start, stop), crc in zip(
            itertools.pairwise(parsed.starts.tolist()), parsed.crcs.tolist(), strict=True
        ):
            assert zlib.crc32(content[start:stop]) == crc
            members: dict[str, Any] = {}
            found.append((copy_members(content, start, stop, members, place=""), members))
    return found


# What is adopted ------------------------------------------------------------------------------


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
def test_tar_by_gnu_tar_is_adopted_in_every_format(format_: str, tmp_path: Path) -> None:
    files = FILES if format_ != "ustar" else {n: c for n, c in FILES.items() if DEEP not in n}
    shard = by_gnu_tar(tmp_path / "a.tar", files, f"--format={format_}")
    adopted([shard], tmp_path / "out")
    found = read_by_index(tmp_path / "out", [shard])
    assert found == read_by_webdataset([shard])
    assert found[0] == ("d/a", {"jpg": b"j" * 700, "json": b"{}"})
    assert len(found) == len(files) - 3


def test_index_is_the_one_a_walk_over_the_tar_makes(shards: list[Path], tmp_path: Path) -> None:
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


def test_key_that_comes_again_later_is_another_sample_and_said_once(
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


def test_what_follows_the_end_marker_is_said_to_be_unread(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after `cat a.tar b.tar`; webdataset reads none of it, either."""
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


def test_member_names_that_climb_are_only_keys(tmp_path: Path) -> None:
    shard = tmp_path / "in/a.tar"
    shard.parent.mkdir()
    shard.write_bytes(tar_of([info("../../x.jpg", 3), info("/etc/y.jpg", 4)]))
    adopted([shard], tmp_path / "out")
    assert [key for key, _ in read_by_index(tmp_path / "out", [shard])] == ["../../x", "/etc/y"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


# What cannot be adopted -----------------------------------------------------------------------


def test_all_bad_tars_are_named_at_once_and_nothing_is_committed(
    shards: list[Path], tmp_path: Path
) -> None:
    whole, folder = shards[2].read_bytes(), tmp_path / "shards"
    members = members_of(whole)
    second, last = members[1], members[-1]
    end = last.offset + padded(last.size)
    (folder / "header.tar").write_bytes(whole[: second.start + 100])
    (folder / "member.tar").write_bytes(whole[: second.offset + second.size // 2])
    (folder / "marker.tar").write_bytes(whole[:end])
    (folder / "nothing.tar").write_bytes(b"")
    (folder / "text.tar").write_bytes(b"not a tar" * 1000)
    (folder / "folder.tar").mkdir()
    bad = ["header", "member", "marker", "nothing", "text", "missing"]
    with pytest.raises(ShardError) as caught:
        adopted([*shards, *(folder / f"{name}.tar" for name in bad)], tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path / 'out'}: 6 of 9 shards cannot be adopted:"
    assert [line.partition(": ")[0] for line in lines[1:]] == [
        str(folder / f"{name}.tar") for name in bad
    ]
    problems = [line.partition(": ")[2] for line in lines[1:]]
    header = f"at byte {second.start} ({second.start + 100} bytes)"
    assert problems[0].startswith(f"cut short inside the header {header}")
    assert problems[1].startswith(f"cut short: member '{second.name}' needs ")
    assert problems[2] == f"cut short: no end-of-archive marker in its {end} bytes"
    assert problems[3] == "cut short: no end-of-archive marker in its 0 bytes"
    assert problems[4].startswith("the header at byte 0")
    assert problems[5].startswith("there is no such object")
    with pytest.raises(ObjectMissing, match=r"not finished|no dataset"):
        load_manifest(Folder(str(tmp_path / "out")))
    with pytest.raises(OptionError, match=r"folder\.tar': is a folder"):
        adopted([folder / "folder.tar"], tmp_path / "out2")


def test_a_repaired_tar_is_all_that_is_read_again(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = shards[1].read_bytes()
    shards[1].write_bytes(good[:700])
    with pytest.raises(ShardError, match="1 of 3 shards cannot be adopted"):
        adopted(shards, tmp_path / "out")
    shards[1].write_bytes(good)
    read = reads_noted(monkeypatch)
    adopted(shards, tmp_path / "out", on_existing="resume")
    assert read == [str(shards[1])]
    adopted(shards, tmp_path / "undisturbed")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")


def test_a_tar_of_another_size_is_read_again_when_resumed(
    shards: list[Path], tmp_path: Path
) -> None:
    good = shards[2].read_bytes()
    shards[2].write_bytes(good[:700])
    with pytest.raises(ShardError, match="1 of 3"):
        adopted(shards, tmp_path / "out")
    shards[2].write_bytes(good)
    by_webdataset(shards[0], records_of("other", 9))  # after its index was made
    adopted(shards, tmp_path / "out", on_existing="resume")
    assert read_by_index(tmp_path / "out", shards) == read_by_webdataset(shards)


def test_what_changed_in_place_since_it_was_recorded_is_read_again(
    shards: list[Path], tmp_path: Path
) -> None:
    """The sizes are the old ones: only what else is known of a tar tells, and an index's digest."""
    good, dest = shards[2].read_bytes(), tmp_path / "out"
    shards[2].write_bytes(good[:700])
    with pytest.raises(ShardError, match="1 of 3"):
        adopted(shards, dest)
    shards[2].write_bytes(good)
    before = shards[0].stat()
    content = bytearray(shards[0].read_bytes())
    content[content.index(b"000 2")] ^= 1
    shards[0].write_bytes(content)
    os.utime(shards[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    index = bytearray((dest / "train-000001.tar.idx").read_bytes())
    index[-1] ^= 1
    (dest / "train-000001.tar.idx").write_bytes(index)
    adopted(shards, dest, on_existing="resume")
    assert read_by_index(dest, shards) == read_by_webdataset(shards)
    assert verify(Folder(str(dest)), workers=1).problems == ()


def test_another_file_with_the_old_size_and_time_is_read_again(
    shards: list[Path], tmp_path: Path
) -> None:
    good, dest = shards[2].read_bytes(), tmp_path / "out"
    shards[2].write_bytes(good[:700])
    with pytest.raises(ShardError, match="1 of 3"):
        adopted(shards, dest)
    shards[2].write_bytes(good)
    before = shards[0].stat()
    content = shards[0].read_bytes()
    other = shards[0].with_name("other")
    other.write_bytes(content.replace(b"000 2", b"000 3"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(shards[0])
    adopted(shards, dest, on_existing="resume")
    assert verify(Folder(str(dest)), workers=1).problems == ()


def test_object_that_was_put_again_is_read_again_and_others_are_not(
    shards: list[Path], tmp_path: Path, s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, dest = shards[2].read_bytes(), tmp_path / "out"
    shards[2].write_bytes(good[:700])
    upload(tmp_path / "shards", s3, bucket)
    options: dict[str, Any] = {"storage_options": s3.storage_options}
    with pytest.raises(ShardError, match="1 of 3"):
        adopted([f"{bucket}/part-*.tar"], dest, **options)
    put(s3, f"{bucket}/part-002.tar", good)
    put(s3, f"{bucket}/part-000.tar", shards[0].read_bytes().replace(b"000 2", b"000 3"))
    read = reads_noted(monkeypatch)
    adopted([f"{bucket}/part-*.tar"], dest, on_existing="resume", **options)
    assert read == [f"{bucket}/part-000.tar", f"{bucket}/part-002.tar"]
    assert verify(Folder(str(dest), s3.storage_options), workers=1).problems == ()


# Which tars -----------------------------------------------------------------------------------


def test_patterns_expand_in_the_order_of_the_arguments(shards: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    for number in (0, 1):
        shutil.copy(shards[number], folder / f"x{number}.tar")
    shutil.copy(shards[0], folder / "odd{1..2}[x]*.tar")
    patterns = [
        folder / "x?.tar",
        folder / "part-{002,000}.tar",
        folder / "odd{1..2}[x]*.tar",
        folder / "*01.tar",
    ]
    adopted(patterns, tmp_path / "out")
    names = [
        "x0.tar",
        "x1.tar",
        "part-002.tar",
        "part-000.tar",
        "odd{1..2}[x]*.tar",
        "part-001.tar",
    ]
    assert [entry.url for entry in entries_of(tmp_path / "out")] == [
        f"../shards/{n}" for n in names
    ]


def test_ranges_beside_one_another_are_not_multiplied(shards: list[Path], tmp_path: Path) -> None:
    """Two thousand names each, of which one is there: not four million."""
    folder = tmp_path / "shards"
    for name in ("a0007.tar", "b0007.tar"):
        shutil.copy(shards[0], folder / name)
    with pytest.raises(ShardError, match=r"3998 of 4000 shards cannot be adopted"):
        adopted([f"{folder}/{{a{{0000..1999}},b{{0000..1999}}}}.tar"], tmp_path / "out")


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        pytest.param(["no-?*.tar"], r"shards '.*/no-\?\*\.tar': match nothing", id="nothing"),
        pytest.param(
            ["part-*.tar", "part-00{1,5}.tar"],
            r"shard '../shards/part-001\.tar': is named twice, by '.*\*\.tar' and by '.*1,5}\.tar'",
            id="twice",
        ),
        pytest.param(
            ["part-{000,000}.tar"], r"is named twice, by '[^']*000,000}\.tar';", id="twice by one"
        ),
        pytest.param(
            ["x-{0..99999999}.tar"],
            r"shards '.*/x-\{0\.\.99999999\}\.tar': are 100000000, more than 1000000; adopt",
            id="a hundred million",
        ),
        pytest.param(["x-{9000000..-9..10}{0..9}.tar"], "are 9000010, more than", id="downwards"),
        pytest.param(["x{{0..9999}-{0..9999},y}"], "are 100000001, more than", id="a product"),
        pytest.param(["part-{0.tar"], "braces do not pair up", id="braces"),
        pytest.param([""], r"is a folder; give its shards: .*/\*\.tar", id="folder"),
    ],
)
def test_pattern_that_matches_nothing_or_a_shard_twice_is_an_error(
    shards: list[Path], tmp_path: Path, patterns: list[str], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        adopted([f"{tmp_path}/shards/{pattern}" for pattern in patterns], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_to_a_tar_is_the_tar_under_its_own_name(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "links").symlink_to(tmp_path / "shards")
    (tmp_path / "one.tar").symlink_to(shards[1])
    adopted([tmp_path / "links/part-000.tar", tmp_path / "one.tar"], tmp_path / "out")
    urls = [entry.url for entry in entries_of(tmp_path / "out")]
    assert urls == ["../shards/part-000.tar", "../one.tar"]
    assert read_by_index(tmp_path / "out", shards[:2]) == read_by_webdataset(shards[:2])


@pytest.mark.parametrize(
    ("shard", "dest", "url"),
    [
        ("/data/voc/a/b.tar", "/data/voc", "a/b.tar"),
        ("/data/voc/b.tar", "file:///data/voc", "b.tar"),
        ("file:///data/shards/b.tar", "/data/voc", "../shards/b.tar"),
        ("/other/b.tar", "/data/voc", "/other/b.tar"),
        ("/b.tar", "/data/voc", "/b.tar"),
        ("/data/b.tar", "s3://bucket/voc", "/data/b.tar"),
        ("s3://bucket/voc/a/b.tar", "s3://bucket/voc/", "a/b.tar"),
        ("s3://bucket/voc2/b.tar", "s3://bucket/voc", "s3://bucket/voc2/b.tar"),
        ("https://host/b.tar", "/data/voc", "https://host/b.tar"),
        (f"https://me:{SECRET}@host/voc/b.tar", f"https://me:{SECRET}@host/voc", "b.tar"),
    ],
)
def test_a_shard_is_named_as_seen_from_the_dataset_and_found_again(
    shard: str, dest: str, url: str
) -> None:
    folder = Folder(dest)
    assert url_in_manifest(shard, folder) == url
    found, name = locate_shard(url, folder)
    expected = shard.removeprefix("file://").replace(f"me:{SECRET}@", "")
    assert found.place(name).removeprefix("file://").replace("/./", "/") == expected


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{SECRET}@host/a.tar",
        f"https://host/a.tar?X-Amz-Signature={SECRET}",
        f"s3://{SECRET}@bucket/a.tar",
        f"s3://{SECRET}:{SECRET}@bucket/*.tar",
        f"https://host/a.tar#{SECRET}",
    ],
)
def test_promise_8_url_with_a_secret_is_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        adopted([url], tmp_path / "out")
    assert SECRET not in str(caught.value)
    assert "secrets go into --storage-option" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pattern", ["b{.tar", "{b,b}.tar", "*.tar"])
def test_promise_8_pattern_with_a_password_is_not_shown(pattern: str, tmp_path: Path) -> None:
    """Where it is the dataset's own, the shard is named without it, and so would be allowed."""
    with web_server(tmp_path) as web:
        url = web.replace("://", f"://me:{SECRET}@")
        with pytest.raises(OptionError) as caught:
            adopted([f"{url}/{pattern}"], url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("dest", "shard", "is_given"),
    [
        ("/data/voc", "https://host/a.tar", True),
        ("https://host/voc", "https://host/elsewhere/a.tar", True),
        (f"https://me:{SECRET}@host/voc", "https://host/a.tar", True),
        ("https://host/voc", "https://evil/a.tar", False),
        ("https://host/voc", "s3://bucket/a.tar", False),
        ("s3://bucket/voc", "s3://other/a.tar", True),
        ("s3://bucket/voc", "https://bucket/a.tar", False),
    ],
)
def test_promise_8_options_are_not_handed_to_strangers_a_manifest_names(
    dest: str, shard: str, is_given: bool
) -> None:
    options = {"headers": {"Authorization": SECRET}}
    assert storage_options_for(shard, Folder(dest, options)) == (options if is_given else {})


# The destination ------------------------------------------------------------------------------


def test_tars_and_dataset_may_share_a_folder_and_overwriting_leaves_the_tars(
    shards: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    (folder / "README").write_text("ours")
    tars = files_of(folder)
    for patterns in (["part-*.tar"], ["part-000.tar"]):
        adopted([folder / p for p in patterns], folder, on_existing="overwrite")
        assert verify(Folder(str(folder)), workers=1).problems == ()
        assert tars.items() <= files_of(folder).items()
    assert sorted(files_of(folder).keys() - tars.keys()) == [
        "manifest.json",
        "train-000000.tar.idx",
    ]
    assert [entry.url for entry in entries_of(folder)] == ["part-000.tar"]
    with pytest.raises(ObjectExists, match="already holds a dataset"):
        adopted(shards, folder)


def test_tars_of_the_very_names_an_index_has_are_never_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shards = [by_webdataset(folder / f"train-{i:06d}.tar", records_of(f"{i}", 3)) for i in range(3)]
    before = files_of(folder)
    for on_existing in ("fail", "overwrite", "resume"):
        adopted(shards, folder, on_existing=on_existing)
        assert before.items() <= files_of(folder).items()
    message = r"'train-000000\.tar' is there, and the index of 'train-000001\.tar' would be called"
    with pytest.raises(ObjectExists, match=message):
        adopted(shards[1:], folder, on_existing="overwrite")
    assert before.items() <= files_of(folder).items()
    assert verify(Folder(str(folder)), workers=1).problems == ()


def test_a_converted_dataset_can_be_adopted_where_it_lies(
    mini_dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "voc"
    shutil.copytree(mini_dataset, folder)
    tars = {name: content for name, content in files_of(folder).items() if name.endswith(".tar")}
    (folder / "bad_records.jsonl").write_text("{}\n")
    for pattern in ("train-*.tar", "train-000000.tar"):
        adopted([folder / pattern], folder, on_existing="overwrite")
        assert tars.items() <= files_of(folder).items()
        assert verify(Folder(str(folder)), workers=1).problems == ()
    assert sorted(files_of(folder).keys() - tars.keys()) == [
        "manifest.json",
        "train-000000.tar.idx",
    ]


def test_tars_adopted_under_another_name_are_not_taken_away(
    mini_dataset: Path, tmp_path: Path
) -> None:
    """They are the old dataset's own: by symbolic links, a chain of these, or a server's URL."""
    folder = tmp_path / "voc"
    shutil.copytree(mini_dataset, folder)
    (folder / "val-000000.tar").rename(tmp_path / "real.tar")
    (folder / "val-000000.tar").symlink_to(tmp_path / "real.tar")
    before = {n: content for n, content in files_of(folder).items() if n.endswith(".tar")}
    names = tmp_path / "names"
    names.mkdir()
    (names / "direct.tar").symlink_to(folder / "train-000000.tar")
    (names / "chain.tar").symlink_to(folder / "val-000000.tar")
    with web_server(folder) as web:
        for shard in (names / "direct.tar", names / "chain.tar", f"{web}/train-000000.tar"):
            adopted([shard], folder, split="other", on_existing="overwrite")
            assert before.items() <= files_of(folder).items()
            assert verify(Folder(str(folder)), workers=1).problems == ()
            shutil.copytree(mini_dataset, folder, dirs_exist_ok=True)  # as it was


def test_a_converted_dataset_gives_way_to_tars_that_lie_elsewhere(
    mini_dataset: Path, shards: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(mini_dataset, tmp_path / "voc")
    adopted(shards, tmp_path / "voc", on_existing="overwrite")
    adopted(shards, tmp_path / "undisturbed")
    assert files_of(tmp_path / "voc") == files_of(tmp_path / "undisturbed")


def test_nothing_but_its_own_is_removed_whatever_a_killed_run_was_clearing(
    mini_dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "voc"
    shutil.copytree(mini_dataset, folder)
    (folder / "manifest.json").unlink()
    (folder / ".conversion").mkdir()
    names = [path.name for path in folder.glob("*.tar*")]
    document = {"plan": {"made by": "convert"}, "clearing": names}
    (folder / ".conversion/plan.json").write_text(json.dumps(document))
    tars = {name: content for name, content in files_of(folder).items() if name.endswith(".tar")}
    adopted([folder / "train-*.tar"], folder, on_existing="overwrite")
    assert tars.items() <= files_of(folder).items()
    assert verify(Folder(str(folder)), workers=1).problems == ()


def test_bucket_under_another_spelling_keeps_its_tars(
    mini_dataset: Path, s3: S3, bucket: str
) -> None:
    upload(mini_dataset, s3, f"{bucket}/voc")
    tars = {n: c for n, c in files_of(mini_dataset).items() if n.endswith(".tar")}
    options: dict[str, Any] = {"storage_options": s3.storage_options, "on_existing": "overwrite"}
    for protocol in ("s3a", "s3"):
        shard = f"{bucket}/voc/train-000000.tar".replace("s3://", f"{protocol}://")
        adopted([shard], f"{bucket}/voc", **options)
        assert tars.items() <= objects(s3, f"{bucket}/voc").items()
        dataset = Folder(f"{bucket}/voc", s3.storage_options)
        assert verify(dataset, workers=1).problems == ()
        (entry,) = load_manifest(dataset).splits["train"].shards
        assert entry.url == "train-000000.tar"


def test_upload_of_a_tar_that_somebody_else_has_begun_is_left_alone(
    mini_dataset: Path, s3: S3, bucket: str
) -> None:
    upload(mini_dataset, s3, f"{bucket}/voc")
    for name in ("train-000007.tar", "train-000007.tar.idx"):
        begin_upload(s3, f"{bucket}/voc/{name}")
    options: dict[str, Any] = {"storage_options": s3.storage_options, "on_existing": "overwrite"}
    adopted([f"{bucket}/voc/train-000000.tar"], f"{bucket}/voc", **options)
    left = [key for key, _ in unfinished_uploads(s3, f"{bucket}/voc")]
    assert left == ["voc/train-000007.tar"]


def test_old_dataset_stays_until_all_cheap_checks_have_passed(
    mini_dataset: Path, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(mini_dataset, tmp_path / "voc")
    before = files_of(tmp_path / "voc")
    missing = [shards[0].with_name(f"missing-{number}.tar") for number in range(2)]
    with pytest.raises(ShardError) as caught:
        adopted([*shards, *missing], tmp_path / "voc", on_existing="overwrite")
    lines = [f"{path}: there is no such object" for path in missing]
    text = f"{tmp_path / 'voc'}: 2 of 5 shards cannot be adopted:"
    assert str(caught.value).splitlines()[:2] == [text, lines[0]]
    assert str(caught.value).splitlines()[2].startswith(lines[1])
    assert files_of(tmp_path / "voc") == before
    monkeypatch.setattr("shard_tool.tasks.dask_cluster._CONNECT_S", 0.3)
    with pytest.raises(ShardToolError, match="no Dask scheduler answered"):
        adopted(shards, tmp_path / "voc", on_existing="overwrite", engine="tcp://127.0.0.1:9")
    assert files_of(tmp_path / "voc") == before


def test_workers_elsewhere_cannot_use_the_memory_of_this_process(
    shards: list[Path], tmp_path: Path
) -> None:
    engine = "tcp://127.0.0.1:9"
    problem = f"workers of {engine} cannot {{}} this process's memory"
    with pytest.raises(OptionError) as caught:
        adopted(shards, "memory://out", engine=engine)
    text = problem.format("write into")
    assert str(caught.value) == f"memory://out: {text}; choose another DEST"
    with pytest.raises(OptionError) as caught:
        adopted(["memory://in/a.tar"], tmp_path / "out", engine=engine)
    assert str(caught.value) == f"memory://in: {problem.format('read')}; choose other SHARDS"


def test_folder_of_something_else_is_refused(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    for on_existing in ("fail", "overwrite", "resume"):
        with pytest.raises(ObjectExists) as caught:
            adopted(shards, tmp_path / "out", on_existing=on_existing)
        problem = "is not empty ('notes.txt' is there) and holds no dataset"
        expected = f"{problem}; give an empty or a new folder"
        assert str(caught.value) == f"{tmp_path / 'out'}: {expected}"
    assert files_of(tmp_path / "out") == {"notes.txt": b"mine"}


STUCK_AFTER = """
import sys, time
from shard_tool.dataset.index import IndexOptions, index_tars
pattern, dest, workers, after = sys.argv[1:]
def get_stuck(at):
    if at.shards == int(after):
        print("stuck", flush=True)
        time.sleep(300)
if __name__ == "__main__":
    options = IndexOptions(shards=(pattern,), dest=dest, workers=int(workers))
    index_tars(options, on_progress=get_stuck)
"""


@pytest.mark.parametrize(("workers", "after"), [(1, 1), (1, 5), (1, 6), (2, 3)])
def test_promise_2_killed_indexing_resumes_to_the_same_bytes(
    tmp_path: Path, workers: int, after: int
) -> None:
    shards_of_others(tmp_path / "shards", [3, 1, 4, 1, 5, 9])
    pattern, dest = str(tmp_path / "shards/*.tar"), tmp_path / "out"
    script = tmp_path / "stuck.py"
    script.write_text(STUCK_AFTER)
    command = [sys.executable, str(script), pattern, str(dest), str(workers), str(after)]
    with group_of_processes(command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        os.killpg(process.pid, signal.SIGKILL)
        assert eventually(lambda: group_is_gone(process)), "a worker lives on"
    with pytest.raises(ObjectMissing):
        load_manifest(Folder(str(dest)))
    with pytest.raises(ObjectExists, match="--on-existing resume"):
        adopted([pattern], dest)
    with pytest.raises(ObjectExists, match="split 'train', now 'val'"):
        adopted([pattern], dest, split="val", on_existing="resume")
    with pytest.raises(ObjectExists, match="num_shards 6, now 1"):
        adopted([tmp_path / "shards/part-000.tar"], dest, on_existing="resume")
    adopted([pattern], dest, on_existing="resume")
    adopted([pattern], tmp_path / "undisturbed")
    assert files_of(dest) == files_of(tmp_path / "undisturbed")
    adopted([pattern], dest, on_existing="resume")  # nothing is left to do


# Elsewhere ------------------------------------------------------------------------------------


def test_tars_in_a_bucket_are_adopted_from_a_local_folder_and_in_the_bucket(
    shards: list[Path], tmp_path: Path, s3: S3, bucket: str
) -> None:
    upload(tmp_path / "shards", s3, f"{bucket}/deep/shards")
    before = objects(s3, f"{bucket}/deep/shards")
    options: dict[str, Any] = {"storage_options": s3.storage_options}
    adopted(shards, tmp_path / "expected")
    for pattern in (
        "deep/shards/part-{000..002}.tar",
        "deep/shards/part-*.tar",
        "d*/shards/p?rt-*",
    ):
        dest = tmp_path / f"out{pattern.count('*')}{pattern.count('?')}"
        adopted([f"{bucket}/{pattern}"], dest, **options)
        names = [f"{bucket}/deep/shards/part-{number:03d}.tar" for number in range(3)]
        assert [entry.url for entry in entries_of(dest)] == names
        assert read_by_index(dest, shards) == read_by_webdataset(shards)
        assert verify(Folder(str(dest), s3.storage_options), workers=1).problems == ()
    dest_url = f"{bucket}/deep"
    adopted([f"{bucket}/deep/shards/*.tar"], dest_url, workers=2, **options)
    manifest = load_manifest(Folder(dest_url, s3.storage_options))
    assert [e.url for e in manifest.splits["train"].shards] == [
        f"shards/part-{number:03d}.tar" for number in range(3)
    ]
    assert verify(Folder(dest_url, s3.storage_options), workers=1).problems == ()
    assert objects(s3, f"{bucket}/deep/shards") == before
    index = files_of(tmp_path / "expected")["train-000001.tar.idx"]
    assert objects(s3, dest_url)["train-000001.tar.idx"] == index
    written = objects(s3, bucket) | files_of(tmp_path / "out00")
    assert not [name for name, content in written.items() if s3.secret.encode() in content]


def test_a_missing_and_a_cut_object_of_a_bucket_are_named_together(
    shards: list[Path], tmp_path: Path, s3: S3, bucket: str
) -> None:
    upload(tmp_path / "shards", s3, bucket)
    put(s3, f"{bucket}/part-000.tar", shards[0].read_bytes()[:1000])
    remove(s3, f"{bucket}/part-002.tar")
    with pytest.raises(ShardError) as caught:
        adopted(
            [f"{bucket}/part-{{000..002}}.tar"],
            tmp_path / "out",
            storage_options=s3.storage_options,
        )
    text = str(caught.value)
    assert "2 of 3 shards cannot be adopted" in text
    assert f"{bucket}/part-000.tar: cut short" in text
    assert f"{bucket}/part-002.tar: there is no such object" in text


def test_tars_on_a_web_server_are_adopted_by_braces(shards: list[Path], tmp_path: Path) -> None:
    with web_server(tmp_path / "shards") as url:
        adopted([f"{url}/part-{{000..002}}.tar"], tmp_path / "out")
        assert read_by_index(tmp_path / "out", shards) == read_by_webdataset(shards)
        assert verify(Folder(str(tmp_path / "out")), workers=1).problems == ()
        with pytest.raises(OptionError, match="a web server may not list its folders: use braces"):
            adopted([f"{url}/part-*.tar"], tmp_path / "out2")


# Samples of ours ------------------------------------------------------------------------------


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
    assert problems[0].startswith(f"{place} 'a'.json: field ")
    assert problems[1] == f"{place} 'b': has no json member, which detection needs"
    assert problems[2].startswith(f"{place} 'c': has no jpg member, which detection needs")


def test_other_members_and_keys_that_come_again_elsewhere_are_left_alone(
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

    good = shard("good", {name: (f"my {name}", 7 - i) for i, name in enumerate(names)})
    report = adopted([good], tmp_path / "out", task="detection")
    expected = {f"my {name}": 7 - i for i, name in enumerate(names)}
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


# Verification ---------------------------------------------------------------------------------


def test_verify_finds_what_became_of_adopted_tars(shards: list[Path], tmp_path: Path) -> None:
    dest = tmp_path / "out"
    adopted(shards, dest)
    content = bytearray(shards[0].read_bytes())
    content[content.index(b"000 2")] ^= 1
    shards[0].write_bytes(content)
    shards[1].write_bytes(shards[1].read_bytes() + bytes(512))
    shards[2].unlink()
    problems = verify(Folder(str(dest)), workers=1).problems
    entries = entries_of(dest)
    assert problems[0].startswith(f"{shards[0]}: sha256 ")
    assert problems[1].startswith(f"{shards[0]}: sample 2 has CRC-32 ")
    assert problems[2] == (
        f"{shards[1]}: bytes {entries[1].num_bytes + 512}, the manifest says {entries[1].num_bytes}"
    )
    assert problems[3].startswith(f"{shards[1]}: sha256 ")
    assert problems[4] == f"{shards[2]}: there is no such object"
    assert len(problems) == 5


def test_verify_finds_an_index_that_is_another(shards: list[Path], tmp_path: Path) -> None:
    dest = tmp_path / "out"
    adopted(shards, dest)
    shutil.copy(dest / "train-000001.tar.idx", dest / "train-000000.tar.idx")
    (dest / "train-000002.tar.idx").unlink()
    problems = verify(Folder(str(dest)), workers=2).problems
    assert problems[0].startswith(f"{dest}/train-000000.tar.idx: sha256 ")
    assert problems[1] == f"{dest}/train-000000.tar.idx: its offsets are not where the samples are"
    assert problems[2:] == (f"{dest}/train-000002.tar.idx: there is no such object",)


def test_verify_counts_members(shards: list[Path], tmp_path: Path) -> None:
    adopted(shards, tmp_path / "out")
    reworded(tmp_path / "out", lambda d: d["splits"]["train"]["counts"]["members"].update(jpg=6))
    problems = verify(Folder(str(tmp_path / "out")), workers=1).problems
    assert problems == (f"{tmp_path / 'out'}: split 'train': members of 'jpg' is 6, counted 5",)


# Options and the command ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "action"}, "--task: 'action' is not one of generic, detection, segmentation"),
        ({"on_existing": "ask"}, "--on-existing: 'ask' is not one of fail, resume, overwrite"),
        ({"workers": 0}, "--workers: 0 is below 1"),
        ({"name": ""}, "--name: is empty"),
        ({"split": "a/b"}, "--split: 'a/b' cannot name shards"),
        ({"shards": ()}, "SHARDS: there are none"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        index_tars(IndexOptions(**({"shards": ("a.tar",), "dest": "out"} | options)))
    assert str(caught.value) == message


def test_unknown_engine_is_refused_with_the_options() -> None:
    with pytest.raises(OptionError, match="--engine: 'slurm' is no engine; give 'local'"):
        IndexOptions(shards=("a.tar",), dest="out", engine="slurm")


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


def test_index_command_says_what_it_made(run_here: Any, shards: list[Path], tmp_path: Path) -> None:
    status, out, err = run_here(
        "index", tmp_path / "shards/*.tar", tmp_path / "out", "--workers", 1
    )
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("train: 11 samples, 3 shards, ")
    assert lines[1] == "  samples with: jpg 5, txt 11"
    assert lines[2].startswith(f"{tmp_path / 'out'}: done in ")
    arguments = [*shards, tmp_path / "out2", "--split", "val", "--format", "json", "--workers", 1]
    status, out, _ = run_here("index", *arguments)
    document = json.loads(out)
    assert document["splits"]["val"] == {
        "num_shards": 3,
        "num_samples": 11,
        "members": {"jpg": 5, "txt": 11},
    }
    status, out, err = run_here("index", *shards, tmp_path / "out")
    assert (status, out) == (1, "")
    assert err == (
        f"error: {tmp_path / 'out'}: already holds a dataset\n\n"
        "hint: use --on-existing overwrite to replace it, or another DEST\n"
    )


def test_a_tar_cannot_write_to_the_terminal(run_here: Any, tmp_path: Path) -> None:
    """Its extensions, keys and classes are shown as text: no escape, no line of its own."""
    hostile = "x\x1b[31m\nerror\x9b"
    shard = tmp_path / "a.tar"
    shard.write_bytes(tar_of([info(f"a.{hostile}", 3), info("a.[red]", 3)], tarfile.PAX_FORMAT))
    index = ("index", shard, tmp_path / "out", "--workers", 1)
    said = [run_here(*index), run_here("info", tmp_path / "out")]
    json_of = b'{"key": "other\\u001b"}'
    key = "k\x1b[31m"
    bad = by_webdataset(tmp_path / "b\x1b[31m.tar", {key: {"jpg": b"", "json": json_of}})
    said += [run_here("index", bad, tmp_path / "out2", "--task", "detection", "--workers", 1)]
    for status, (_, out, err) in zip((0, 0, 1), said, strict=True):
        assert "\x1b" not in out + err
        assert "\x9b" not in out + err
        assert "\nerror\x9b" not in out + err, status
    assert r"x\x1b[31m\nerror\x9b 1" in said[0][1]
    assert r"x\x1b[31m\nerror\x9b" in said[1][1]
    assert "[red]" in said[1][1]
