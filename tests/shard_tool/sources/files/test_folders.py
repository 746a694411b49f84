"""All files below a folder are found, through links, and only those that people put there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import SourceError
from shard_tool.sources.files.archive import FileSpan, SourceFiles, scan_tree

if TYPE_CHECKING:
    from pathlib import Path


def filled(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def found(root: Path) -> dict[str, int]:
    """Path below `root` to size in bytes."""
    spans = list[FileSpan]()
    scan_tree(root, spans.append)
    names = [span.name for span in spans]
    assert len({*names}) == len(names)
    assert all((span.offset, span.crc, span.packed) == (0, None, None) for span in spans)
    return {span.name: span.size for span in spans}


def test_all_files_are_found_by_their_path_and_read_by_it(tmp_path: Path) -> None:
    names = {"a.xml", "train/a b.jpg", "train/deep/er/c.d.JPG", "valid/gr\u00fcn/\u732b.png"}
    root = filled(tmp_path / "in", *names)
    (root / "empty").mkdir()
    assert found(root) == {name: len(name.encode()) for name in names}
    source = SourceFiles(str(root), "", is_archive=False)
    spans = list[FileSpan]()
    scan_tree(root, spans.append)
    assert {source.read(span).decode() for span in spans} == names
    assert source.is_local
    assert not source.is_here_only


def test_a_name_that_is_not_utf_8_keeps_its_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfcn/\xff.jpg")
    assert found(filled(tmp_path / "in", name)) == {name: 10}


def test_hidden_files_and_clutter_are_noted_for_the_caller_to_count(tmp_path: Path) -> None:
    clutter = [".DS_Store", ".git/HEAD", "__MACOSX/a.jpg", "a/._b.jpg", "a/Thumbs.db", ".x/y/z"]
    its = found(filled(tmp_path / ".hidden/in", "a/b.jpg", *clutter))
    assert sorted(its) == sorted([*clutter, "a/b.jpg"])


def test_links_are_followed_but_for_loops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = filled(tmp_path / "in", "a/1.jpg")
    filled(tmp_path / "else", "2.jpg", "3.jpg")
    (root / "2.jpg").symlink_to("../else/2.jpg")
    (root / "linked").symlink_to("../else")
    (root / "again").symlink_to("../else")
    (root / "a/loop").symlink_to("..")
    (root / "a/self").symlink_to(".")
    expected = {"a/1.jpg", "2.jpg", *(f"{d}/{n}.jpg" for d in ("linked", "again") for n in (2, 3))}
    assert {*found(root)} == expected
    assert not caplog.messages
    (root / "a/none").symlink_to("nowhere")
    (root / "a/me").symlink_to("me")
    assert {*found(root)} == expected
    assert caplog.messages == [f"{root}: 2 links lead nowhere, such as a/me"]


def test_pipes_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(filled(tmp_path / "in", "a.jpg") / "pipe")
    assert [*found(tmp_path / "in")] == ["a.jpg"]


def test_a_root_that_is_a_link_is_followed(tmp_path: Path) -> None:
    filled(tmp_path / "in", "a.jpg")
    (tmp_path / "link").symlink_to("in")
    assert [*found(tmp_path / "link")] == ["a.jpg"]


def test_deep_folders_are_read(tmp_path: Path) -> None:
    name = "/".join(["d"] * 400) + "/a.jpg"
    assert [*found(filled(tmp_path / "in", name))] == [name]


def test_the_stamp_changes_with_names_and_times_alone(tmp_path: Path) -> None:
    root = filled(tmp_path / "in", "a/1.jpg", "b/2.jpg")
    stamps = [scan_tree(root, lambda _: None)]
    os.utime(root / "a/1.jpg", ns=(5, 10**18))
    stamps.append(scan_tree(root, lambda _: None))
    (root / "b/2.jpg").rename(root / "a/2.jpg")
    stamps.append(scan_tree(root, lambda _: None))
    filled(root, ".DS_Store")
    (root / "empty").mkdir()
    assert scan_tree(root, lambda _: None) == stamps[-1]
    assert len({*stamps}) == 3


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is injected, since root may read everything."""
    root, real = filled(tmp_path / "in", "a/b/1.jpg"), os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError) as caught:
        found(root)
    assert str(caught.value) == f"{root}/a/b: cannot be read: Permission denied"


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="in: cannot be read: No such file or directory"):
        found(tmp_path / "in")
