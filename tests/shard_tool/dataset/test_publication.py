"""What a folder may hold before a dataset is made in it, and what happens to that."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool import ConvertOptions, convert
from shard_tool.convert.run import prepare
from shard_tool.dataset.index import IndexOptions, index_tars
from shard_tool.dataset.publication import publishing
from shard_tool.dataset.writer_lock import WriterLock, hold_writer_lock
from shard_tool.errors import DataError, ObjectBusy, ObjectExists, SourceError, StoreError
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.release import RELEASE
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.converted import converted, files_of, manifest_of
from tests.kit.datasets.voc_tree import jpeg, pictures, voc_tar, voc_tree, write
from tests.kit.processes.killed import killed_conversion
from tests.kit.processes.shard_tool_process import shard_tool
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JFIF = b"JFIF\0\1\1"
SMALL = 2500  # bytes: a picture or two a shard


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return voc_tree(tmp_path / "in", [*pictures(3), *pictures(2, split="val", first=4)])


@pytest.fixture
def unfinished(tree: Path, tmp_path: Path) -> Path:
    """A conversion killed after its third shard."""
    options = {"source": str(tree), "dest": str(tmp_path / "out"), "shard_bytes": SMALL}
    assert killed_conversion(options, call_number=16, when="after")
    assert len(list((tmp_path / "out/.conversion").glob("*.tar.json"))) == 3
    return tmp_path / "out"


FIRST: dict[str, Any] = {"shard_bytes": SMALL}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shard_bytes": 9999}, "--shard-size 2500, now 9999"),
        ({"seed": 7}, "--seed 0, now 7"),
        ({"name": "mine"}, "--name 'voc2012', now 'mine'"),
        ({"splits": ("train",)}, "--split ['train', 'val'], now ['train']"),
        ({"on_bad_record": "skip"}, "--on-bad-record 'fail', now 'skip'"),
        ({"resize": 16}, "--resize None, now 16"),
    ],
)
def test_promise_2_resume_with_other_options_is_refused_and_says_both_sides(
    tree: Path, unfinished: Path, options: dict[str, Any], said: str
) -> None:
    before = files_of(unfinished)
    with pytest.raises(ObjectExists) as caught:
        converted(tree, unfinished, on_existing="resume", **(FIRST | options))
    message = str(caught.value)
    assert message.startswith(f"{unfinished}: what is there was begun with {said}"), message
    assert message.endswith(
        "; repeat with the first options, use --on-existing overwrite, or another DEST"
    )
    assert files_of(unfinished) == before


def test_promise_2_resume_of_a_finished_dataset_with_other_options_is_refused_likewise(
    tree: Path, tmp_path: Path
) -> None:
    converted(tree, tmp_path / "out", **FIRST)
    before = files_of(tmp_path / "out")
    for options, said in (
        ({"seed": 7}, "--seed 0, now 7"),
        ({"quality": 80}, "--quality None, now 80; --reencoded None, now 'every picture'"),
    ):
        with pytest.raises(ObjectExists) as caught:
            converted(tree, tmp_path / "out", on_existing="resume", **(FIRST | options))
        assert str(caught.value).startswith(
            f"{tmp_path}/out: the dataset there was made with {said}"
        )
        assert files_of(tmp_path / "out") == before


def test_promise_2_resume_of_another_source_is_refused(tree: Path, unfinished: Path) -> None:
    write(tree / "JPEGImages/000002.jpg", jpeg((20, 10), 3) + b"longer")
    with pytest.raises(ObjectExists, match="source 1's files"):
        converted(tree, unfinished, on_existing="resume", **FIRST)


@pytest.mark.parametrize("kind", ["folder", "archive", "web"])
def test_promise_2_resume_of_a_source_of_the_same_layout_and_other_content_is_refused(
    tree: Path, tmp_path: Path, kind: str
) -> None:
    """No name, no size and no offset differs: only bytes, which would make a mixture."""
    source, where = tree, str(tree)
    (tmp_path / "web").mkdir()
    with web_server(tmp_path / "web") as url:
        if kind != "folder":
            source = voc_tar(tmp_path / "web/voc.tar", tmp_path / "in")
            where = str(source) if kind == "archive" else f"{url}/voc.tar"
        options = {"source": where, "dest": str(tmp_path / "out"), "shard_bytes": SMALL}
        assert killed_conversion(options, call_number=16, when="after")
        path = source / "JPEGImages/000002.jpg" if kind == "folder" else source
        content = path.read_bytes()
        assert content.count(JFIF) >= 1
        path.write_bytes(content.replace(JFIF, b"JFIF\0\1\2"))
        with pytest.raises(ObjectExists, match="source 1's files"):
            convert(ConvertOptions(**options, workers=1, on_existing="resume"))


def test_promise_2_resume_of_a_finished_dataset_with_another_source_is_refused(
    tree: Path, tmp_path: Path
) -> None:
    archive = voc_tar(tmp_path / "voc.tar", tmp_path / "in")
    other = voc_tree(tmp_path / "more", pictures(2, first=7), year="2012")
    converted(archive, tmp_path / "out")
    before = files_of(tmp_path / "out")
    both = ConvertOptions(
        source=[str(archive), str(other)], dest=str(tmp_path / "out"), on_existing="resume"
    )
    with pytest.raises(ObjectExists, match="source 2 None, now 'folder of 2012'"):
        convert(both)
    content = archive.read_bytes()
    archive.write_bytes(content.replace(JFIF, b"JFIF\0\1\2", 1))
    with pytest.raises(ObjectExists, match=r"was made of other content than .*voc\.tar has"):
        converted(archive, tmp_path / "out", on_existing="resume")
    archive.write_bytes(content)  # the same again, written later
    converted(archive, tmp_path / "out", on_existing="resume")
    assert files_of(tmp_path / "out") == before


def test_promise_7_archive_replaced_after_its_scan_is_noticed(tree: Path, tmp_path: Path) -> None:
    archive = voc_tar(tmp_path / "voc.tar", tmp_path / "in")
    options = ConvertOptions(source=str(archive), dest=str(tmp_path / "out"), workers=1)
    plan = prepare(options)
    archive.write_bytes(archive.read_bytes().replace(JFIF, b"JFIF\0\1\2"))
    with pytest.raises(SourceError, match="was changed or replaced since it was scanned"):
        convert(options, plan=plan)
    (tmp_path / "web").mkdir()
    shutil.copy(archive, tmp_path / "web/voc.tar")
    with web_server(tmp_path / "web") as url:
        options = ConvertOptions(source=f"{url}/voc.tar", dest=str(tmp_path / "out"), workers=1)
        plan = prepare(options)
        content = (tmp_path / "web/voc.tar").read_bytes()
        at = content.index(b"JFIF") + 60
        (tmp_path / "web/voc.tar").write_bytes(content[:at] + b"\xaa" + content[at + 1 :])
        with pytest.raises(SourceError, match="its bytes are not those of the scan"):
            convert(options, plan=plan)
    assert not (tmp_path / "out").exists()


def test_a_run_that_lost_its_lock_leaves_its_successors_journal_alone(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: WriterLock) -> None:
        raise StoreError("out", "another run took over")

    monkeypatch.setattr(WriterLock, "check", lost)
    with pytest.raises(StoreError, match="took over"):
        converted(tree, tmp_path / "out", **FIRST)
    assert (tmp_path / "out/.conversion/plan.json").exists()


@pytest.mark.slow
def test_unreachable_cluster_takes_nothing_away(tree: Path, tmp_path: Path) -> None:
    converted(tree, tmp_path / "out")
    before = files_of(tmp_path / "out")
    done = shard_tool(  # in a process of its own: Dask leaves threads where it was
        *("convert", tree, tmp_path / "out", "--on-existing", "overwrite"),
        *("--engine", "tcp://127.0.0.1:1"),
    )
    assert done.returncode == 1
    assert "scheduler" in done.stderr
    assert files_of(tmp_path / "out") == before


def test_promise_2_resume_of_a_finished_dataset_changes_nothing(tree: Path, tmp_path: Path) -> None:
    first = converted(tree, tmp_path / "out", **FIRST)
    inodes = {path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    again = converted(tree, tmp_path / "out", on_existing="resume", **FIRST)
    assert again.manifest == first.manifest
    assert again.num_kept_shards == sum(len(s.shards) for s in first.manifest.splits.values())
    assert inodes == {path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir()}


def test_resume_in_an_empty_folder_starts_a_run(tree: Path, tmp_path: Path) -> None:
    converted(tree, tmp_path / "a", on_existing="resume", **FIRST)
    converted(tree, tmp_path / "b", **FIRST)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_recorded_shard_that_was_altered_or_lost_is_made_again(
    tree: Path, unfinished: Path, tmp_path: Path
) -> None:
    """A disk may have lost what was never synced when the power went."""
    converted(tree, tmp_path / "undisturbed", **FIRST)
    names = sorted(path.stem for path in (unfinished / ".conversion").glob("*.tar.json"))
    altered, lost, lost_index = (unfinished / name for name in names)
    content = bytearray(altered.read_bytes())
    content[700] ^= 1
    altered.write_bytes(content)
    lost.unlink()
    lost_index.with_name(f"{lost_index.name}.idx").write_bytes(b"")
    converted(tree, unfinished, on_existing="resume", **FIRST)
    assert files_of(unfinished) == files_of(tmp_path / "undisturbed")


def test_damaged_record_is_ignored_and_a_damaged_plan_is_an_error(
    tree: Path, unfinished: Path, tmp_path: Path
) -> None:
    converted(tree, tmp_path / "undisturbed", **FIRST)
    copy = shutil.copytree(unfinished, tmp_path / "copy")
    record = next((unfinished / ".conversion").glob("*.tar.json"))
    record.write_bytes(b"{")
    converted(tree, unfinished, on_existing="resume", **FIRST)
    assert files_of(unfinished) == files_of(tmp_path / "undisturbed")
    (copy / ".conversion/plan.json").write_bytes(b"not JSON")
    with pytest.raises(StoreError, match=r"plan\.json: is damaged: .*overwrite to start again"):
        converted(tree, copy, on_existing="resume", **FIRST)


def test_overwriting_an_unfinished_run_leaves_none_of_its_shards(
    tree: Path, unfinished: Path, tmp_path: Path
) -> None:
    """Also those of splits that the new run does not have."""
    assert list(unfinished.glob("train-*.tar"))
    converted(tree, unfinished, on_existing="overwrite", splits=("val",), **FIRST)
    converted(tree, tmp_path / "new", splits=("val",), **FIRST)
    assert files_of(unfinished) == files_of(tmp_path / "new")


def test_overwriting_does_not_replace_a_shard_that_is_only_indexed(
    tree: Path, tmp_path: Path
) -> None:
    converted(tree, tmp_path / "out", splits=("train",))
    mine = (tmp_path / "out/train-000000.tar").read_bytes()
    for name in ("manifest.json", "train-000000.tar.idx"):
        (tmp_path / "out" / name).unlink()
    index_tars(
        IndexOptions(shards=(f"{tmp_path}/out/train-000000.tar",), dest=str(tmp_path / "out"))
    )
    with pytest.raises(ObjectExists) as caught:
        converted(tree, tmp_path / "out", on_existing="overwrite", splits=("train",))
    problem = "'train-000000.tar' is there, and is not the dataset's; give another DEST"
    assert str(caught.value) == f"{tmp_path}/out: {problem}"
    assert (tmp_path / "out/train-000000.tar").read_bytes() == mine


def test_plan_says_what_decides_the_bytes_and_no_more(unfinished: Path, tmp_path: Path) -> None:
    plan = json.loads((unfinished / ".conversion/plan.json").read_text())["plan"]
    assert plan.pop("source 1's files")
    assert plan == {
        "made by": "convert",
        "release": RELEASE,
        "--task": "detection",
        "--split": ["train", "val"],
        "--name": "voc2012",
        "--classes": [*VOC_CLASSES],
        "--boxes": "devkit",
        "--shard-size": SMALL,
        "--seed": 0,
        "--on-bad-record": "fail",
        "--resize": None,
        "--quality": None,
        "--reencoded": None,
        "--encoder": None,
        "source 1": "folder of 2012",
    }
    assert str(tmp_path) not in json.dumps(plan)


def test_full_disk_is_reported_before_anything_is_written(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil._ntuple_diskusage(1000, 900, 100)  # type: ignore[attr-defined]
    monkeypatch.setattr("shard_tool.dataset.disk_space.shutil.disk_usage", lambda _: full)
    with pytest.raises(StoreError, match=r"100 bytes free, the dataset needs about \d+ more"):
        converted(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failure_before_the_first_shard_leaves_the_folder_as_it_was(
    tree: Path, tmp_path: Path
) -> None:
    """Annotations fail before it is there, pictures while the first shard is written."""
    for folder, problem in (("JPEGImages", "not a picture"), ("Annotations", "not well-formed")):
        for path in (tree / folder).iterdir():
            path.write_text("<annotation>")
        with pytest.raises(DataError, match=problem):
            converted(tree, tmp_path / "out", **FIRST)
        assert not (tmp_path / "out").exists()


def test_manifest_of_a_resumed_run_counts_what_was_kept(
    tree: Path, unfinished: Path, tmp_path: Path
) -> None:
    converted(tree, tmp_path / "undisturbed", **FIRST)
    report = converted(tree, unfinished, on_existing="resume", **FIRST)
    assert report.num_kept_shards == 3
    assert manifest_of(unfinished) == manifest_of(tmp_path / "undisturbed")


def test_pool_ends_before_the_folder_is_given_up(tmp_path: Path) -> None:
    """Else tasks of a run that failed could meet those of the next one."""
    dest = Folder(str(tmp_path / "out"))
    held: list[bool] = []

    @contextmanager
    def noted_pool() -> Iterator[Any]:
        try:
            yield None
        finally:
            with suppress(ObjectBusy), hold_writer_lock(dest):
                held.append(False)
            held.append(True)

    with (
        pytest.raises(LookupError),
        publishing(
            dest,
            {},
            verb="convert",
            on_existing="fail",
            is_shard=lambda _: False,
            of_manifest=lambda _: {},
            pool=noted_pool(),
        ),
    ):
        raise LookupError
    assert held == [True]


def test_store_that_lists_no_uploads_does_not_keep_a_dataset_from_being_finished(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may put objects may not always list uploads."""

    def refused(folder: Folder, is_ours: Any) -> int:
        raise StoreError(str(folder), "access refused")

    monkeypatch.setattr(Folder, "abort_uploads", refused)
    converted(tree, tmp_path / "out")
    load_manifest(Folder(str(tmp_path / "out")))
    assert caplog.messages == [
        f"{tmp_path}/out: access refused; unfinished uploads may be left, which cost money"
    ]
