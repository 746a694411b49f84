"""Indexed tars stream with every promise: one order, exactly once, resumed anywhere, verified."""

from __future__ import annotations

import random
import shutil
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import ShardDataset, ShardLoader, VOCDataModule, World
from datamodules.loading import dataset
from datamodules.presets import detection_train
from shard_tool.errors import ObjectMissing, OptionError, SampleError, ShardError
from tests.kit.datasets.converted import files_of
from tests.kit.datasets.foreign_tars import (
    adopted,
    by_gnu_tar,
    read_by_webdataset,
    records_of,
    shards_of_others,
)
from tests.kit.models.recorder import digest, trainer
from tests.kit.servers.fault_proxy import Fault, fault_proxy
from tests.kit.servers.s3 import make_bucket, objects, put, upload
from tests.kit.servers.web_server import web_server
from tests.kit.simulate import assert_resumes_everywhere

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.kit.servers.s3 import S3

LENGTHS = [7, 1, 9, 4]
TOTAL = sum(LENGTHS) + 2
Plain = list[tuple[str, dict[str, bytes]]]

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # 2 cores
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),  # on purpose
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # other callbacks
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tars of several writers. Read only."""
    folder = tmp_path_factory.mktemp("adopted") / "shards"
    found = shards_of_others(folder, LENGTHS)
    files = {"d/": b"", f"{'deep/' * 60}a.b.JPG": b"j" * 900, "d/c.txt": b"t", "README": b"-"}
    return [*found, by_gnu_tar(folder / "zz.tar", files)]


@pytest.fixture(scope="module")
def root(shards: list[Path]) -> Path:
    """They adopted. Read only."""
    dest = shards[0].parent.parent / "out"
    adopted(shards, dest)
    return dest


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_SMALL_CHUNK", 4)  # so that later windows are waited for


def data(root: object, **options: Any) -> ShardDataset:
    return ShardDataset(str(root), **{"seed": 5, "window": 2, **options})


def plain(samples: Iterable[dict[str, Any]]) -> Plain:
    """(key, members) of webdataset's kind of sample."""
    return [
        (sample["__key__"], {n: content for n, content in sample.items() if n[:2] != "__"})
        for sample in samples
    ]


def keys(batches: Iterable[Any]) -> list[str]:
    return [sample["__key__"] for batch in batches for sample in batch]


# Local ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"check_crc": True}, {"decode": False}])
def test_promise_3_samples_are_those_webdataset_reads_from_the_same_tars(
    root: Path, shards: list[Path], options: dict[str, Any]
) -> None:
    found = list(data(root, shuffle=False, **options))
    assert plain(found) == read_by_webdataset(shards)
    assert {sample["__url__"] for sample in found} == {str(path) for path in shards}
    assert all(
        type(content) is bytes for _, members in plain(found) for content in members.values()
    )
    assert len(data(root)) == data(root).num_samples == TOTAL


def test_a_sample_is_read_by_its_id(root: Path, shards: list[Path]) -> None:
    expected = read_by_webdataset(shards)
    found = data(root)
    assert plain([found.read(sample_id) for sample_id in range(TOTAL)]) == expected


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_promise_5_workers_change_neither_order_nor_samples(root: Path, num_workers: int) -> None:
    expected = [list(ShardLoader(data(root), batch_size=3)) for _ in range(1)]
    assert sorted(keys(expected[0])) == sorted(key for key, _ in plain(data(root, decode=False)))
    loader = ShardLoader(
        data(root), batch_size=3, num_workers=num_workers, persistent_workers=num_workers > 0
    )
    first, second = list(loader), list(loader)
    assert first == expected[0]
    assert sorted(keys(second)) == sorted(keys(first))
    assert keys(second) != keys(first)
    assert len(first) == len(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_promise_6_resume_after_every_batch_gives_the_same_tail(
    root: Path, num_workers: int
) -> None:
    def make() -> ShardLoader:
        return ShardLoader(data(root), batch_size=4, num_workers=num_workers)

    def elsewhere() -> ShardLoader:
        return ShardLoader(data(root), batch_size=3)

    assert_resumes_everywhere(make)
    assert_resumes_everywhere(make, elsewhere=elsewhere, parts=lambda batch: batch)


@pytest.mark.parametrize("num_nodes", [1, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_promise_4_ranks_take_equal_steps_and_every_sample_once(
    root: Path, num_nodes: int, drop_last: bool
) -> None:
    batches = []
    for rank in range(2):
        world = World(rank=rank, world_size=2, node=rank * (num_nodes - 1), num_nodes=num_nodes)
        loader = ShardLoader(data(root, world=world), batch_size=3, drop_last=drop_last)
        batches.append(list(loader))
    assert len(batches[0]) == len(batches[1])
    both = keys(batches[0]) + keys(batches[1])
    assert len(both) == len(set(both)) == (TOTAL // 6 * 6 if drop_last else TOTAL)


def test_an_evaluation_loader_counts_every_sample_once(root: Path, shards: list[Path]) -> None:
    loader = ShardLoader(data(root, shuffle=False), batch_size=5, num_workers=2)
    for _ in range(2):
        assert plain(s for batch in loader for s in batch) == read_by_webdataset(shards)


def test_a_moved_dataset_finds_its_tars(shards: list[Path], tmp_path: Path) -> None:
    shutil.copytree(shards[0].parent, tmp_path / "a/shards")
    adopted([tmp_path / "a/shards/*.tar"], tmp_path / "a/out")
    before = plain(data(tmp_path / "a/out"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert plain(data(tmp_path / "b/out")) == before
    (tmp_path / "link").symlink_to(tmp_path / "b/out")
    assert plain(data(tmp_path / "link")) == before


def test_an_adopted_and_another_root_are_one_order(root: Path, tmp_path: Path) -> None:
    adopted(shards_of_others(tmp_path / "more", [5]), tmp_path / "more")
    found = ShardDataset([str(root), str(tmp_path / "more")], shuffle=False)
    assert len(plain(found)) == TOTAL + 5
    assert plain(found)[TOTAL:] == [(k, dict(m)) for k, m in records_of("000", 5).items()]


def test_a_changed_or_missing_tar_is_an_error(shards: list[Path], tmp_path: Path) -> None:
    shutil.copytree(shards[0].parent, tmp_path / "shards")
    adopted([tmp_path / "shards/*.tar"], tmp_path / "out")
    tar = tmp_path / "shards/part-002.tar"
    content = bytearray(tar.read_bytes())
    content[content.index(b"002 3")] ^= 1
    tar.write_bytes(content)
    with pytest.raises(ShardError, match=r"part-002\.tar: sample 3: its bytes do not have the CRC"):
        list(data(tmp_path / "out", check_crc=True))
    tar.write_bytes(bytes(content) + bytes(512))
    with pytest.raises(ShardError, match=r"part-002\.tar: \d+ bytes, the manifest says \d+"):
        list(data(tmp_path / "out"))
    tar.unlink()
    with pytest.raises(ObjectMissing, match=r"part-002\.tar: the shard is missing"):
        list(data(tmp_path / "out"))


def test_a_missing_index_is_made_again_and_a_wrong_one_is_refused(
    root: Path, shards: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(shards[0].parent, tmp_path / "shards")
    shutil.copytree(root, tmp_path / "out")
    index = tmp_path / "out/train-000002.tar.idx"
    content = index.read_bytes()
    index.unlink()
    assert plain(data(tmp_path / "out")) == plain(data(root))
    index.write_bytes(content[:-1] + b"\0")
    with pytest.raises(ShardError, match=r"train-000002\.tar\.idx: is not the index the manifest"):
        list(data(tmp_path / "out"))


# Transforms and batches -----------------------------------------------------------------------


def drawn(sample: dict[str, Any]) -> dict[str, Any]:
    """What a transform draws by itself, with the sample's key."""
    numbers = [float(torch.rand(())), float(np.random.rand()), random.random()]  # noqa: NPY002
    return {"key": sample["__key__"], "numbers": torch.tensor(numbers, dtype=torch.float64)}


def stacked(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "keys": [sample["key"] for sample in samples],
        "numbers": torch.stack([sample["numbers"] for sample in samples]),
    }


def drawn_by_key(batches: Iterable[dict[str, Any]]) -> list[tuple[str, list[float]]]:
    return [
        pair
        for batch in batches
        for pair in zip(batch["keys"], batch["numbers"].tolist(), strict=True)
    ]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_promise_5_what_a_transform_draws_belongs_to_the_sample(
    root: Path, num_workers: int
) -> None:
    before = (torch.get_rng_state(), random.getstate())
    expected = [(s["key"], s["numbers"].tolist()) for s in data(root, transform=drawn)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    loader = ShardLoader(
        data(root, transform=drawn), batch_size=3, num_workers=num_workers, collate_fn=stacked
    )
    found = drawn_by_key(loader)
    assert found == expected
    assert len({tuple(numbers) for _, numbers in found}) == TOTAL
    later = drawn_by_key(loader)  # the next epoch
    assert not {tuple(n) for _, n in later} & {tuple(n) for _, n in found}


def test_a_transform_may_change_its_sample_and_return_anything(root: Path) -> None:
    def lengths(sample: dict[str, Any]) -> int:
        sample.pop("__url__")
        sample["more"] = sample.pop("__key__")
        return len(sample)

    assert sum(data(root, transform=lengths)) == sum(
        len(members) + 1 for _, members in plain(data(root))
    )


def fails_at_key(sample: dict[str, Any]) -> str:
    key: str = sample["__key__"]
    if key in ("000/0003", "002/0000"):
        raise ValueError(key)
    return key


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sample_its_transform_fails_on_is_named_or_substituted(
    root: Path, num_workers: int
) -> None:
    place = r"part-000\.tar: sample '000/0003'"
    problem = rf"{place}: transform 'fails_at_key' raised ValueError: 000/0003"
    options: dict[str, Any] = {"transform": fails_at_key}
    with pytest.raises(SampleError, match=problem):
        list(ShardLoader(data(root, shuffle=False, **options), 4, num_workers=num_workers))
    loader = ShardLoader(
        data(root, on_bad_sample="substitute", **options), 4, num_workers=num_workers
    )
    found = [key for batch in loader for key in batch]
    assert len(found) == TOTAL
    assert not {"000/0003", "002/0000"} & set(found)
    assert len(loader.bad_samples) == 2
    assert found == list(data(root, on_bad_sample="substitute", **options))


def test_what_does_not_fit_generic_samples_is_refused(root: Path, mini_dataset: Path) -> None:
    with pytest.raises(OptionError, match=r"transform: recipe .* is for pictures with boxes"):
        data(root, transform=detection_train(64))
    with pytest.raises(OptionError, match=r"transform: int is not callable as \(sample\)"):
        data(root, transform=1)
    problem = "collate_fn: is for generic samples; those for detection are packed into a Batch"
    with pytest.raises(OptionError, match=problem):
        ShardLoader(data(mini_dataset), collate_fn=stacked)
    with pytest.raises(OptionError, match="task 'detection' and its classes differ"):
        ShardDataset([str(root), str(mini_dataset)])


def test_the_loader_has_the_cost_of_a_batch_of_generic_samples(root: Path) -> None:
    loader = ShardLoader(data(root), batch_size=3, num_workers=1)
    costs = [loader.last_cost for _ in loader]
    assert all(cost.disk_bytes > 0 for cost in costs)
    assert sum(cost.read_through_bytes + cost.cache_bytes for cost in costs) == 0


class Counting(LightningModule):
    """Writes down what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[str, list[float]]] = []
        self.predicted: list[tuple[str, list[float]]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen += drawn_by_key([batch])
        loss: torch.Tensor = self.weight.sum()
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Lightning warns where there is none."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> int:
        self.predicted += drawn_by_key([batch])
        return len(batch["keys"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_trains_on_generic_samples_and_resumes(root: Path, tmp_path: Path) -> None:
    def module(**options: Any) -> VOCDataModule:
        return VOCDataModule(
            str(root),
            val_split="train",
            train_transforms=drawn,
            val_transforms=drawn,
            test_transforms=drawn,
            test_split="train",
            collate_fn=stacked,
            seed=5,
            window=2,
            **{"batch_size": 4, **options},
        )

    whole = Counting()
    trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(whole, datamodule=module())
    assert len(whole.seen) == 2 * TOTAL
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    part = Counting()
    fit = trainer(tmp_path, max_steps=4, callbacks=[every], enable_checkpointing=True)
    fit.fit(part, datamodule=module())
    rest = Counting()
    fit = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    fit.fit(rest, datamodule=module(batch_size=3), ckpt_path=str(tmp_path / "step=4.ckpt"))
    assert part.seen + rest.seen == whole.seen
    trainer(tmp_path).predict(whole, datamodule=module())  # a loader Lightning rebuilds
    assert [key for key, _ in whole.predicted] == [
        sample["__key__"] for sample in data(root, shuffle=False)
    ]
    expected, whole.predicted = whole.predicted, []
    own = ShardLoader(data(root, shuffle=False, transform=drawn), 4, collate_fn=stacked)
    trainer(tmp_path).predict(whole, own)  # made where Lightning does not record arguments
    assert whole.predicted == expected
    # Not under a Trainer: Lightning would go on recording what loaders are given, for ever.
    for option in ({"transforms": "ssdlite"}, {"image_size": 64}, {"decode": "fast"}):
        value = next(iter(option.values()))
        with pytest.raises(OptionError, match=rf"{value!r} is for pictures with boxes, a mask"):
            VOCDataModule(str(root), **option).train_dataloader()


# Samples of ours ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_adopted_samples_of_a_task_stream_as_the_dataset_they_are_from(
    mini_dataset: Path, tmp_path: Path, num_workers: int
) -> None:
    adopted([mini_dataset / "train-*.tar"], tmp_path / "out", task="detection")

    def digests(root: Path) -> list[str]:
        found = data(root, transform=detection_train(64), window=8)
        return [digest(b) for b in ShardLoader(found, 8, num_workers=num_workers)]

    assert digests(tmp_path / "out") == digests(mini_dataset)


# Elsewhere ------------------------------------------------------------------------------------


@pytest.fixture(params=[None, 1], ids=["cached", "read through"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Of a dataset whose cache holds everything, or nothing."""
    return {"cache_dir": str(tmp_path / "cache"), "cache_limit": request.param}


@pytest.mark.parametrize("where", ["dataset here", "same bucket", "two buckets"])
def test_tars_in_a_bucket_stream_wherever_their_dataset_lies(
    root: Path, shards: list[Path], tmp_path: Path, s3: S3, bucket: str, where: str, cache: Any
) -> None:
    upload(shards[0].parent, s3, f"{bucket}/data/shards")
    dest = {
        "dataset here": str(tmp_path / "out"),
        "same bucket": f"{bucket}/data",
        "two buckets": f"{make_bucket(s3)}/index",
    }[where]
    options = {"storage_options": s3.storage_options}
    adopted([f"{bucket}/data/shards/*.tar"], dest, **options)
    found = data(dest, **options, **cache)
    first = plain(found)
    assert first == plain(data(root))
    assert {s["__url__"] for s in data(dest, **options, **cache)} == {
        f"{bucket}/data/shards/{path.name}" for path in shards
    }
    loader = ShardLoader(data(dest, **options, **cache), batch_size=3, num_workers=2)
    assert keys(loader) == [key for key, _ in first]
    resumed = ShardLoader(data(dest, **options, **cache), batch_size=5)
    half = ShardLoader(data(dest, **options, **cache), batch_size=3)
    done = keys(islice(half, 3))
    resumed.load_state_dict(half.state_dict())
    assert done + keys(resumed) == [key for key, _ in first]
    if where != "dataset here":
        assert "manifest.json" in objects(s3, dest)


def test_tars_on_a_web_server_stream(
    root: Path, shards: list[Path], tmp_path: Path, cache: Any
) -> None:
    with web_server(shards[0].parent) as url:
        adopted([f"{url}/part-{{000..003}}.tar", f"{url}/zz.tar"], tmp_path / "out")
        assert plain(data(tmp_path / "out", **cache)) == plain(data(root))


def test_local_and_remote_tars_make_one_dataset(
    shards: list[Path], tmp_path: Path, s3: S3, bucket: str, cache: Any
) -> None:
    upload(shards[0].parent, s3, bucket)
    places = [shards[0], f"{bucket}/{shards[1].name}", shards[2], f"{bucket}/{shards[3].name}"]
    options = {"storage_options": s3.storage_options}
    adopted(places, tmp_path / "out", **options)
    found = plain(data(tmp_path / "out", shuffle=False, **options, **cache))
    assert found == read_by_webdataset(shards[:4])


def test_local_tars_of_a_dataset_in_a_bucket_are_mapped(
    root: Path, shards: list[Path], s3: S3, bucket: str
) -> None:
    options = {"storage_options": s3.storage_options}
    adopted(shards, bucket, **options)
    found = data(bucket, **options)
    assert plain(found) == plain(data(root))
    assert found._cache is None


def test_promise_7_faults_on_the_way_change_no_sample(
    root: Path, shards: list[Path], tmp_path: Path, s3: S3, bucket: str, cache: Any
) -> None:
    upload(shards[0].parent, s3, bucket)
    adopted([f"{bucket}/*.tar"], tmp_path / "out", storage_options=s3.storage_options)
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        options = {"storage_options": s3.through(proxy).storage_options}
        for number, kind in enumerate(("flip", "short-body", "cut-rst")):
            proxy.inject(Fault(kind, path=f"part-00{number}.tar", at=0.4))  # type: ignore[arg-type]
        assert plain(data(tmp_path / "out", **options, **cache)) == plain(data(root))
        assert proxy.hits == 3


def test_promise_7_a_tar_that_was_replaced_is_an_error_that_names_it(
    shards: list[Path], tmp_path: Path, s3: S3, bucket: str, cache: Any
) -> None:
    upload(shards[0].parent, s3, bucket)
    options = {"storage_options": s3.storage_options}
    adopted([f"{bucket}/*.tar"], tmp_path / "out", **options)
    content = bytearray(shards[2].read_bytes())
    content[content.index(b"002 3")] ^= 1
    put(s3, f"{bucket}/part-002.tar", bytes(content))
    message = rf"{bucket}/part-002\.tar: (sha256|sample 3)"
    with pytest.raises(ShardError, match=message):
        list(data(tmp_path / "out", **options, **cache))


def test_a_shard_is_cached_by_its_digest_whoever_adopted_it(
    root: Path, shards: list[Path], tmp_path: Path, s3: S3, bucket: str
) -> None:
    upload(shards[0].parent, s3, bucket)
    options = {"storage_options": s3.storage_options}
    for name in ("a", "b"):
        adopted([f"{bucket}/*.tar"], tmp_path / name, **options)
        list(data(tmp_path / name, cache_dir=str(tmp_path / "cache"), **options))
    cached = [path.name for path in (tmp_path / "cache").rglob("*.tar")]
    digests = [f"{sha256(path.read_bytes()).hexdigest()}.tar" for path in shards]
    assert 1 <= len(set(cached) & set(digests)) == len(cached)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
