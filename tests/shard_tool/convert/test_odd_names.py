"""Names of pictures, lists and members that are odd, and the keys that come of them."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from typing import TYPE_CHECKING

import pytest

from shard_tool.convert.rules import Choices
from shard_tool.errors import DataError
from shard_tool.sources.files.archive import FileSpan
from shard_tool.sources.files.file_table import FileTableBuilder
from shard_tool.sources.keys import id_of
from tests.kit.datasets.converted import converted, manifest_of, samples_of
from tests.kit.datasets.voc_tree import jpeg, pictures, voc_tar, voc_tree, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[str | int | None, str, str]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return voc_tree(tmp_path / "in", pictures(3))


def failure(source: Path, tmp_path: Path) -> str:
    """The message of a conversion that must fail on a record and commit nothing."""
    with pytest.raises(DataError) as caught:
        converted(source, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
    return str(caught.value)


def only(tree: Path, id_: str) -> None:
    """Make 'train' a list of one picture."""
    write(tree / "ImageSets/Main/train.txt", f"{id_}\n".encode())


# Ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_", ["2008.000001", "..", "../x", "a/b", "a\\b", "\x7f"])
def test_id_without_a_picture_is_refused(tree: Path, tmp_path: Path, id_: str) -> None:
    only(tree, id_)
    problem = f"is missing: there is no such file (Main/train names {id_!r})"
    assert failure(tree, tmp_path) == f"{tree}/JPEGImages/{id_}.jpg: {problem}"


@pytest.mark.parametrize(
    ("id_", "key"),
    [("2008.000001", "2008%2E000001"), ("a/b", "a/b"), ("a\\b", "a%5Cb"), ("50%", "50%25")],
)
def test_id_of_any_characters_becomes_a_key(tree: Path, tmp_path: Path, id_: str, key: str) -> None:
    only(tree, id_)
    write(tree / f"JPEGImages/{id_}.jpg", jpeg((20, 10), 7))
    write(tree / f"Annotations/{id_}.xml", (tree / "Annotations/000001.xml").read_bytes())
    converted(tree, tmp_path / "out")
    samples = samples_of(tmp_path / "out", "train")
    assert [*samples] == [key]
    file = json.loads(samples[key]["json"]).get("file")
    assert file == (None if key == id_ else f"JPEGImages/{id_}.jpg")  # the key says it, or not


def test_id_that_is_too_long_for_a_key_is_refused(tree: Path, tmp_path: Path) -> None:
    only(tree, "a" * 245)
    problem = "cannot be a sample's key: 245 bytes (most: 244); rename the picture"
    assert failure(tree, tmp_path) == f"{tree}/JPEGImages/{'a' * 245}.jpg: {problem}"


def test_path_in_a_list_means_the_picture_at_its_end(tree: Path, tmp_path: Path) -> None:
    """Names of folders in front are those of another machine; they open nothing."""
    only(tree, "../../data/JPEGImages/000001.jpg")
    converted(tree, tmp_path / "out")
    assert [*samples_of(tmp_path / "out", "train")] == ["000001"]
    assert manifest_of(tmp_path / "out")["report"] == {
        "in-no-list": {"count": 2, "examples": ["JPEGImages/000002.jpg"]},
        "list-line-other": {"count": 1, "examples": ["ImageSets/Main/train.txt"]},
    }


# Names of files -------------------------------------------------------------------------------


def test_names_that_are_not_utf_8_become_keys_and_are_shown_by_their_bytes(
    tree: Path, tmp_path: Path, run_here: Run
) -> None:
    """A folder may hold such names (an archive is refused for them): no list can name them."""
    shutil.rmtree(tree / "ImageSets")
    for folder, suffix in (("JPEGImages", b".jpg"), ("Annotations", b".xml")):
        at = os.fsencode(tree / folder)
        os.rename(at + b"/000002" + suffix, at + b"/caf\xe9" + suffix)  # noqa: PTH104
    (tree / "Annotations/000003.xml").unlink()
    converted(tree, tmp_path / "out", choices=Choices(unlabelled="background"))
    samples = samples_of(tmp_path / "out", "train")
    assert sorted(samples) == ["000001", "000003", "caf%E9"]
    assert os.fsencode(id_of("caf%E9")) == b"caf\xe9"
    assert json.loads(samples["caf%E9"]["json"])["file"] == "JPEGImages/caf\\xe9.jpg"
    examples = manifest_of(tmp_path / "out")["report"]["name-encoded"]["examples"]
    assert examples == ["JPEGImages/caf\\xe9.jpg: caf%E9"]
    status, shown, _ = run_here("convert", tree, tmp_path / "dry", "--dry-run")
    assert status == 0
    assert f"{tree}/JPEGImages/caf\\xe9.jpg: caf%E9" in shown


@pytest.mark.parametrize("name", ["Icon\r", "notes\x07", "a." + "b" * 70_000, "\udce9.txt.bak"])
def test_odd_name_of_a_member_that_nobody_reads_is_no_reason_to_refuse(
    tree: Path, tmp_path: Path, name: str
) -> None:
    archive = voc_tar(tmp_path / "voc.tar", tmp_path / "in")
    member = tarfile.TarInfo(f"VOCdevkit/{name}")
    with tarfile.open(archive, "a", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO())
    converted(archive, tmp_path / "out")
    assert len(samples_of(tmp_path / "out", "train")) == 3


def test_suffixes_of_absurd_length_are_not_kept() -> None:
    builder = FileTableBuilder()
    for number in range(3):
        builder.add(FileSpan(f"a.{number}{'b' * 1000}", 0, 0))
    assert builder.table().other_suffixes == {"": 3}
