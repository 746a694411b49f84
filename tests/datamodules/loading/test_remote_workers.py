"""Workers read from S3 however they are started, also when their parent has read from it before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from datamodules import ShardDataset, ShardLoader
from tests.kit.datasets.stored import stored
from tests.kit.models.recorder import digest
from tests.kit.servers.fault_proxy import fault_proxy
from tests.kit.servers.s3 import S3, upload

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = [5, 7, 4, 6]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("local") / "voc", {"train": LENGTHS}, padding=2048)


@pytest.fixture
def url(s3: S3, bucket: str, local: Path) -> str:
    upload(local, s3, bucket)
    return bucket


def dataset(root: object, **options: Any) -> ShardDataset:
    return ShardDataset(str(root), window=2, **options)


def seen(data: ShardDataset, **options: Any) -> list[tuple[list[int], str]]:
    loader = ShardLoader(data, batch_size=3, **options)
    return [(batch.sample_ids.tolist(), digest(batch)) for batch in loader]


@pytest.mark.parametrize(
    "context",
    [
        "fork",
        pytest.param("forkserver", marks=pytest.mark.slow),
        pytest.param("spawn", marks=pytest.mark.slow),
    ],
)
def test_workers_read_from_s3_what_their_parent_has_read(
    s3: S3, local: Path, url: str, tmp_path: Path, context: str
) -> None:
    """The parent has clients, threads and an event loop by then; none of that may reach them."""
    expected = seen(dataset(local))
    assert sum(len(ids) for ids, _ in expected) == sum(LENGTHS)
    data = dataset(url, cache_dir=str(tmp_path), storage_options=s3.storage_options)
    assert seen(data) == expected
    for path in tmp_path.rglob("*.tar"):  # or they would have nothing to fetch
        path.unlink()
    assert seen(data, num_workers=2, multiprocessing_context=context) == expected


@pytest.mark.slow
def test_workers_forked_while_the_parent_is_downloading_wait_for_it_or_read_through(
    s3: S3, local: Path, url: str, tmp_path: Path
) -> None:
    """The fork copies the parent's locks, some of them held."""
    expected = seen(dataset(local))
    with fault_proxy(s3.endpoint_url, bytes_per_s=100_000) as proxy:
        options = s3.through(proxy).storage_options
        data = dataset(url, cache_dir=str(tmp_path), storage_options=options)
        first = next(iter(ShardLoader(data, batch_size=3)))
        assert not list(tmp_path.rglob("*.tar"))  # its prefetch has only begun
        found = seen(data, num_workers=2, multiprocessing_context="fork")
    assert first.sample_ids.tolist() == expected[0][0]
    assert found == expected


@pytest.mark.slow
def test_workers_go_on_in_a_second_epoch_without_a_request(
    s3: S3, local: Path, url: str, tmp_path: Path
) -> None:
    with fault_proxy(s3.endpoint_url) as proxy:
        options = s3.through(proxy).storage_options
        data = dataset(url, cache_dir=str(tmp_path), storage_options=options)
        loader = ShardLoader(data, batch_size=3, num_workers=2, persistent_workers=True)
        epochs = [[batch.sample_ids.tolist() for batch in loader]]
        proxy.reset()
        epochs += [[batch.sample_ids.tolist() for batch in loader]]
        assert not [request for request in proxy.requests if request.path.endswith(".tar")]
        del loader
    local_loader = ShardLoader(dataset(local), batch_size=3)
    assert epochs == [[b.sample_ids.tolist() for b in local_loader] for _ in range(2)]
