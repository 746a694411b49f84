"""Missing, unfinished and damaged datasets are refused with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from datamodules import ShardDataset, ShardLoader
from shard_tool.errors import ObjectMissing, ShardError
from tests.kit.datasets.opened import dataset

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"  # the machine has 2 cores, a test 3 workers
)


def test_a_folder_without_manifest_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing) as error:
        ShardDataset(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: no dataset here (no manifest.json); "
        "make a dataset with `shard-tool convert SOURCE DEST`"
    )


def test_an_unfinished_conversion_is_no_dataset(mini_dataset: Path, tmp_path: Path) -> None:
    for path in sorted(mini_dataset.glob("*.tar"))[:2]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ObjectMissing, match=r"conversion not finished \(2 shards, no manifest"):
        ShardDataset(str(tmp_path))


@pytest.fixture
def copied(mini_dataset: Path, tmp_path: Path) -> Path:
    for path in mini_dataset.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_short_shard_is_refused_with_both_lengths(copied: Path) -> None:
    shard = copied / "train-000001.tar"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(ShardError) as error:
        list(ShardDataset(str(copied)))
    assert str(error.value) == (
        f"{shard}: {size - 512} bytes, the manifest says {size}; "
        "copy it again, or find all such shards with `shard-tool verify`"
    )


def test_check_crc_finds_a_flipped_bit(copied: Path) -> None:
    shard = copied / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r"train-000000.tar: sample \d+: its bytes do not have"):
        list(ShardDataset(str(copied), check_crc=True, decode=False))


@pytest.mark.slow
def test_a_shard_truncated_while_mapped_is_reported_as_changed(copied: Path) -> None:
    """SIGBUS kills the worker; torch alone would blame shared memory."""
    data = dataset(copied, shuffle=False, transform=None)
    loader = ShardLoader(data, num_workers=1, prefetch_factor=1, drop_last=True)
    batches = iter(loader)
    next(batches)
    for shard in copied.glob("*.tar"):
        with shard.open("r+b") as file:
            file.truncate(0)
    with pytest.raises(ShardError, match="a shard changed while mapped"):
        list(batches)


def test_an_index_of_another_shard_is_refused(copied: Path) -> None:
    other = (copied / "train-000001.tar.idx").read_bytes()
    (copied / "train-000000.tar.idx").write_bytes(other)
    with pytest.raises(ShardError, match="is not the index the manifest describes"):
        list(ShardDataset(str(copied)))


def test_a_missing_index_is_rebuilt_from_the_shard(copied: Path, mini_dataset: Path) -> None:
    for path in copied.glob("*.idx"):
        path.unlink()
    pairs = zip(
        ShardDataset(str(copied), decode=False),
        ShardDataset(str(mini_dataset), decode=False),
        strict=True,
    )
    assert all(a["jpg"] == b["jpg"] for a, b in pairs)
