"""Several datasets read as one: one order over all their shards, local or remote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from datamodules import ShardDataset, ShardLoader, World
from datamodules.order.canonical import CanonicalOrder
from shard_tool.errors import OptionError, ResumeError
from tests.kit.datasets.converted import manifest_of, reworded
from tests.kit.datasets.stored import hashes_of, hashes_read, stored
from tests.kit.models.recorder import sample_digests
from tests.kit.servers.s3 import upload
from tests.kit.simulate import assert_resumes_everywhere

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.servers.s3 import S3

A = {"train": [3, 5, 2], "val": [4]}
"""14 samples."""
B = {"train": [4, 1, 6], "val": [2, 2], "test": [3]}
"""18 samples."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two datasets. Read only."""
    root = tmp_path_factory.mktemp("roots")
    return stored(root / "a", A, name="a"), stored(root / "b", B, name="b")


def ids_of(data: ShardDataset) -> list[int]:
    return [int(target["image_id"]) for _, target in data]


def keys_of(data: ShardDataset) -> list[str]:
    return [target["key"] for _, target in data]


def roots_of(folders: tuple[Path, Path]) -> list[str]:
    return [str(folder) for folder in folders]


# One order -----------------------------------------------------------------------------------


def test_promise_5_one_order_runs_over_the_shards_of_all_roots(folders: tuple[Path, Path]) -> None:
    data = ShardDataset(roots_of(folders), seed=3, window=2)
    lengths = np.array(A["train"] + B["train"], np.int64)
    order = CanonicalOrder(lengths, seed=3, lanes=1, window=2)
    first_ids = np.array([0, 3, 8, 14, 18, 19])  # 14: after all splits of the first root
    for epoch in range(3):
        data.set_epoch(epoch)
        shards, rows = order.epoch(epoch).locate(np.arange(order.num_samples))
        assert ids_of(data) == (first_ids[shards] + rows).tolist()
    mixed = "".join(key[0] for key in keys_of(data))
    assert len(mixed) == 21
    assert "ab" in mixed
    assert "ba" in mixed


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("train", [*range(10), *range(14, 25)]),
        ("val", [*range(10, 14), *range(25, 29)]),
        ("trainval", [*range(29)]),
        (["train", "val"], [*range(29)]),
        (["val", "train"], [*range(29)]),
        ("test", [29, 30, 31]),
        (["val", "test"], [*range(10, 14), *range(25, 32)]),
    ],
)
def test_ids_count_on_after_all_samples_of_the_roots_before(
    folders: tuple[Path, Path], split: Any, ids: list[int]
) -> None:
    """For any choice of splits; a root without such a split adds no samples."""
    data = ShardDataset(roots_of(folders), split, shuffle=False)
    assert ids_of(data) == ids
    assert sorted(ids_of(ShardDataset(roots_of(folders), split))) == ids
    assert data.num_samples == len(data) == len(ids)


def test_trainval_means_train_and_val_of_each_root_that_has_no_split_of_that_name(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    third = stored(tmp_path / "c", {"trainval": [3], "train": [2], "test": [1]}, name="c")
    data = ShardDataset([str(third), *roots_of(folders)], "trainval", shuffle=False)
    assert ids_of(data) == [0, 1, 2, *range(6, 20), *range(20, 35)]
    with_train = ShardDataset([str(third), str(folders[0])], ["trainval", "train"], shuffle=False)
    assert ids_of(with_train) == [*range(5), *range(6, 20)]


def test_every_sample_is_found_by_its_id(folders: tuple[Path, Path]) -> None:
    data = ShardDataset(roots_of(folders), ["train", "val", "test"], shuffle=False)
    keys = keys_of(data)
    assert [data.read(i)[1]["key"] for i in range(32)] == keys
    assert [key[0] for key in keys] == ["a"] * 14 + ["b"] * 18
    train = ShardDataset(roots_of(folders), "train")
    assert train.read(14)[1]["key"] == "b-train-000-0000"
    with pytest.raises(OptionError) as caught:
        train.read(10)
    assert str(caught.value) == "sample 10: is not in the chosen splits"


def test_a_split_that_no_root_has_is_an_option_error(folders: tuple[Path, Path]) -> None:
    with pytest.raises(OptionError) as caught:
        ShardDataset(roots_of(folders), "minival")
    places = ", ".join(roots_of(folders))
    assert str(caught.value) == f"{places}: has no split 'minival', only test, train, val"


def test_a_root_may_be_given_twice(folders: tuple[Path, Path]) -> None:
    data = ShardDataset([str(folders[0])] * 2, shuffle=False)
    assert ids_of(data) == [*range(10), *range(14, 24)]
    assert keys_of(data)[:10] == keys_of(data)[10:]


def test_roots_made_for_other_tasks_need_a_task(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = stored(tmp_path / "other", A, name="other")
    reworded(other, lambda document: document | {"task": "layout"})
    roots = [str(folders[0]), str(other)]
    with pytest.raises(OptionError) as caught:
        ShardDataset(roots)
    problem = f"{other}: made for task 'layout', {folders[0]} for 'detection'"
    assert str(caught.value) == f"{problem}; give task 'detection', which both serve"
    assert ShardDataset(roots, task="detection").task == "detection"


def test_an_empty_list_of_roots_is_an_option_error() -> None:
    with pytest.raises(OptionError) as caught:
        ShardDataset([])
    assert str(caught.value) == "roots: there is no dataset in the list"


# Local, remote, mixed ------------------------------------------------------------------------


@pytest.fixture
def urls(folders: tuple[Path, Path], s3: S3, bucket: str) -> list[str]:
    """The datasets in a bucket."""
    for folder in folders:
        upload(folder, s3, f"{bucket}/{folder.name}")
    return [f"{bucket}/{folder.name}" for folder in folders]


def placed(folders: tuple[Path, Path], urls: list[str], where: str) -> list[str]:
    """Each root 'l'ocal or in 's'3."""
    local = roots_of(folders)
    return [local[i] if letter == "l" else urls[i] for i, letter in enumerate(where)]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ls", "sl", "ss"])
def test_local_and_remote_roots_give_the_same_samples(
    folders: tuple[Path, Path], urls: list[str], s3: S3, tmp_path: Path, where: str
) -> None:
    """Neither do storage options that are meant for one of them."""
    expected = {**hashes_of(folders[0], "train"), **hashes_of(folders[1], "train")}
    local = ShardDataset(roots_of(folders), decode=False, window=2)
    data = ShardDataset(
        placed(folders, urls, where),
        decode=False,
        window=2,
        cache_dir=str(tmp_path / "cache"),
        storage_options=s3.storage_options,
    )
    assert data.fingerprint == local.fingerprint
    for epoch in range(3):
        local.set_epoch(epoch)
        data.set_epoch(epoch)
        found = hashes_read(data)
        assert found == hashes_read(local)
        assert dict(found) == expected
    digests = {
        shard["sha256"]
        for folder, letter in zip(folders, where, strict=True)
        for shard in manifest_of(folder)["splits"]["train"]["shards"]
        if letter == "s"
    }
    cached = {path.stem for path in (tmp_path / "cache").rglob("*.tar")}
    assert cached <= digests, "local shards are never copied"


def parts(batch: Any) -> Any:
    return zip(batch.sample_ids.tolist(), sample_digests(batch), strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ll", "ls", "ss"])
def test_promise_6_resume_at_every_position_of_several_roots(
    folders: tuple[Path, Path], urls: list[str], s3: S3, tmp_path: Path, where: str
) -> None:
    """Stopped after every sample, with the samples in one place; resumed with them in another."""

    def loader(roots: list[str], batch_size: int) -> ShardLoader:
        data = ShardDataset(
            roots,
            seed=1,
            window=2,
            cache_dir=str(tmp_path / "cache"),
            storage_options=s3.storage_options,
        )
        return ShardLoader(data, batch_size=batch_size)

    assert_resumes_everywhere(
        lambda: loader(placed(folders, urls, where), 1),
        elsewhere=lambda: loader(roots_of(folders), 4),
        parts=parts,
    )
    assert_resumes_everywhere(lambda: loader(placed(folders, urls, where), 4), parts=parts)


@pytest.mark.slow
def test_promise_5_ranks_of_two_nodes_share_the_samples_of_several_roots(
    folders: tuple[Path, Path], urls: list[str], s3: S3, tmp_path: Path
) -> None:
    roots = placed(folders, urls, "ls")
    data = ShardDataset(roots_of(folders), lanes=2, window=2)
    whole = ShardLoader(data, batch_size=4, drop_last=True)
    expected = [sorted(parts(batch)) for batch in whole]
    shares = []
    for rank in range(4):
        world = World(rank=rank, world_size=4, node=rank // 2, num_nodes=2)
        data = ShardDataset(
            roots,
            lanes=2,
            window=2,
            world=world,
            cache_dir=str(tmp_path / f"node{world.node}"),
            storage_options=s3.storage_options,
        )
        loader = ShardLoader(data, batch_size=1, drop_last=True)
        shares.append([list(parts(batch)) for batch in loader])
    together = [
        sorted(part for share in step for part in share) for step in zip(*shares, strict=True)
    ]
    assert together == expected


def test_a_state_belongs_to_one_order_of_roots(
    folders: tuple[Path, Path],
) -> None:
    state = ShardLoader(ShardDataset(roots_of(folders)), batch_size=4).state_dict()
    other = ShardLoader(ShardDataset(roots_of(folders)[::-1]), batch_size=4)
    with pytest.raises(ResumeError, match="saved with fingerprint"):
        other.load_state_dict(state)
