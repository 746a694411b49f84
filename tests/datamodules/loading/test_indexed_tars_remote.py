"""Indexed tars in a bucket or on a web server stream like local ones."""

from __future__ import annotations

from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

from datamodules import ShardLoader
from shard_tool.errors import ShardError
from tests.kit.datasets.converted import files_of
from tests.kit.datasets.foreign_tars import (
    adopted,
    read_by_webdataset,
)
from tests.kit.datasets.generic_samples import data, keys, plain
from tests.kit.servers.fault_proxy import Fault, fault_proxy
from tests.kit.servers.s3 import make_bucket, objects, put, upload
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.servers.s3 import S3


pytestmark = [
    pytest.mark.usefixtures("small_chunks"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # 2 cores
]


@pytest.fixture(params=[None, 1], ids=["cached", "read through"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Options of a dataset: the cache holds everything, or nothing."""
    return {"cache_dir": str(tmp_path / "cache"), "cache_limit": request.param}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["dataset here", "same bucket", "two buckets"])
def test_tars_in_a_bucket_stream_wherever_their_dataset_lies(
    indexed_root: Path,
    foreign_shards: list[Path],
    tmp_path: Path,
    s3: S3,
    bucket: str,
    where: str,
    cache: Any,
) -> None:
    upload(foreign_shards[0].parent, s3, f"{bucket}/data/shards")
    dest = {
        "dataset here": str(tmp_path / "out"),
        "same bucket": f"{bucket}/data",
        "two buckets": f"{make_bucket(s3)}/index",
    }[where]
    options = {"storage_options": s3.storage_options}
    adopted([f"{bucket}/data/shards/*.tar"], dest, **options)
    found = data(dest, **options, **cache)
    first = plain(found)
    assert first == plain(data(indexed_root))
    assert {s["__url__"] for s in data(dest, **options, **cache)} == {
        f"{bucket}/data/shards/{path.name}" for path in foreign_shards
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
    indexed_root: Path, foreign_shards: list[Path], tmp_path: Path, cache: Any
) -> None:
    with web_server(foreign_shards[0].parent) as url:
        adopted([f"{url}/part-{{000..003}}.tar", f"{url}/zz.tar"], tmp_path / "out")
        assert plain(data(tmp_path / "out", **cache)) == plain(data(indexed_root))


@pytest.mark.slow
def test_local_and_remote_tars_make_one_dataset(
    foreign_shards: list[Path], tmp_path: Path, s3: S3, bucket: str, cache: Any
) -> None:
    upload(foreign_shards[0].parent, s3, bucket)
    places = [
        foreign_shards[0],
        f"{bucket}/{foreign_shards[1].name}",
        foreign_shards[2],
        f"{bucket}/{foreign_shards[3].name}",
    ]
    options = {"storage_options": s3.storage_options}
    adopted(places, tmp_path / "out", **options)
    found = plain(data(tmp_path / "out", shuffle=False, **options, **cache))
    assert found == read_by_webdataset(foreign_shards[:4])


@pytest.mark.slow
def test_local_tars_of_a_dataset_in_a_bucket_are_mapped(
    indexed_root: Path, foreign_shards: list[Path], s3: S3, bucket: str
) -> None:
    options = {"storage_options": s3.storage_options}
    adopted(foreign_shards, bucket, **options)
    found = data(bucket, **options)
    assert plain(found) == plain(data(indexed_root))
    assert found._cache is None


@pytest.mark.slow
def test_promise_7_transfer_faults_change_no_sample(
    indexed_root: Path, foreign_shards: list[Path], tmp_path: Path, s3: S3, bucket: str, cache: Any
) -> None:
    upload(foreign_shards[0].parent, s3, bucket)
    adopted([f"{bucket}/*.tar"], tmp_path / "out", storage_options=s3.storage_options)
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        options = {"storage_options": s3.through(proxy).storage_options}
        for number, kind in enumerate(("flip", "short-body", "cut-rst")):
            proxy.inject(Fault(kind, path=f"part-00{number}.tar", at=0.4))  # type: ignore[arg-type]
        assert plain(data(tmp_path / "out", **options, **cache)) == plain(data(indexed_root))
        assert proxy.hits == 3


@pytest.mark.slow
def test_promise_7_a_replaced_tar_is_an_error_that_names_it(
    foreign_shards: list[Path], tmp_path: Path, s3: S3, bucket: str, cache: Any
) -> None:
    upload(foreign_shards[0].parent, s3, bucket)
    options = {"storage_options": s3.storage_options}
    adopted([f"{bucket}/*.tar"], tmp_path / "out", **options)
    content = bytearray(foreign_shards[2].read_bytes())
    content[content.index(b"002 3")] ^= 1
    put(s3, f"{bucket}/part-002.tar", bytes(content))
    message = rf"{bucket}/part-002\.tar: (sha256|sample 3)"
    with pytest.raises(ShardError, match=message):
        list(data(tmp_path / "out", **options, **cache))


@pytest.mark.slow
def test_datasets_of_the_same_tars_share_cached_shards(
    indexed_root: Path, foreign_shards: list[Path], tmp_path: Path, s3: S3, bucket: str
) -> None:
    upload(foreign_shards[0].parent, s3, bucket)
    options = {"storage_options": s3.storage_options}
    for name in ("a", "b"):
        adopted([f"{bucket}/*.tar"], tmp_path / name, **options)
        list(data(tmp_path / name, cache_dir=str(tmp_path / "cache"), **options))
    cached = [path.name for path in (tmp_path / "cache").rglob("*.tar")]
    digests = [f"{sha256(path.read_bytes()).hexdigest()}.tar" for path in foreign_shards]
    assert 1 <= len(set(cached) & set(digests)) == len(cached)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
