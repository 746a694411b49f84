"""Training from S3 through faults trains the samples and pixels of an undisturbed run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from datamodules import VOCDataModule
from shard_tool.errors import ObjectMissing, ShardError, ShardToolError, StoreError
from tests.kit.datasets.stored import stored
from tests.kit.models.recorder import Recorder, trainer
from tests.kit.servers.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.kit.servers.s3 import S3, make_bucket, put, remove, upload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kit.faults.kinds import Kind, Request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

LENGTHS = [6, 5, 7]
NAME = "train-000001.tar"
"""The shard that is hit."""
PASSING: list[Kind] = [
    "cut-fin",
    "cut-rst",
    "stall",
    "slow-down",
    "internal-error",
    "reset-before-headers",
    "short-body",
    "html-200",
    "flip",
    "wrong-range",
    "wrong-bytes",
    "expired-token",
]
Trained = list[tuple[list[int], list[str]]]
"""Sample ids and a hash of each one's pixels and boxes, by step."""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("local") / "voc", {"train": LENGTHS}, padding=4096)


@pytest.fixture(scope="module")
def url(s3: S3, local: Path) -> str:
    url = make_bucket(s3)
    upload(local, s3, url)
    return url


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def calm(proxy: FaultProxy) -> None:
    proxy.clear()
    proxy.reset()
    proxy.on_request = None


def trained(root: object, folder: Path, **options: Any) -> Trained:
    """Train one epoch; returns what the model was given."""
    model = Recorder()
    data = VOCDataModule(str(root), batch_size=4, image_size=32, window=1, **options)
    trainer(folder, max_epochs=1, limit_val_batches=0).fit(model, data)
    return [(line["ids"], line["digests"]) for line in model.of("train")]


@pytest.fixture(scope="module")
def undisturbed(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    found = trained(local, tmp_path_factory.mktemp("undisturbed"))
    assert sorted(i for ids, _ in found for i in ids) == list(range(sum(LENGTHS)))
    return found


def through(s3: S3, proxy: FaultProxy, cache: Path, *, limit_s: float = 20) -> dict[str, Any]:
    return {
        "num_workers": 1,
        "cache_dir": str(cache),
        "storage_options": s3.through(proxy).storage_options,
        "fetch_timeout_s": limit_s,
    }


def is_hit(request: Request) -> bool:
    return request.path.endswith(NAME)


@pytest.mark.parametrize("kind", PASSING)
def test_promise_7_a_fault_that_passes_changes_no_pixel_trained(
    s3: S3, proxy: FaultProxy, url: str, undisturbed: Trained, tmp_path: Path, kind: Kind
) -> None:
    times = 6 if kind == "slow-down" else 1
    proxy.inject(Fault(kind, times=times, where=is_hit))
    limit_s = 6 if kind == "stall" else 20  # a stall costs a quarter of it
    assert trained(url, tmp_path, **through(s3, proxy, tmp_path, limit_s=limit_s)) == undisturbed
    assert proxy.hits == times


def test_promise_7_a_shard_replaced_and_put_back_changes_no_pixel_trained(
    s3: S3, proxy: FaultProxy, url: str, local: Path, undisturbed: Trained, tmp_path: Path
) -> None:
    content = (local / NAME).read_bytes()
    whole: list[Request] = []

    def meddle(request: Request) -> None:
        if is_hit(request) and request.range == (0, len(content)):
            whole.append(request)
            if len(whole) < 3:
                put(s3, f"{url}/{NAME}", content[::-1] if len(whole) == 1 else content)

    proxy.on_request = meddle
    assert trained(url, tmp_path, **through(s3, proxy, tmp_path)) == undisturbed
    assert len(whole) >= 2


@pytest.mark.parametrize(
    ("kind", "error", "limit_s"),
    [
        ("cut-rst", StoreError, 6),
        ("expired-token", StoreError, 60),
        ("short-body", ShardError, 6),
        ("flip", ShardError, 60),
        ("missing", ObjectMissing, 60),
    ],
)
def test_promise_7_a_fault_that_lasts_ends_training_with_a_clear_error(
    s3: S3,
    proxy: FaultProxy,
    url: str,
    tmp_path: Path,
    kind: Kind,
    error: type[ShardToolError],
    limit_s: float,
) -> None:
    proxy.inject(Fault(kind, times=None, where=is_hit))
    with pytest.raises(error, match=f"{url}/{NAME}"):
        trained(url, tmp_path, **through(s3, proxy, tmp_path, limit_s=limit_s))
    assert proxy.hits


def test_promise_7_a_shard_that_is_gone_ends_training_with_a_clear_error(
    s3: S3, local: Path, bucket: str, tmp_path: Path
) -> None:
    """Without a proxy: the object is not there."""
    upload(local, s3, bucket)
    remove(s3, f"{bucket}/{NAME}")
    options = {"num_workers": 1, "cache_dir": str(tmp_path), "storage_options": s3.storage_options}
    with pytest.raises(ObjectMissing, match=f"{bucket}/{NAME}: there is no such object"):
        trained(bucket, tmp_path, **options)
