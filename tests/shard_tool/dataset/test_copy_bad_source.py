"""A copy of an altered or missing source fails and names the object."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shard_tool.dataset import copy_task
from shard_tool.errors import ObjectMissing, ShardToolError, StoreError
from tests.kit.datasets.converted import files_of, manifest_of
from tests.kit.datasets.copies import NAMES, assert_no_dataset, copied, spoil

if TYPE_CHECKING:
    from collections.abc import Callable


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


def test_unreadable_source_is_not_reported_as_an_unwritable_destination(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder stands for a file that cannot be opened because its disk fails."""
    monkeypatch.setattr(copy_task, "_check_size", lambda *_: None)
    (mine / NAMES[0]).unlink()
    (mine / NAMES[0]).mkdir()
    with pytest.raises(StoreError) as caught:
        copied(mine, tmp_path / "copy")
    assert str(caught.value) == f"{mine}/{NAMES[0]}: cannot be read: Is a directory"


def test_source_without_a_finished_dataset_is_refused(tmp_path: Path, mine: Path) -> None:
    with pytest.raises(ObjectMissing, match="no dataset here"):
        copied(tmp_path / "nowhere", tmp_path / "copy")
    (mine / "manifest.json").unlink()
    with pytest.raises(ObjectMissing, match="conversion not finished"):
        copied(mine, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
