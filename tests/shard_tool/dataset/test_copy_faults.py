"""A copy retries faults of networks and stores, or names the object that stays wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import ShardError
from shard_tool.storage import ranges
from tests.kit.clock import only_pauses_count
from tests.kit.datasets.converted import files_of, reworded
from tests.kit.datasets.copies import NAMES, assert_no_dataset, copied
from tests.kit.datasets.voc_tree import write
from tests.kit.servers.fault_proxy import Fault, FaultProxy
from tests.kit.servers.s3 import S3, objects, put, upload

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.faults.kinds import Kind


FAULTS: dict[str, Kind] = dict(
    zip(NAMES, ("flip", "cut-rst", "short-body", "slow-down"), strict=True)
)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".idx"])
def test_copy_retries_damaged_and_cut_reads(
    source: Path,
    tmp_path: Path,
    s3: S3,
    bucket: str,
    proxy: FaultProxy,
    on_s3: dict[str, str],
    suffix: str,
) -> None:
    upload(source, s3, f"{bucket}/voc")
    for name, kind in FAULTS.items():
        proxy.inject(Fault(kind, where=lambda r, name=name: r.path.endswith(name + suffix)))  # type: ignore[misc]
    copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    assert proxy.hits == len(FAULTS)
    assert files_of(tmp_path / "copy") == files_of(source)


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAMES[1], f"{NAMES[1]}.idx"])
def test_copy_retries_wrong_bytes_that_differ_each_time(
    source: Path,
    tmp_path: Path,
    s3: S3,
    bucket: str,
    proxy: FaultProxy,
    name: str,
    on_s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = only_pauses_count(monkeypatch)
    upload(source, s3, f"{bucket}/voc")
    proxy.inject(Fault("flips", times=6, path=name, where=lambda r: r.path.endswith(name)))
    copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    assert proxy.hits == len(clock.pauses) == 6
    assert files_of(tmp_path / "copy") == files_of(source)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_copy_retries_a_short_manifest_at_every_reading(
    other: Path,
    tmp_path: Path,
    s3: S3,
    bucket: str,
    proxy: FaultProxy,
    on_s3: dict[str, str],
    number: int,
) -> None:
    """The newline at its end is cut off, which leaves valid JSON."""
    upload(other, s3, f"{bucket}/voc")
    asked: list[Any] = []

    def is_its_turn(request: Any) -> bool:
        asked.append(request)
        return len(asked) == number + 1

    proxy.inject(Fault("short-body", path="manifest.json", at=1.0, where=is_its_turn))
    copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    assert proxy.hits == 1
    assert files_of(tmp_path / "copy") == files_of(other)


@pytest.mark.slow
def test_a_flipped_bit_in_the_list_of_bad_records_is_noticed(
    mine: Path, tmp_path: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str]
) -> None:
    reworded(mine, lambda document: document.update(num_bad_records=1))
    write(mine / "bad_records.jsonl", b'{"split": "train", "key": "a", "error": "b"}\n')
    upload(mine, s3, f"{bucket}/voc")
    proxy.inject(Fault("flip", path="bad_records"))
    copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    assert proxy.hits == 1
    assert files_of(tmp_path / "copy") == files_of(mine)


@pytest.mark.parametrize("name", [NAMES[1], f"{NAMES[1]}.idx"])
def test_bit_that_flips_at_every_reading_is_an_error_that_names_the_object(
    source: Path,
    tmp_path: Path,
    s3: S3,
    bucket: str,
    proxy: FaultProxy,
    name: str,
    on_s3: dict[str, str],
) -> None:
    upload(source, s3, f"{bucket}/voc")
    proxy.inject(Fault("flip", path=name, times=None))
    with pytest.raises(ShardError) as caught:
        copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    assert caught.value.place == f"{bucket}/voc/{name}"
    assert caught.value.problem.startswith("sha256 ")
    assert caught.value.problem.endswith(" (the same in 2 fetches)")
    assert_no_dataset(tmp_path / "copy")
    assert name not in files_of(tmp_path / "copy")


@pytest.mark.slow
def test_shard_replaced_between_two_requests_is_fetched_from_its_start(
    source: Path,
    tmp_path: Path,
    s3: S3,
    bucket: str,
    proxy: FaultProxy,
    on_s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", 4096)  # two or more requests a shard
    upload(source, s3, f"{bucket}/voc")
    spoilt = bytes(len((source / NAMES[0]).read_bytes()))
    seen: list[str] = []

    def replace_it(request: Any) -> None:
        if request.path.endswith(NAMES[0]) and request.range == (4096, 8192) and not seen:
            seen.append("spoilt")
            put(s3, f"{bucket}/voc/{NAMES[0]}", spoilt)
        elif request.path.endswith(NAMES[0]) and request.range == (0, 4096) and seen == ["spoilt"]:
            seen.append("back")
            put(s3, f"{bucket}/voc/{NAMES[0]}", (source / NAMES[0]).read_bytes())

    proxy.on_request = replace_it
    try:
        copied(f"{bucket}/voc", tmp_path / "copy", storage_options=on_s3)
    finally:
        proxy.on_request = None
    assert seen == ["spoilt", "back"]
    assert files_of(tmp_path / "copy") == files_of(source)


@pytest.mark.slow
def test_copy_retries_faults_of_the_destination(
    source: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str]
) -> None:
    for kind in ("lost-answer", "internal-error", "reset-before-headers"):
        proxy.inject(Fault(kind, path=NAMES[2], method="PUT"))
    copied(source, f"{bucket}/copy", storage_options=on_s3)
    assert proxy.hits == 3
    assert objects(s3, f"{bucket}/copy") == files_of(source)
