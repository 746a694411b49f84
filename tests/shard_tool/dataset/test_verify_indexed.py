"""`verify` finds damage in tars and indexes of an indexed dataset."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from shard_tool.dataset.verify import verify
from shard_tool.storage.location import Folder
from tests.kit.datasets.converted import reworded
from tests.kit.datasets.foreign_tars import adopted, entries_of

if TYPE_CHECKING:
    from pathlib import Path


def test_verify_finds_changed_and_missing_tars(shards: list[Path], tmp_path: Path) -> None:
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


def test_verify_finds_swapped_and_missing_indexes(shards: list[Path], tmp_path: Path) -> None:
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
