"""The same dataset from a web server, from memory and from a file:// URL."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from datamodules import ShardDataset, ShardLoader
from datamodules.loading import dataset
from shard_tool.errors import ObjectMissing, ShardError, StoreError
from tests.kit.clock import only_pauses_count
from tests.kit.datasets.stored import hashes_read, in_memory, stored
from tests.kit.models.recorder import digest
from tests.kit.servers.fault_proxy import Fault, fault_proxy
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.faults.kinds import Kind

LENGTHS = [4, 6, 5]
SECRET = "tr0ub4dor"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("local") / "voc", {"train": LENGTHS}, padding=2048)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_SMALL_CHUNK", 4)  # so that later windows are waited for


def samples(root: object, **options: Any) -> list[tuple[str, str]]:
    found = hashes_read(ShardDataset(str(root), decode=False, window=1, **options))
    assert len(found) == sum(LENGTHS)
    return found


@pytest.fixture(params=[None, 1], ids=["cached", "read through"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Of a dataset whose cache holds everything, or nothing."""
    return {"cache_dir": str(tmp_path / "cache"), "cache_limit": request.param}


def test_a_file_url_is_the_folder_itself(local: Path, options: dict[str, Any]) -> None:
    assert samples(f"file://{local}", **options) == samples(local)


def test_a_dataset_in_memory_gives_the_same_samples(local: Path, options: dict[str, Any]) -> None:
    assert samples(in_memory(local, "memory://web-storage"), **options) == samples(local)


def test_a_dataset_on_a_web_server_gives_the_same_samples(
    local: Path, options: dict[str, Any]
) -> None:
    with web_server(local) as url:
        assert samples(url, **options) == samples(local)


@pytest.mark.slow
def test_a_dataset_behind_tls_gives_the_same_samples(
    local: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    certificate = tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += [
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-out",
        "c.pem",
        "-keyout",
        "k.pem",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    certificate.write_text((tmp_path / "k.pem").read_text() + (tmp_path / "c.pem").read_text())
    with web_server(local, certificate=certificate) as url:
        assert url.startswith("https://")
        trusted = {"ssl": ssl.create_default_context(cafile=certificate)}
        assert samples(url, storage_options=trusted, **options) == samples(local)
        with pytest.raises(StoreError, match="ClientConnectorCertificateError"):
            ShardDataset(url, fetch_timeout_s=0.3)  # whom nobody vouches for


@pytest.mark.slow
def test_workers_read_from_a_web_server(local: Path, options: dict[str, Any]) -> None:
    with web_server(local) as url:
        data = ShardDataset(url, window=1, **options)
        remote = list(map(digest, ShardLoader(data, batch_size=3, num_workers=2)))
    assert remote == list(
        map(digest, ShardLoader(ShardDataset(str(local), window=1), batch_size=3))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["cut-rst", "internal-error", "short-body", "html-200", "flip", "reset-before-headers"]
)
def test_promise_7_a_fault_of_a_web_server_that_passes_changes_no_sample(
    local: Path, options: dict[str, Any], kind: Kind
) -> None:
    with web_server(local) as web, fault_proxy(web) as proxy:
        for name in ("manifest.json", "train-000000.tar.idx", "train-000001.tar", "2.tar"):
            proxy.inject(Fault(kind, path=name, at=0.4))
        assert samples(proxy.url, **options) == samples(local)
        assert proxy.hits == 4


@pytest.mark.slow
def test_promise_7_another_range_than_asked_for_is_noticed(local: Path, tmp_path: Path) -> None:
    """A web server's Content-Range is not looked at: the samples' CRC-32 tells."""
    with web_server(local) as web, fault_proxy(web) as proxy:
        options: dict[str, Any] = {"cache_dir": str(tmp_path), "cache_limit": 1}
        proxy.inject(Fault("wrong-range", times=2))
        assert samples(proxy.url, **options) == samples(local)
        proxy.inject(Fault("wrong-bytes", times=None, where=lambda r: r.path.endswith("1.tar")))
        with pytest.raises(
            ShardError, match=r"train-000001\.tar.*CRC-32 of the index \(the same in 2"
        ):
            samples(proxy.url, **options)


def test_a_server_that_ignores_range_is_a_clear_error(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_pauses_count(monkeypatch)
    hint = "the object is cut short, the server does not understand Range, or a gateway answers"
    problem = rf"/train-\d+\.tar bytes \d+-\d+: answered with \d+ bytes, .*; {hint}"
    with web_server(local, has_ranges=False) as url, pytest.raises(ShardError, match=problem):
        samples(url, cache_dir=str(tmp_path), cache_limit=1)  # whole shards would do without Range


def test_no_dataset_on_a_web_server_is_a_clear_error(tmp_path: Path) -> None:
    with web_server(tmp_path) as url, pytest.raises(ObjectMissing, match="no dataset here"):
        ShardDataset(url)


def test_promise_8_a_password_in_the_url_is_never_shown(local: Path, tmp_path: Path) -> None:
    with web_server(local) as web:
        url = web.replace("://", f"://me:{SECRET}@")
        data = ShardDataset(url, decode=False, cache_dir=str(tmp_path))
        sample = next(iter(data))
        assert sample["__url__"].startswith(f"{web}/train-")
        assert SECRET not in repr(data._table.folders)
