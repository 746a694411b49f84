"""The promises a conversion makes: same bytes, all or nothing, plain WebDataset."""

from __future__ import annotations

import os
import shutil
import signal
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool import ConvertOptions, convert
from shard_tool.dataset.verify import verify
from shard_tool.errors import DataError, ObjectExists, ObjectMissing, StoreError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.converted import converted, files_of, manifest_of, samples_of, shards_of
from tests.kit.datasets.tars import webdataset_samples
from tests.kit.datasets.voc_tree import Picture, pictures, voc_tar, voc_tree
from tests.kit.processes.shard_tool_process import eventually, group_is_gone, stuck_conversion

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = 2500  # bytes: a picture or two a shard


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return voc_tree(tmp_path / "in", [*pictures(5), *pictures(2, split="val", first=6)])


# 1: same bytes --------------------------------------------------------------------------------


def test_promise_1_same_bytes_for_any_number_of_workers_and_every_time(
    mini_archive: Path, tmp_path: Path
) -> None:
    made = []
    for number, workers in enumerate((1, 1, 2, 3)):
        dest = tmp_path / f"{number}"
        converted(mini_archive, dest, workers=workers, shard_bytes=150_000)
        made.append(files_of(dest))
    assert made[0] == made[1] == made[2] == made[3]
    assert len(shards_of(tmp_path / "0")) >= 20


def test_promise_1_same_shards_from_a_tree_and_from_its_tar(tmp_path: Path, tree: Path) -> None:
    """Only the manifest's `sources` tells whether the source was a tar or a folder."""
    converted(tree, tmp_path / "a", shard_bytes=SMALL)
    archive = voc_tar(tmp_path / "voc.tar", tmp_path / "in")
    converted(archive, tmp_path / "b", shard_bytes=SMALL)
    assert shards_of(tmp_path / "a") == shards_of(tmp_path / "b")
    first, second = manifest_of(tmp_path / "a"), manifest_of(tmp_path / "b")
    assert first.pop("sources")[0]["kind"] == "folder"
    assert second.pop("sources")[0]["kind"] == "archive"
    assert first.pop("sha256") != second.pop("sha256")  # of the rest, sources included
    assert first == second


def test_promise_1_a_moved_and_touched_tree_gives_the_same_bytes(
    tmp_path: Path, tree: Path
) -> None:
    converted(tree, tmp_path / "a", shard_bytes=SMALL)
    copy = tmp_path / "elsewhere/VOCdevkit/VOC2012"
    copy.mkdir(parents=True)
    for file in sorted(tree.rglob("*"), reverse=True):  # another order of directory entries
        if file.is_file():
            (copy / file.relative_to(tree)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy / file.relative_to(tree))  # without its time
    converted(copy, tmp_path / "b", shard_bytes=SMALL)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_folder_source_is_known_by_the_content_it_gave(tmp_path: Path, tree: Path) -> None:
    def source(seed: int = 0) -> dict[str, Any]:
        converted(tree, tmp_path / "a", on_existing="overwrite", seed=seed)
        found: dict[str, Any] = manifest_of(tmp_path / "a")["sources"][0]
        return found

    before = source()
    assert (before["kind"], before["year"], before["num_files"]) == ("folder", "2012", 2 * 7 + 2)
    (tree / "notes.txt").write_text("not ours")
    assert source() == before
    assert source(seed=1) == before  # whatever the order of its samples
    picture = tree / "JPEGImages/000001.jpg"
    picture.write_bytes(picture.read_bytes() + b"x")
    assert source()["sha256"] != before["sha256"]


# 2: all or nothing ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_promise_2_killed_conversion_is_no_dataset_and_is_made_whole_by_another(
    mini_archive: Path, tmp_path: Path, workers: int
) -> None:
    dest = tmp_path / "out"
    with stuck_conversion(mini_archive, dest, shard_bytes=150_000, workers=workers) as process:
        os.kill(process.pid, signal.SIGKILL)
        assert eventually(lambda: group_is_gone(process)), "its workers are still alive"
    shards = len(list(dest.glob("*.tar")))
    assert shards >= 1
    with pytest.raises(ObjectMissing) as missing:
        load_manifest(Folder(str(dest)))
    problem = f"conversion not finished ({shards} shards, no manifest.json); convert again"
    assert str(missing.value) == f"{dest}: {problem}"
    with pytest.raises(ObjectExists) as exists:
        converted(mini_archive, dest, shard_bytes=150_000)
    assert str(exists.value) == (
        f"{dest}: holds {shards} shards of a conversion that did not finish; "
        "use --on-existing resume to continue, or --on-existing overwrite to start again"
    )
    shutil.copytree(dest, tmp_path / "copy")
    converted(mini_archive, dest, shard_bytes=150_000, on_existing="overwrite")
    converted(mini_archive, tmp_path / "copy", shard_bytes=150_000, on_existing="resume")
    converted(mini_archive, tmp_path / "undisturbed", shard_bytes=150_000)
    assert files_of(dest) == files_of(tmp_path / "undisturbed") == files_of(tmp_path / "copy")


def test_promise_2_killed_overwriting_leaves_nothing_of_the_old_dataset(
    mini_dataset: Path, tree: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    shutil.copytree(mini_dataset, dest)
    with stuck_conversion(tree, dest, shard_bytes=SMALL, on_existing="overwrite") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    with pytest.raises(ObjectMissing, match="conversion not finished"):
        load_manifest(Folder(str(dest)))
    converted(tree, tmp_path / "new", shard_bytes=SMALL)
    new = shards_of(tmp_path / "new")
    left = {name: content for name, content in shards_of(dest).items() if ".partial-" not in name}
    assert left.items() <= new.items()


class OutageError(StoreError):
    """The injected fault."""


class Store:
    """Counts operations on folders and fails one of them, before or after its effect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deeds: list[str] = []
        self.fail_at, self.when = -1, ""
        monkeypatch.setattr(Folder, "publish", self._wrapped_publish(Folder.publish))
        for name in ("remove", "remove_all"):
            monkeypatch.setattr(Folder, name, self._wrapped_remove(name, getattr(Folder, name)))

    def plan(self, fail_at: int, when: str) -> None:
        self.deeds, self.fail_at, self.when = [], fail_at, when

    def _at(self, deed: int, when: str) -> None:
        if deed == self.fail_at and when == self.when:
            self.fail_at = -2  # from here on everything fails, as behind a cut network
        if self.fail_at == -2:
            raise OutageError("store", "is down")

    def _begun(self, what: str) -> int:
        self.deeds.append(what)
        return len(self.deeds) - 1

    def _wrapped_publish(self, publish: Any) -> Any:
        @contextmanager
        def wrapped(folder: Folder, name: str, **options: Any) -> Iterator[Any]:
            deed = self._begun(f"publish {name}")
            with publish(folder, name, **options) as file:
                yield file
                self._at(deed, "before")
            self._at(deed, "after")

        return wrapped

    def _wrapped_remove(self, deed_name: str, remove: Any) -> Any:
        def wrapped(folder: Folder, which: Any) -> None:
            which = which if deed_name == "remove" else sorted(which)
            deed = self._begun(f"{deed_name} {which}")
            self._at(deed, "before")
            remove(folder, which)
            self._at(deed, "after")

        return wrapped


def test_promise_2_manifest_goes_first_and_comes_last(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the plan lists what to delete, then the manifest goes; the new one comes last."""
    converted(tree, tmp_path / "out", shard_bytes=SMALL)
    store = Store(monkeypatch)
    converted(tree, tmp_path / "out", shard_bytes=SMALL, on_existing="overwrite")
    deeds = [deed.replace(".conversion/", "") for deed in store.deeds]
    assert deeds[:2] == ["publish plan.json", "remove manifest.json"]
    published = [deed for deed in deeds if deed.startswith("publish") and "plan.json" not in deed]
    assert published[-1] == "publish manifest.json"
    shards = [deed for deed in published if deed.endswith((".tar", ".tar.idx", ".tar.json"))]
    names = [deed.removeprefix("publish ") for deed in shards if deed.endswith(".tar")]
    assert shards == [f"publish {name}{end}" for name in names for end in ("", ".idx", ".json")]
    after = deeds[deeds.index("publish manifest.json") + 1 :]
    assert all(deed.startswith("remove") and "manifest" not in deed for deed in after)
    assert after[-1] == "remove plan.json"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_promise_2_readers_see_the_old_the_new_or_no_dataset_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """After any failure the same command with `resume` ends with the bytes of a clean run."""
    old_tree = voc_tree(
        tmp_path / "in1", [*pictures(2), *pictures(1, split="val", first=3)], year="2011"
    )
    new_tree = voc_tree(tmp_path / "in2", pictures(3, first=2), year="2012")
    converted(old_tree, tmp_path / "old", shard_bytes=SMALL)
    converted(new_tree, tmp_path / "new", shard_bytes=SMALL)
    new = files_of(tmp_path / "new")
    store = Store(monkeypatch)
    shutil.copytree(tmp_path / "old", tmp_path / "count")
    converted(new_tree, tmp_path / "count", shard_bytes=SMALL, on_existing="overwrite")
    num_deeds = len(store.deeds)
    assert num_deeds > 15
    seen, refused = [], []
    for number in range(num_deeds):
        dest = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "old", dest)
        store.plan(number, when)
        with pytest.raises(OutageError):
            converted(new_tree, dest, shard_bytes=SMALL, on_existing="overwrite")
        store.plan(-1, "")
        is_there = (dest / "manifest.json").exists()
        seen.append(manifest_of(dest)["name"] if is_there else "")
        if is_there:
            assert verify(Folder(str(dest)), workers=1).problems == ()
        try:
            converted(new_tree, dest, shard_bytes=SMALL, on_existing="resume")
        except ObjectExists:
            refused.append(number)  # nothing had been begun: the old dataset is whole
            assert files_of(dest) == files_of(tmp_path / "old")
        else:
            assert files_of(dest) == new
    assert refused == ([0] if when == "before" else [])
    changes = [name for name, before in zip(seen, [None, *seen], strict=False) if name != before]
    assert changes == ["voc2011", "", "voc2012"]


@pytest.mark.parametrize("workers", [1, 2])
def test_failed_conversion_leaves_whole_shards_and_no_partial_file(
    tree: Path, tmp_path: Path, workers: int
) -> None:
    (tree / "JPEGImages/000007.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(DataError, match=r"000007\.jpg: not a picture"):
        converted(tree, tmp_path / "out", shard_bytes=SMALL, workers=workers)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not {name for name in names if ".partial-" in name}
    assert "manifest.json" not in names
    assert {f"{name}.idx" for name in names if name.endswith(".tar")} <= names


@pytest.mark.parametrize("workers", [1, 2])
def test_annotation_that_cannot_be_read_fails_before_anything_is_written(
    tree: Path, tmp_path: Path, workers: int
) -> None:
    (tree / "Annotations/000007.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"000007\.xml: not well-formed XML"):
        converted(tree, tmp_path / "out", shard_bytes=SMALL, workers=workers)
    assert not (tmp_path / "out").exists()


def test_existing_dataset_stays_where_the_source_turns_out_unusable(
    mini_dataset: Path, tree: Path, tmp_path: Path
) -> None:
    shutil.copytree(mini_dataset, tmp_path / "out")
    (tree / "ImageSets/Main/train.txt").write_text("")
    (tree / "ImageSets/Main/val.txt").unlink()
    with pytest.raises(Exception, match="names a picture"):
        converted(tree, tmp_path / "out", on_existing="overwrite")
    assert files_of(tmp_path / "out") == files_of(mini_dataset)


def test_published_files_are_readable_as_the_umask_says(tree: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        converted(tree, tmp_path / "out")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


# 3: plain WebDataset --------------------------------------------------------------------------


def test_promise_3_tarfile_and_webdataset_read_masks_and_all(mini_masks: Path) -> None:
    found = {
        key: parts
        for path in sorted(mini_masks.glob("*.tar"))
        for key, parts in webdataset_samples(path.read_bytes())
    }
    assert found == samples_of(mini_masks, "train") | samples_of(mini_masks, "val")
    assert all(
        sorted(parts) == ["class.png", "jpg", "json", "object.png"] for parts in found.values()
    )


def test_promise_3_members_are_plain_files_in_order_of_keys_extensions(mini_masks: Path) -> None:
    for path in mini_masks.glob("*.tar"):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        assert all(member.isreg() and not member.pax_headers for member in members)
        keys = [member.name.partition(".")[0] for member in members]
        assert [member.name for member in members] == [
            f"{key}.{extension}"
            for key in dict.fromkeys(keys)
            for extension in ("class.png", "jpg", "json", "object.png")
        ]


def test_key_of_other_letters_is_kept(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", [Picture(key="\u732b-1_@"), Picture(key="k" * 80)])
    convert(ConvertOptions(source=str(tree), dest=str(tmp_path / "out"), workers=1))
    assert set(samples_of(tmp_path / "out", "train")) == {"\u732b-1_@", "k" * 80}
