"""Every batch reports its cost: bytes by source, and seconds by kind of work."""

from __future__ import annotations

import pickle
import time
from dataclasses import fields
from itertools import cycle, islice, pairwise
from multiprocessing import get_context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from datamodules import ShardDataset, ShardLoader
from datamodules.loading.loader import _num_ready
from datamodules.profiling.batch_cost import Cost
from tests.kit.datasets.stored import (
    in_memory,
    sample_bytes,
    shard_ranges,
    sizes_of,
    starts_of,
    stored,
)
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.fault_proxy import fault_proxy
from tests.kit.servers.s3 import upload

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from datamodules import Batch
    from tests.kit.servers.s3 import S3

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

LENGTHS = [12, 9, 14, 11, 10, 8, 13, 7]
"""84 samples."""
BYTES = ("disk_bytes", "cache_bytes", "read_through_bytes", "network_bytes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose samples have different sizes. Read only."""
    return stored(tmp_path_factory.mktemp("cost") / "voc", {"train": LENGTHS}, padding=3200)


@pytest.fixture
def url(folder: Path, tmp_path: Path) -> str:
    """The same dataset in memory."""
    return in_memory(folder, f"memory://{tmp_path.name}")


def loader(root: object, cache_dir: Path | None = None, **options: Any) -> ShardLoader:
    data: dict[str, Any] = {
        "seed": 2,
        "window": 2,
        "cache_dir": str(cache_dir),
        "cache_limit": 1 << 30,
    }
    data |= {k: options.pop(k) for k in ("transform", "storage_options", "lanes") if k in options}
    return ShardLoader(ShardDataset(str(root), **data), **{"batch_size": 8, **options})


def bytes_of(costs: Iterable[Cost]) -> dict[str, int]:
    """Sums of bytes by source, without those that are 0."""
    costs = list(costs)
    sums = {name: sum(getattr(cost, name) for cost in costs) for name in BYTES}
    return {name: total for name, total in sums.items() if total}


def sizes(folder: Path) -> list[int]:
    """Bytes of each sample, by its id, as the indexes say."""
    starts = [starts_of(folder, name).tolist() for name in sizes_of(folder)]
    return [stop - at for of in starts for at, stop in pairwise(of)]


def assert_adds_up(batches: list[Batch], folder: Path) -> None:
    """Check that each batch's bytes are those of its samples, whatever their source."""
    of = sizes(folder)
    for batch in batches:
        assert batch.cost.sample_bytes == sum(of[i] for i in batch.sample_ids.tolist())
    assert sum(batch.cost.sample_bytes for batch in batches) == sample_bytes(folder) == sum(of)


def is_cached(folder: Path, cache_dir: Path) -> bool:
    held = sum(path.stat().st_size for path in cache_dir.rglob("*.tar"))
    return held == sum(sizes_of(folder).values())


def make_warm(root: object, folder: Path, cache_dir: Path, **options: Any) -> None:
    def is_full() -> bool:
        list(loader(root, cache_dir, **options))
        return is_cached(folder, cache_dir)

    assert eventually(is_full)


# Bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_local_bytes_are_disk_bytes(folder: Path, num_workers: int) -> None:
    batches = list(loader(folder, num_workers=num_workers))
    assert_adds_up(batches, folder)
    assert bytes_of(batch.cost for batch in batches) == {"disk_bytes": sample_bytes(folder)}
    assert [batch.cost.fetch_s for batch in batches] == [0.0] * len(batches)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_bytes_of_a_warm_cache_are_cache_bytes(
    folder: Path, url: str, tmp_path: Path, num_workers: int
) -> None:
    make_warm(url, folder, tmp_path / "cache")
    warm = loader(
        url, tmp_path / "cache", num_workers=num_workers, multiprocessing_context=fork(num_workers)
    )
    for _ in range(2):
        batches = list(warm)
        assert_adds_up(batches, folder)
        assert bytes_of(batch.cost for batch in batches) == {"cache_bytes": sample_bytes(folder)}
        assert [batch.cost.fetch_s for batch in batches] == [0.0] * len(batches)


def fork(num_workers: int) -> str | None:
    """Workers see memory:// only if they are forked."""
    return "fork" if num_workers else None


def test_bytes_that_do_not_fit_into_the_cache_are_read_through(
    folder: Path, url: str, tmp_path: Path
) -> None:
    data = ShardDataset(url, cache_dir=str(tmp_path / "cache"), cache_limit=1, window=2)
    batches = list(ShardLoader(data, batch_size=8))
    assert_adds_up(batches, folder)
    total = sample_bytes(folder)
    assert bytes_of(batch.cost for batch in batches) == {"read_through_bytes": total}
    assert min(batch.cost.fetch_s for batch in batches) > 0


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_cold_bucket_is_read_through_at_first_and_then_from_the_cache(
    folder: Path, s3: S3, bucket: str, tmp_path: Path, num_workers: int
) -> None:
    upload(folder, s3, f"{bucket}/voc")
    with fault_proxy(s3.endpoint_url, latency_s=0.01, bytes_per_s=4e5) as proxy:
        cold = loader(
            f"{bucket}/voc",
            tmp_path / "cache",
            storage_options=s3.through(proxy).storage_options,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )
        costs = list[Cost]()

        def epoch() -> list[Cost]:
            batches = list(cold)
            assert_adds_up(batches, folder)
            costs.extend(batch.cost for batch in batches)
            return costs[-len(batches) :]

        first = epoch()
        assert first[0].read_through_bytes > 0
        assert first[0].fetch_s >= 0.01, "there and back"
        cached = sum(cost.cache_bytes for cost in first)
        assert cached > sample_bytes(folder) / 4, "windows after the first are waited for"
        while not is_cached(folder, tmp_path / "cache"):
            assert len(costs) < 30 * len(first), "the first window is never fetched"
            epoch()
        epoch()  # counts what was fetched after the last batch
        sums = bytes_of(costs)
        assert "disk_bytes" not in sums
        assert sums["network_bytes"] == sum(sizes_of(folder).values()), "each shard once"
        asked = [request for request in proxy.requests if request.path.endswith(".tar")]
        assert sums["network_bytes"] + sums["read_through_bytes"] == sum(
            r.body_bytes for r in asked
        )
        assert bytes_of(epoch()).keys() == {"cache_bytes"}


@pytest.mark.slow
def test_only_the_first_window_is_read_through_if_the_cache_is_large_enough(
    folder: Path, s3: S3, bucket: str, tmp_path: Path
) -> None:
    """However slow downloads are, later windows are waited for and fetched once."""
    upload(folder, s3, f"{bucket}/voc")
    with fault_proxy(s3.endpoint_url, bytes_per_s=1e6) as proxy:
        options = s3.through(proxy).storage_options
        cold = loader(f"{bucket}/voc", tmp_path / "cache", storage_options=options)
        assert_adds_up(list(cold), folder)
        order = cold.dataset.dataset.order(lanes=1, window=2).epoch(0)
        first = {f"train-{shard:06d}.tar" for shard in order.coming_shards(0)}
        asked = shard_ranges(proxy.requests)
        whole = {(name, (0, size)) for name, size in sizes_of(folder).items()}
        through = {name for name, at in asked if (name, at) not in whole}
        assert len(first) == 2
        assert through <= first, "later ones are waited for"
        fetched = [name for name, at in asked if (name, at) in whole and name not in first]
        assert sorted(fetched) == sorted(sizes_of(folder).keys() - first)


def test_bytes_of_an_abandoned_pass_are_not_counted_in_the_next(
    folder: Path, url: str, tmp_path: Path
) -> None:
    for root in (folder, url):
        loading = loader(root, tmp_path / "cache")
        for _ in range(3):
            batches = list(islice(loading, 2))
            of = sizes(folder)
            for batch in batches:
                assert batch.cost.sample_bytes == sum(of[i] for i in batch.sample_ids.tolist())


def test_sample_bytes_are_the_bytes_of_samples_and_not_of_downloads() -> None:
    cost = Cost(disk_bytes=1, cache_bytes=20, read_through_bytes=300, network_bytes=4000)
    assert cost.sample_bytes == 321


# Seconds -------------------------------------------------------------------------------------


class Slow:
    """A transform that takes at least this time for each sample."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, image: Any, target: Any) -> Any:
        time.sleep(self.seconds)
        return image, target


@pytest.mark.slow
def test_seconds_are_counted_by_kind_of_work(folder: Path) -> None:
    for batch in loader(folder, transform=Slow(0.005)):
        cost = batch.cost
        assert cost.transform_s >= 0.005 * len(batch)
        assert cost.decode_s > 0
        assert cost.collate_s > 0
        parts = cost.fetch_s + cost.decode_s + cost.transform_s + cost.collate_s
        assert parts <= cost.wait_s, "one process: it waits for all of that"
        assert cost.queue_depth == 0


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_knows_its_size_and_when_it_was_made(folder: Path, num_workers: int) -> None:
    """Worker and parent share the clock: a batch is made after it is asked for, before it comes."""
    slow = loader(folder, transform=Slow(0.01), num_workers=num_workers, prefetch_factor=None)
    asked = time.perf_counter()
    for batch in slow:
        came = time.perf_counter()
        assert batch.cost.num_samples == len(batch)
        assert asked < batch.cost.made_at < came
        assert batch.cost.start_s == (batch.cost.wait_s if batch.start == 0 else 0)
        assert batch.cost.hand_over_s <= batch.cost.wait_s
        asked = max(asked, batch.cost.made_at)


class Gated:
    """A transform that waits for a token for each sample, and then takes at least this time."""

    def __init__(self, seconds: float) -> None:
        self.tokens, self.seconds = get_context("fork").Semaphore(0), seconds

    def __call__(self, image: Any, target: Any) -> Any:
        self.tokens.acquire()
        time.sleep(self.seconds)
        return image, target


@pytest.mark.slow
def test_a_batch_that_is_not_ready_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker gets a batch's tokens after the loader noted when it asks for the batch."""
    gated, asks = Gated(0.005), cycle([True, False])  # the second look is when it has come

    def perf_counter() -> float:
        now = time.perf_counter()
        for _ in range(4 if next(asks) else 0):
            gated.tokens.release()
        return now

    clock = SimpleNamespace(perf_counter=perf_counter)
    monkeypatch.setattr("datamodules.loading.loader.time", clock)
    batches = loader(folder, transform=gated, num_workers=1, batch_size=4)
    costs = [batch.cost for batch in batches]
    assert len(costs) == 21
    assert min(min(cost.wait_s, cost.transform_s) for cost in costs) >= 4 * 0.005
    depths = [cost.queue_depth for cost in costs]
    assert depths[:-1] == [0] * 20, "the worker's last word follows the last batch"


def test_a_batch_that_is_ready_is_not_waited_for(folder: Path) -> None:
    passing: Any = iter(loader(folder, num_workers=1, batch_size=4, prefetch_factor=4))
    next(passing)
    for _ in range(10):
        assert eventually(lambda: _num_ready(passing._batches) == 4)
        asked = time.perf_counter()
        cost = next(passing).cost
        assert cost.queue_depth in {3, 4}, "with or without the one made meanwhile"
        assert cost.made_at < asked
        assert cost.hand_over_s == cost.wait_s, "handing over is all it was waited for"


# Copies of batches --------------------------------------------------------------------------


def a_batch(folder: Path) -> Batch:
    """A batch whose cost has no field that is 0."""
    batch = next(iter(loader(folder)))
    for number, field in enumerate(fields(Cost)):
        setattr(batch.cost, field.name, type(getattr(batch.cost, field.name))(number + 1))
    return batch


def test_a_batch_keeps_its_cost_through_pickle_pin_memory_and_copies(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # which needs a GPU
    batch = a_batch(folder)
    expected = Cost(1, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9, 10, 11, 12, 13, 14.0)
    for copy in (
        pickle.loads(pickle.dumps(batch)),
        batch.pin_memory(),
        batch.to("cpu"),
        batch.with_pixels(batch.pixels.float()),
    ):
        assert copy.cost == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_keeps_its_cost_on_the_way_to_a_gpu(folder: Path) -> None:
    batch = a_batch(folder)
    assert batch.pin_memory().cost == batch.cost
    assert batch.pin_memory().to("cuda", non_blocking=True).cost == batch.cost
    pinned = list(loader(folder, num_workers=2, pin_memory=True))
    assert_adds_up(pinned, folder)


@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_every_kind_of_worker_reports_costs(folder: Path, context: str) -> None:
    batches = list(loader(folder, num_workers=1, multiprocessing_context=context))
    assert_adds_up(batches, folder)
    for cost in (batch.cost for batch in batches):
        assert min(cost.decode_s, cost.transform_s, cost.collate_s, cost.wait_s) > 0


# Cost ----------------------------------------------------------------------------------------


def test_a_hand_over_counts_only_as_far_as_it_was_waited_for() -> None:
    """A batch may be ready for long; only the wait counts as hand-over."""
    waited, ready, first = Cost(made_at=5.0), Cost(made_at=1.0), Cost(made_at=5.0)
    waited.received(asked=3.0, now=5.5, is_first=False)
    assert (waited.wait_s, waited.hand_over_s, waited.start_s) == (2.5, 0.5, 0.0)
    ready.received(asked=3.0, now=3.25, is_first=False)
    assert (ready.wait_s, ready.hand_over_s, ready.start_s) == (0.25, 0.25, 0.0)
    first.received(asked=3.0, now=5.5, is_first=True)
    assert (first.wait_s, first.hand_over_s, first.start_s) == (2.5, 0.0, 2.5)


def test_sums_add_every_field_and_keep_the_later_time() -> None:
    one = Cost(*range(1, 15))
    total = one + Cost(*range(101, 115))
    names = [field.name for field in fields(Cost)]
    expected = {name: 2 * (i + 1) + 100 for i, name in enumerate(names)} | {"made_at": 114}
    assert {name: getattr(total, name) for name in names} == expected
    assert one == Cost(*range(1, 15))
