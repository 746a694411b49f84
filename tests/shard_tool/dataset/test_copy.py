"""Copies of datasets: byte for byte, checked on the way, resumed, never in their source's way."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset import copy_task
from shard_tool.dataset.copy import CopyOptions, CopyReport, copy_dataset
from shard_tool.dataset.index import IndexOptions, index_tars
from shard_tool.dataset.verify import verify
from shard_tool.errors import (
    ObjectExists,
    ObjectMissing,
    OptionError,
    ShardError,
    ShardToolError,
    StoreError,
)
from shard_tool.format.manifest import encode_manifest, parse_manifest
from shard_tool.storage import ranges
from shard_tool.storage.location import Folder, load_manifest
from tests.kit.clock import only_pauses_count
from tests.kit.datasets.converted import files_of, manifest_of, reworded
from tests.kit.datasets.stored import stored
from tests.kit.datasets.voc_tree import write
from tests.kit.processes.shard_tool_process import (
    SHARD_TOOL,
    eventually,
    group_is_gone,
    group_of_processes,
    stuck_conversion,
)
from tests.kit.servers.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.kit.servers.s3 import S3, objects, put, upload
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.kit.faults.kinds import Kind

    Run = Callable[..., tuple[str | int | None, str, str]]

LENGTHS = [4, 6, 5]
NAMES = ["train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar"]
SECRET = "tr0ub4dor"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four shards of some 20 kB. Read only."""
    folder = tmp_path_factory.mktemp("source") / "voc"
    return stored(folder, {"train": LENGTHS, "val": [3]})


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, with fewer shards. Read only."""
    return stored(tmp_path_factory.mktemp("other") / "coco", {"train": [2, 3]}, name="coco")


@pytest.fixture
def mine(source: Path, tmp_path: Path) -> Path:
    """The first dataset, to be spoiled."""
    return Path(shutil.copytree(source, tmp_path / "mine"))


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        yield proxy


@pytest.fixture
def on_s3(s3: S3, bucket: str, proxy: FaultProxy) -> dict[str, str]:
    """Storage options for a fresh bucket, behind a proxy that has seen nothing yet."""
    proxy.clear()
    proxy.reset()
    return s3.through(proxy).storage_options


def copied(source: object, dest: object, **options: Any) -> CopyReport:
    """Copy in this process, unless `workers` says otherwise."""
    named = {"workers": 1} | options
    return copy_dataset(CopyOptions(source=str(source), dest=str(dest), **named))


def assert_no_dataset(folder: Path) -> None:
    with pytest.raises(ObjectMissing):
        load_manifest(Folder(str(folder)))


def identities(folder: Path) -> dict[str, int]:
    """Which files these are: a file that is written again is another one."""
    return {path.name: path.stat().st_ino for path in folder.glob("*.tar*")}


def written(proxy: FaultProxy) -> set[str]:
    """Names of shards and indexes that were put through the proxy."""
    names = {item.path.rpartition("/")[2] for item in proxy.requests if item.method == "PUT"}
    return {name for name in names if ".tar" in name and not name.endswith(".json")}


def spoil(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# The same bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_copy_has_the_same_files_byte_for_byte(source: Path, tmp_path: Path, workers: int) -> None:
    report = copied(source, tmp_path / "a/b/copy", workers=workers)
    assert files_of(tmp_path / "a/b/copy") == files_of(source)
    assert verify(Folder(str(tmp_path / "a/b/copy")), workers=1).problems == ()
    assert (report.num_kept_shards, report.manifest.num_samples) == (0, 18)


def test_copy_goes_into_a_bucket_and_back(other: Path, tmp_path: Path, s3: S3, bucket: str) -> None:
    options = s3.storage_options
    copied(other, f"{bucket}/there", storage_options=options)
    assert objects(s3, f"{bucket}/there") == files_of(other)
    copied(f"{bucket}/there", f"{bucket}/again", storage_options=options)
    assert objects(s3, f"{bucket}/again") == files_of(other)
    copied(f"{bucket}/again", tmp_path / "back", storage_options=options)
    assert files_of(tmp_path / "back") == files_of(other)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_copy_comes_from_a_web_server(source: Path, tmp_path: Path, *, has_ranges: bool) -> None:
    with web_server(source, has_ranges=has_ranges) as url:
        copied(url, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == files_of(source)


def test_copy_into_the_memory_of_this_process_is_whole(source: Path, tmp_path: Path) -> None:
    copied(source, "memory://copy", workers=2)
    copied("memory://copy", tmp_path / "back", workers=2)
    assert files_of(tmp_path / "back") == files_of(source)


def test_source_and_destination_have_options_of_their_own(
    other: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str]
) -> None:
    upload(other, s3, f"{bucket}/there")
    direct, wrong = s3.storage_options, {**on_s3, "secret": "wrong"}
    copied(f"{bucket}/there", f"{bucket}/x", storage_options=on_s3, source_options=direct)
    assert [request for request in proxy.requests if "/x/" in request.path]
    assert not [request for request in proxy.requests if "/there/" in request.path]
    with pytest.raises(StoreError, match="access refused"):
        copied(f"{bucket}/there", f"{bucket}/y", storage_options=on_s3, source_options=wrong)


def test_list_of_bad_records_comes_along_and_nothing_else_does(mine: Path, tmp_path: Path) -> None:
    reworded(mine, lambda document: document.update(num_bad_records=1))
    write(mine / "bad_records.jsonl", b'{"split": "train", "key": "a", "error": "b"}\n')
    write(mine / "notes.txt", b"mine")
    copied(mine, tmp_path / "copy")
    expected = files_of(mine)
    del expected["notes.txt"]
    assert files_of(tmp_path / "copy") == expected


def test_manifest_of_another_release_is_copied_as_it_is(mine: Path, tmp_path: Path) -> None:
    def reword(document: dict[str, Any]) -> None:
        document["what a later release says"] = 1

    reworded(mine, reword)
    content = (mine / "manifest.json").read_bytes()
    assert encode_manifest(parse_manifest(content, place="")) != content
    copied(mine, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == files_of(mine)
    copied(mine, tmp_path / "copy", on_existing="resume")


def test_our_manifests_are_the_bytes_they_are_read_from(
    mini_dataset: Path, mini_masks: Path, source: Path, tmp_path: Path
) -> None:
    index_tars(
        IndexOptions(shards=(f"{source}/train-*.tar",), dest=str(tmp_path / "own"), workers=1)
    )
    for folder in (mini_dataset, mini_masks, source, tmp_path / "own"):
        content = (folder / "manifest.json").read_bytes()
        assert encode_manifest(parse_manifest(content, place="")) == content


def test_copy_of_an_adopted_dataset_has_shards_of_its_own(source: Path, tmp_path: Path) -> None:
    index_tars(
        IndexOptions(shards=(f"{source}/train-*.tar",), dest=str(tmp_path / "own"), workers=1)
    )
    copied(tmp_path / "own", tmp_path / "copy")
    copy, own = files_of(tmp_path / "copy"), manifest_of(tmp_path / "own")
    assert copy.keys() == {"manifest.json", *NAMES[:3], *(f"{name}.idx" for name in NAMES[:3])}
    assert all(copy[name] == (source / name).read_bytes() for name in NAMES[:3])
    its = load_manifest(Folder(str(tmp_path / "copy")))
    assert its.fingerprint == own["fingerprint"]
    assert [entry.url for entry in its.splits["train"].shards] == [None] * 3
    again = copied(tmp_path / "own", tmp_path / "copy", on_existing="resume")
    assert again.num_kept_shards == 3


def test_memory_does_not_grow_with_a_shard(tmp_path: Path) -> None:
    big = stored(tmp_path / "big", {"train": [4]}, padding=8 << 20)
    tracemalloc.start()
    try:
        copied(big, tmp_path / "copy")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "copy/train-000000.tar").stat().st_size > 32 << 20
    assert peak < 8 << 20


# Faults on the way ------------------------------------------------------------------------------


FAULTS: dict[str, Kind] = dict(
    zip(NAMES, ("flip", "cut-rst", "short-body", "slow-down"), strict=True)
)


@pytest.mark.parametrize("suffix", ["", ".idx"])
def test_faults_on_the_way_are_outlived(
    source: Path,
    tmp_path: Path,
    s3: S3,
    bucket: str,
    proxy: FaultProxy,
    on_s3: dict[str, str],
    suffix: str,
) -> None:
    upload(source, s3, f"{bucket}/voc")
    for name, kind in FAULTS.items():
        proxy.inject(Fault(kind, where=lambda r, name=name: r.path.endswith(name + suffix)))  # type: ignore[misc]
    copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    assert proxy.hits == len(FAULTS)
    assert files_of(tmp_path / "copy") == files_of(source)


@pytest.mark.parametrize("name", [NAMES[1], f"{NAMES[1]}.idx"])
def test_wrong_bytes_that_differ_each_time_are_fetched_again_until_they_are_right(
    source: Path,
    tmp_path: Path,
    s3: S3,
    bucket: str,
    proxy: FaultProxy,
    name: str,
    on_s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = only_pauses_count(monkeypatch)
    upload(source, s3, f"{bucket}/voc")
    proxy.inject(Fault("flips", times=6, path=name, where=lambda r: r.path.endswith(name)))
    copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    assert proxy.hits == len(clock.pauses) == 6
    assert files_of(tmp_path / "copy") == files_of(source)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_faults_of_the_manifest_are_outlived_whichever_reading_they_hit(
    other: Path,
    tmp_path: Path,
    s3: S3,
    bucket: str,
    proxy: FaultProxy,
    on_s3: dict[str, str],
    number: int,
) -> None:
    """Nobody else would miss the newline at its end."""
    upload(other, s3, f"{bucket}/voc")
    asked: list[Any] = []

    def is_its_turn(request: Any) -> bool:
        asked.append(request)
        return len(asked) == number + 1

    proxy.inject(Fault("short-body", path="manifest.json", at=1.0, where=is_its_turn))
    copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    assert proxy.hits == 1
    assert files_of(tmp_path / "copy") == files_of(other)


def test_a_bit_that_flips_in_an_unprotected_list_is_noticed(
    mine: Path, tmp_path: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str]
) -> None:
    reworded(mine, lambda document: document.update(num_bad_records=1))
    write(mine / "bad_records.jsonl", b'{"split": "train", "key": "a", "error": "b"}\n')
    upload(mine, s3, f"{bucket}/voc")
    proxy.inject(Fault("flip", path="bad_records"))
    copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    assert proxy.hits == 1
    assert files_of(tmp_path / "copy") == files_of(mine)


@pytest.mark.parametrize("name", [NAMES[1], f"{NAMES[1]}.idx"])
def test_bit_that_always_flips_is_an_error_that_names_the_object(
    source: Path,
    tmp_path: Path,
    s3: S3,
    bucket: str,
    proxy: FaultProxy,
    name: str,
    on_s3: dict[str, str],
) -> None:
    upload(source, s3, f"{bucket}/voc")
    proxy.inject(Fault("flip", path=name, times=None))
    with pytest.raises(ShardError) as caught:
        copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    assert caught.value.place == f"{bucket}/voc/{name}"
    assert caught.value.problem.startswith("sha256 ")
    assert caught.value.problem.endswith(" (the same in 2 fetches)")
    assert_no_dataset(tmp_path / "copy")
    assert name not in files_of(tmp_path / "copy")


def test_shard_replaced_between_its_parts_is_fetched_from_its_beginning(
    source: Path,
    tmp_path: Path,
    s3: S3,
    bucket: str,
    proxy: FaultProxy,
    on_s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", 4096)  # a part or three
    upload(source, s3, f"{bucket}/voc")
    spoilt = bytes(len((source / NAMES[0]).read_bytes()))
    seen: list[str] = []

    def replace_it(request: Any) -> None:
        if request.path.endswith(NAMES[0]) and request.range == (4096, 8192) and not seen:
            seen.append("spoilt")
            put(s3, f"{bucket}/voc/{NAMES[0]}", spoilt)
        elif request.path.endswith(NAMES[0]) and request.range == (0, 4096) and seen == ["spoilt"]:
            seen.append("back")
            put(s3, f"{bucket}/voc/{NAMES[0]}", (source / NAMES[0]).read_bytes())

    proxy.on_request = replace_it
    try:
        copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    finally:
        proxy.on_request = None
    assert seen == ["spoilt", "back"]
    assert files_of(tmp_path / "copy") == files_of(source)


def test_fault_of_the_destination_is_outlived(
    source: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str]
) -> None:
    for kind in ("lost-answer", "internal-error", "reset-before-headers"):
        proxy.inject(Fault(kind, path=NAMES[2], method="PUT"))
    copied(source, f"{bucket}/copy", storage_options=on_s3)
    assert proxy.hits == 3
    assert objects(s3, f"{bucket}/copy") == files_of(source)


# A source that is not what it says --------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


@pytest.mark.parametrize("name", [NAMES[2], f"{NAMES[2]}.idx"])
@pytest.mark.parametrize("change", [spoil, cut_short, Path.unlink])
def test_altered_source_is_an_error_that_names_the_object(
    mine: Path, source: Path, tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    if name.endswith(".idx") and change is cut_short:
        (mine / name).write_bytes((mine / name).read_bytes()[:-12])
    else:
        change(mine / name)
    with pytest.raises(ShardToolError) as caught:
        copied(mine, tmp_path / "copy")
    was, entry = (source / name).read_bytes(), manifest_of(source)["splits"]["train"]["shards"][2]
    digest = entry["index_sha256" if name.endswith(".idx") else "sha256"]
    hint = "put the original there (`shard-tool verify SRC` finds all such)"
    if change is Path.unlink:
        expected = f"{mine}/{name}: there is no such object"
    elif change is cut_short:
        size = len(was) - (12 if name.endswith(".idx") else 512)
        expected = f"{mine}/{name}: {size} bytes, the manifest says {len(was)}; {hint}"
    else:
        found = hashlib.sha256((mine / name).read_bytes()).hexdigest()
        expected = f"{mine}/{name}: sha256 {found}, the manifest says {digest}; {hint}"
    assert str(caught.value) == expected
    assert_no_dataset(tmp_path / "copy")
    there = files_of(tmp_path / "copy")
    assert name not in there
    assert not [found for found in there if ".partial-" in found]


def test_copy_of_a_repaired_source_goes_on_where_it_ended(
    mine: Path, source: Path, tmp_path: Path
) -> None:
    spoil(mine / NAMES[2])
    with pytest.raises(ShardError):
        copied(mine, tmp_path / "copy")
    before = identities(tmp_path / "copy")
    assert {NAMES[0], NAMES[1]} <= before.keys()
    shutil.copy(source / NAMES[2], mine / NAMES[2])
    report = copied(mine, tmp_path / "copy", on_existing="resume")
    assert report.num_kept_shards == 2
    assert before.items() <= identities(tmp_path / "copy").items()
    assert files_of(tmp_path / "copy") == files_of(source)


def test_source_that_cannot_be_read_is_not_taken_for_a_destination_that_cannot_be_written(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder stands in for a file on a disk that fails: it opens no better."""
    monkeypatch.setattr(copy_task, "_check_size", lambda *_: None)
    (mine / NAMES[0]).unlink()
    (mine / NAMES[0]).mkdir()
    with pytest.raises(StoreError) as caught:
        copied(mine, tmp_path / "copy")
    assert str(caught.value) == f"{mine}/{NAMES[0]}: cannot be read: Is a directory"


def test_no_dataset_is_no_source(tmp_path: Path, mine: Path) -> None:
    with pytest.raises(ObjectMissing, match="no dataset here"):
        copied(tmp_path / "nowhere", tmp_path / "copy")
    (mine / "manifest.json").unlink()
    with pytest.raises(ObjectMissing, match="conversion not finished"):
        copied(mine, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


# Interrupted, and resumed -----------------------------------------------------------------------

STUCK_AFTER_A_SHARD = """
import json, sys, time
from shard_tool.dataset.copy import CopyOptions, copy_dataset
source, dest, workers, options = sys.argv[1:]
def get_stuck(at):
    print(at.shards, flush=True)
    time.sleep(300)
options = CopyOptions(source=source, dest=dest, workers=int(workers),
                      storage_options=json.loads(options))
copy_dataset(options, on_progress=get_stuck)
"""


@contextmanager
def killed_copy(source: Path, dest: object, workers: int, **options: str) -> Iterator[None]:
    """A copy that is killed when at least one shard is there, with its workers."""
    arguments = [str(source), str(dest), str(workers), json.dumps(options)]
    with group_of_processes([sys.executable, "-c", STUCK_AFTER_A_SHARD, *arguments]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        os.kill(process.pid, signal.SIGKILL)
        assert eventually(lambda: group_is_gone(process)), "its workers outlive it"
        yield


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_copy_is_no_dataset_and_finished_shards_are_not_written_again(
    source: Path, tmp_path: Path, workers: int
) -> None:
    dest = tmp_path / "copy"
    with killed_copy(source, dest, workers):
        assert_no_dataset(dest)
        finished = {path.stem for path in (dest / ".conversion").glob("*.tar.json")}
        assert finished
        before = identities(dest)
        with pytest.raises(ObjectExists, match="shards of a copy that did not finish"):
            copied(source, dest)
        report = copied(source, dest, on_existing="resume")
    assert report.num_kept_shards == len(finished)
    after = identities(dest)
    for name in finished:
        assert after[name] == before[name]
        assert after[f"{name}.idx"] == before[f"{name}.idx"]
    assert files_of(dest) == files_of(source)


@pytest.mark.slow
def test_killed_copy_into_a_bucket_is_resumed_without_putting_finished_shards_again(
    source: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str]
) -> None:
    dest = f"{bucket}/copy"
    with killed_copy(source, dest, 2, **s3.storage_options):
        there = objects(s3, dest)
        assert "manifest.json" not in there
        records = {name.removeprefix(".conversion/") for name in there}
        finished = {name.removesuffix(".json") for name in records if name.endswith(".tar.json")}
        assert finished
        report = copied(source, dest, storage_options=on_s3, on_existing="resume")
    assert report.num_kept_shards == len(finished)
    left = set(NAMES) - finished
    assert written(proxy) == left | {f"{name}.idx" for name in left}
    assert objects(s3, dest) == files_of(source)


def test_copy_into_a_bucket_that_failed_is_resumed_without_putting_finished_shards_again(
    mine: Path, source: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str]
) -> None:
    spoil(mine / NAMES[2])
    with pytest.raises(ShardError):
        copied(mine, f"{bucket}/copy", storage_options=on_s3)
    assert "manifest.json" not in objects(s3, f"{bucket}/copy")
    shutil.copy(source / NAMES[2], mine / NAMES[2])
    proxy.reset()
    report = copied(mine, f"{bucket}/copy", storage_options=on_s3, on_existing="resume")
    assert report.num_kept_shards == 2
    assert written(proxy) == {*NAMES[2:], *(f"{name}.idx" for name in NAMES[2:])}
    assert objects(s3, f"{bucket}/copy") == files_of(source)


@pytest.mark.parametrize("spoilt", [NAMES[0], f"{NAMES[1]}.idx"])
def test_finished_shard_that_a_disk_has_lost_is_copied_again(
    mine: Path, source: Path, tmp_path: Path, spoilt: str
) -> None:
    """Its length is right: what a disk without power makes of a file."""
    spoil(mine / NAMES[2])
    with pytest.raises(ShardError):
        copied(mine, tmp_path / "copy")
    path = tmp_path / "copy" / spoilt
    path.write_bytes(bytes(path.stat().st_size))
    report = copied(source, tmp_path / "copy", on_existing="resume")
    assert report.num_kept_shards == 1
    assert files_of(tmp_path / "copy") == files_of(source)


def test_resume_of_another_dataset_is_refused_and_says_both_sides(
    mine: Path, other: Path, tmp_path: Path
) -> None:
    spoil(mine / NAMES[2])
    with pytest.raises(ShardError):
        copied(mine, tmp_path / "copy")
    before = files_of(tmp_path / "copy")
    with pytest.raises(ObjectExists) as caught:
        copied(other, tmp_path / "copy", on_existing="resume")
    then, now = (manifest_of(folder)["fingerprint"] for folder in (mine, other))
    assert (
        f"what is there was begun with name 'voc', now 'coco'; fingerprint '{then}', now '{now}'"
        in (str(caught.value))
    )
    assert files_of(tmp_path / "copy") == before


def test_same_shards_under_another_manifest_are_another_dataset(
    source: Path, mine: Path, tmp_path: Path
) -> None:
    reworded(mine, lambda document: document.update(options={"seed": 7}))
    copied(source, tmp_path / "copy")
    with pytest.raises(ObjectExists, match="the manifest's sha256"):
        copied(mine, tmp_path / "copy", on_existing="resume")


def test_resume_of_a_finished_copy_writes_nothing(source: Path, tmp_path: Path) -> None:
    copied(source, tmp_path / "copy")
    before = identities(tmp_path / "copy")
    report = copied(source, tmp_path / "copy", on_existing="resume")
    assert report.num_kept_shards == 4
    assert identities(tmp_path / "copy") == before
    assert files_of(tmp_path / "copy") == files_of(source)


def test_resume_begins_where_there_is_nothing(source: Path, tmp_path: Path) -> None:
    copied(source, tmp_path / "copy", on_existing="resume")
    assert files_of(tmp_path / "copy") == files_of(source)


def test_unfinished_conversion_is_never_mixed_with_a_copy(
    mini_archive: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    with stuck_conversion(mini_archive, dest, shard_bytes=90_000) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    before = files_of(dest)
    with pytest.raises(ObjectExists):
        copied(mini_dataset, dest, on_existing="resume")
    assert files_of(dest) == before


# Overwriting ------------------------------------------------------------------------------------


def test_copy_leaves_a_dataset_that_is_there_alone(
    source: Path, other: Path, tmp_path: Path
) -> None:
    copied(source, tmp_path / "copy")
    with pytest.raises(ObjectExists, match="already holds a dataset"):
        copied(other, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == files_of(source)


def test_overwriting_leaves_nothing_of_the_old_dataset_and_all_of_the_rest(
    source: Path, other: Path, tmp_path: Path, s3: S3, bucket: str
) -> None:
    copied(source, tmp_path / "copy")
    write(tmp_path / "copy/notes.txt", b"mine")
    copied(other, tmp_path / "copy", on_existing="overwrite")
    assert files_of(tmp_path / "copy") == files_of(other) | {"notes.txt": b"mine"}
    options = s3.storage_options
    copied(source, f"{bucket}/copy", storage_options=options)
    copied(other, f"{bucket}/copy", storage_options=options, on_existing="overwrite")
    assert objects(s3, f"{bucket}/copy") == files_of(other)


def test_shards_of_somebody_else_that_a_dataset_has_adopted_are_not_overwritten(
    source: Path, tmp_path: Path
) -> None:
    for name in NAMES[:2]:
        write(tmp_path / "tars" / name, (source / name).read_bytes())
    index_tars(IndexOptions(shards=(f"{tmp_path}/tars/*",), dest=str(tmp_path / "tars"), workers=1))
    before = files_of(tmp_path / "tars")
    with pytest.raises(ObjectExists) as caught:
        copied(source, tmp_path / "tars", on_existing="overwrite")
    assert str(caught.value) == (
        f"{tmp_path}/tars: 'train-000000.tar' is there, and is not the dataset's; give another DEST"
    )
    assert files_of(tmp_path / "tars") == before


def test_a_scheduler_nobody_reaches_clears_nothing(
    source: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(source, tmp_path / "copy")
    monkeypatch.setattr("shard_tool.tasks.dask_cluster._CONNECT_S", 0.3)
    with pytest.raises(ShardToolError, match="no Dask scheduler answered"):
        copied(other, tmp_path / "copy", on_existing="overwrite", engine="tcp://127.0.0.1:9")
    assert files_of(tmp_path / "copy") == files_of(source)


def test_memory_of_this_process_is_nothing_for_workers_elsewhere(source: Path) -> None:
    engine = "tcp://127.0.0.1:9"
    with pytest.raises(OptionError) as caught:
        copied(source, "memory://copy", engine=engine)
    problem = f"workers of {engine} cannot write into this process's memory"
    assert str(caught.value) == f"memory://copy: {problem}; choose another DEST"


def test_disk_that_is_too_small_is_told_before_the_start(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StoreError) as caught:
        copied(source, tmp_path / "copy")
    needed = sum(len(content) for name, content in files_of(source).items() if ".tar" in name)
    assert str(caught.value) == (
        f"{tmp_path}/copy: 1000 bytes free, the dataset needs about {needed} more; "
        "make room or choose another DEST"
    )
    assert not (tmp_path / "copy").exists()


# A destination that is the source ---------------------------------------------------------------


@pytest.mark.parametrize("on_existing", ["fail", "resume", "overwrite"])
def test_source_under_another_spelling_is_no_destination(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_existing: str
) -> None:
    (tmp_path / "link").symlink_to(mine)
    monkeypatch.chdir(tmp_path)
    before = files_of(mine)
    spellings = [mine, f"{mine}/", "mine", f"file://{mine}", f"{mine}/../mine", tmp_path / "link"]
    for dest in spellings:
        with pytest.raises(OptionError) as caught:
            copied(mine, dest, on_existing=on_existing)
        assert "is the same folder as SRC" in str(caught.value)
    assert files_of(mine) == before


@pytest.mark.parametrize("on_existing", ["fail", "resume", "overwrite"])
def test_bucket_under_another_spelling_is_no_destination(
    source: Path, s3: S3, bucket: str, on_existing: str
) -> None:
    upload(source, s3, f"{bucket}/voc")
    for dest in (f"{bucket}/voc", f"{bucket}/voc/", f"{bucket}/voc/".replace("s3://", "s3a://")):
        options = {"storage_options": s3.storage_options, "source_options": s3.storage_options}
        with pytest.raises(OptionError, match="the same folder as SRC"):
            copied(f"{bucket}/voc", dest, on_existing=on_existing, **options)
    assert objects(s3, f"{bucket}/voc") == files_of(source)


def test_bucket_behind_another_address_is_not_overwritten_with_itself(
    source: Path, s3: S3, bucket: str, on_s3: dict[str, str]
) -> None:
    upload(source, s3, f"{bucket}/voc")
    options = {"storage_options": on_s3, "source_options": s3.storage_options}
    with pytest.raises(OptionError, match="the same folder as SRC"):
        copied(f"{bucket}/voc", f"{bucket}/voc", on_existing="overwrite", **options)
    assert objects(s3, f"{bucket}/voc") == files_of(source)


def test_folder_a_web_server_serves_is_not_overwritten_with_itself(mine: Path) -> None:
    before = files_of(mine)
    with web_server(mine) as url, pytest.raises(OptionError, match="the same folder as SRC"):
        copied(url, mine, on_existing="overwrite")
    assert files_of(mine) == before


def test_shards_that_the_source_only_names_or_links_to_are_not_overwritten(
    mine: Path, tmp_path: Path
) -> None:
    before = files_of(mine)
    index_tars(IndexOptions(shards=(f"{mine}/train-*.tar",), dest=str(tmp_path / "own"), workers=1))
    with pytest.raises(OptionError, match="where shards of SRC lie"):
        copied(tmp_path / "own", mine, on_existing="overwrite")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in mine.iterdir():
        (linked / path.name).symlink_to(path)
    with pytest.raises(OptionError, match=r"is where .*/linked/train-000000\.tar links to"):
        copied(linked, mine, on_existing="overwrite")
    assert files_of(mine) == before


def test_journal_of_a_dataset_is_no_place_for_another(mine: Path, tmp_path: Path) -> None:
    before = files_of(mine)
    with pytest.raises(OptionError, match=r"lies in \.conversion"):
        copied(mine, mine / ".conversion/copy")
    assert files_of(mine) == before


def test_copy_beside_and_below_its_source_leaves_the_source_alone(mine: Path, source: Path) -> None:
    copied(mine, mine / "copy")
    assert files_of(mine / "copy") == files_of(source)
    assert verify(Folder(str(mine)), workers=1).problems == ()


def test_option_nobody_can_act_on_is_refused() -> None:
    with pytest.raises(OptionError) as caught:
        CopyOptions(source="a", dest="b", on_existing="ask")  # type: ignore[arg-type]
    assert str(caught.value) == "--on-existing: 'ask' is not one of fail, resume, overwrite"
    with pytest.raises(OptionError, match="--workers: 0 is below 1"):
        CopyOptions(source="a", dest="b", workers=0)
    with pytest.raises(OptionError, match="--engine"):
        CopyOptions(source="a", dest="b", engine="slurm")


# The command line -------------------------------------------------------------------------------


def masked(text: str) -> str:
    """Without the time it took."""
    head, _, tail = text.rstrip().rpartition(" in ")
    assert tail.endswith(" s")
    return head


def test_command_copies_and_says_what(source: Path, tmp_path: Path, run_here: Run) -> None:
    size = sum(entry["num_bytes"] for entry in shards_of_manifest(source)) / 1024
    what = f"{tmp_path}/copy: 18 samples, 4 shards, {size:.1f} KiB"
    status, out, err = run_here("copy", source, tmp_path / "copy", "--dry-run")
    assert (status, err) == (0, "")
    assert out.startswith(f"from {source}: voc\ntrain: 15 samples, 3 shards, ")
    assert out.endswith(f"\n{tmp_path}/copy: nothing is written (--dry-run)\n")
    assert not (tmp_path / "copy").exists()
    status, out, err = run_here("copy", source, tmp_path / "copy", "--workers", 1)
    assert (status, masked(out), err) == (0, f"{what} copied", "")
    assert files_of(tmp_path / "copy") == files_of(source)
    resume = ("copy", source, tmp_path / "copy", "--on-existing", "resume")
    status, out, err = run_here(*resume)
    assert (status, masked(out)) == (0, f"{what} copied")
    assert err == "4 shards of an earlier run are kept\n"


def shards_of_manifest(folder: Path) -> list[dict[str, Any]]:
    splits = manifest_of(folder)["splits"].values()
    return [entry for split in splits for entry in split["shards"]]


def test_command_says_it_in_json(source: Path, tmp_path: Path, run_here: Run) -> None:
    document = {
        "source": str(source),
        "dest": f"{tmp_path}/copy",
        "fingerprint": manifest_of(source)["fingerprint"],
        "num_samples": 18,
        "num_shards": 4,
        "num_bytes": sum(entry["num_bytes"] for entry in shards_of_manifest(source)),
    }
    status, out, _ = run_here("copy", source, tmp_path / "copy", "--dry-run", "--format", "json")
    said = json.loads(out)
    assert (status, said.pop("dry_run"), len(said.pop("splits")), said) == (0, True, 2, document)
    arguments = ("--workers", 1, "--format", "json")
    status, out, _ = run_here("copy", source, tmp_path / "copy", *arguments)
    said = json.loads(out)
    assert said.pop("seconds") >= 0
    assert (status, said) == (0, document | {"num_kept_shards": 0})


def test_command_fails_with_the_way_out(
    source: Path, mine: Path, tmp_path: Path, run_here: Run
) -> None:
    copied(source, tmp_path / "copy")
    status, out, err = run_here("copy", source, tmp_path / "copy")
    assert (status, out) == (1, "")
    assert err == (
        f"error: {tmp_path}/copy: already holds a dataset\n\n"
        "hint: use --on-existing overwrite to replace it, or another DEST\n"
    )
    status, out, err = run_here("copy", mine, mine)
    assert (status, out) == (2, "")
    assert err == (
        f"error: DEST: '{mine}' is the same folder as SRC ('{mine}')\n\nhint: give another folder\n"
    )
    status, out, err = run_here("copy", mine, tmp_path / "x", "--source-option", "key")
    assert (status, out, err) == (2, "", "error: --source-option: 'key' is not KEY=VALUE\n")


def test_ctrl_c_exits_130_and_says_how_to_go_on(
    tmp_path: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str], other: Path
) -> None:
    """The source falls silent: the copy cannot end by itself, whatever its timing."""
    upload(other, s3, f"{bucket}/voc")
    proxy.inject(Fault("stall", path="train-000001.tar", times=None))
    options = [f"--source-option={name}={value}" for name, value in on_s3.items()]
    command = [SHARD_TOOL, "copy", f"{bucket}/voc", str(tmp_path / "copy"), "--workers", "1"]
    with group_of_processes([*command, *options]) as process:
        assert eventually(lambda: proxy.hits > 0, deadline_s=60)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert eventually(lambda: group_is_gone(process)), "its workers outlive it"
    assert (process.returncode, out) == (130, "")
    said, resuming = err.strip().splitlines()[-2:]
    assert said == "interrupted: nothing is committed; continue with"
    shown = [
        f"--source-option={name}={value if name == 'endpoint_url' else '…'}"
        for name, value in on_s3.items()
    ]
    assert shlex.split(resuming) == [
        *("shard-tool", *command[1:], *shown),
        *("--on-existing", "resume"),
    ]
    assert_no_dataset(tmp_path / "copy")
    proxy.clear()
    copied(f"{bucket}/voc", tmp_path / "copy", source_options=on_s3, on_existing="resume")
    assert files_of(tmp_path / "copy") == files_of(other)


def test_no_secret_is_said_or_kept(
    mine: Path, source: Path, tmp_path: Path, s3: S3, bucket: str, run_here: Run
) -> None:
    said: list[str] = []

    def run(*arguments: object) -> None:
        said.extend(map(str, run_here("copy", *arguments, "--workers", 1)))

    spoil(mine / NAMES[2])
    into = [f"--storage-option={name}={value}" for name, value in s3.storage_options.items()]
    with web_server(mine) as url:
        secret_url = f"{url.replace('://', f'://me:{SECRET}@')}/?token={SECRET}"
        run(secret_url, f"{bucket}/copy", *into)  # fails at the third shard
        kept = objects(s3, f"{bucket}/copy")
        run(secret_url, f"{bucket}/copy", *into)
        run(secret_url, tmp_path / "copy", "--dry-run")
        run(secret_url, tmp_path / "copy", "--dry-run", "--format", "json")
        shutil.copy(source / NAMES[2], mine / NAMES[2])
        run(secret_url, f"{bucket}/copy", *into, "--on-existing", "resume", "--format", "json")
    wrong = s3.storage_options | {"secret": SECRET}
    options = [f"--source-option={name}={value}" for name, value in wrong.items()]
    run(f"{bucket}/copy", tmp_path / "copy", *options)
    run(f"{bucket}/copy", f"{bucket}/copy", *into)
    assert any("sha256" in text for text in said), "nothing failed"
    assert ".conversion/plan.json" in kept
    everything = "\n".join(said).encode() + b"".join(kept.values())
    everything += b"".join(objects(s3, f"{bucket}/copy").values())
    for secret in (SECRET, s3.secret, "token"):
        assert secret.encode() not in everything
