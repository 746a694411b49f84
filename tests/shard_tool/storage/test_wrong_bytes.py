"""Whether the object or the network is at fault, and how often bytes are fetched again."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import ManifestError, ShardError, StoreError
from shard_tool.format.manifest import MANIFEST_NAME
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from shard_tool.storage.wrong_bytes import WrongBytes
from tests.kit.clock import PausesOnly, only_pauses_count
from tests.kit.datasets.stored import stored

if TYPE_CHECKING:
    from pathlib import Path

PLACE = "s3://bucket/a.tar"
PAGE = b"<html><title>Sign in</title></html>"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PausesOnly:
    return only_pauses_count(monkeypatch)


def wrong(problem: str = "sha256 5f") -> ShardError:
    return ShardError(PLACE, problem, "put it there again")


def fetch_until_it_is_over(
    budget_s: float, what: Callable[[int], tuple[ShardError, int | None]]
) -> None:
    fetches = WrongBytes(budget_s)
    for number in count():
        fetches.note(*what(number))
        fetches.wait()


def test_the_same_wrong_bytes_twice_are_a_damaged_object_at_once(clock: PausesOnly) -> None:
    fetches = WrongBytes(60)
    fetches.note(wrong(), "5f")
    fetches.wait()
    fetches.note(wrong("sha256 81"), "81")
    fetches.wait()
    with pytest.raises(ShardError) as caught:
        fetches.note(wrong(), "5f")
    assert str(caught.value) == f"{PLACE}: sha256 5f (the same in 2 fetches); put it there again"
    assert len(clock.pauses) == 2


def test_other_wrong_bytes_each_time_are_the_networks_fault(clock: PausesOnly) -> None:
    with pytest.raises(StoreError) as caught:
        fetch_until_it_is_over(60, lambda number: (wrong(f"sha256 {number}"), number))
    last = len(clock.pauses)
    problem = f"sha256 {last} (fetched {last + 1} times, other bytes each time)"
    assert caught.value.problem == problem
    assert caught.value.hint.startswith("the network, a gateway or this machine's memory")
    assert 60 - 8 <= clock.seconds <= 60
    assert last > 8


def test_bytes_that_take_longer_than_the_budget_are_fetched_three_times(clock: PausesOnly) -> None:
    fetches = WrongBytes(60)
    for number in range(2):
        clock.seconds += 100
        fetches.note(wrong(), number)
        fetches.wait()
    fetches.note(wrong(), 2)
    with pytest.raises(StoreError, match="fetched 3 times"):
        fetches.wait()


@pytest.mark.usefixtures("clock")
def test_an_object_replaced_each_time_is_not_called_damaged() -> None:
    with pytest.raises(StoreError, match=r"was replaced \(each of \d+ times\); wait until nobody"):
        fetch_until_it_is_over(1, lambda _: (wrong("was replaced"), None))


@pytest.mark.usefixtures("clock")
def test_a_warning_says_once_at_the_fourth_fetch_why_it_takes_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fetches, warnings = WrongBytes(60), []
    for number in range(7):
        fetches.note(wrong(), number)
        fetches.wait()
        warnings.append(len(caplog.records))
    assert warnings == [0, 0, 0, 1, 1, 1, 1]
    said = f"{PLACE}: sha256 5f (fetched 4 times, other bytes each time); fetching it again for up"
    assert caplog.records[0].getMessage().startswith(said)


@pytest.fixture
def manifest(tmp_path: Path) -> bytes:
    return (stored(tmp_path / "voc", {"train": [2]}) / MANIFEST_NAME).read_bytes()


Answers = Callable[[Callable[[int], bytes]], list[int]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Makes readings of a remote manifest give what a function of their number says."""

    def script(answer: Callable[[int], bytes]) -> list[int]:
        numbers: list[int] = []

        def read(_: Folder, name: str) -> bytes:
            assert name == MANIFEST_NAME
            numbers.append(len(numbers))
            return answer(numbers[-1])

        monkeypatch.setattr(Folder, "read", read)
        return numbers

    return script


FOLDER = Folder("memory://wrong-bytes", timeout_s=60)


@pytest.mark.parametrize("cut", [False, True], ids=["a page", "half of it"])
def test_a_manifest_behind_a_gateway_that_is_wrong_for_seconds_is_read(
    manifest: bytes, answers: Answers, clock: PausesOnly, *, cut: bool
) -> None:
    other = manifest[: len(manifest) // 2] if cut else PAGE
    numbers = answers(lambda _: other if clock.seconds < 5 else manifest)
    assert load_manifest(FOLDER).num_samples == 2
    assert len(numbers) > 6


def test_a_page_in_place_of_the_manifest_is_an_error_when_the_time_is_up(
    answers: Answers, clock: PausesOnly
) -> None:
    numbers = answers(lambda _: PAGE)
    with pytest.raises(ManifestError, match=r"not JSON: .* \(fetched \d+ times\)") as caught:
        load_manifest(FOLDER)
    assert f"fetched {len(numbers)} times" in str(caught.value)
    assert 60 - 8 <= clock.seconds <= 60


def test_a_damaged_manifest_is_an_error_at_the_second_reading(
    manifest: bytes, answers: Answers, clock: PausesOnly
) -> None:
    document = json.loads(manifest)
    damaged = json.dumps(document | {"name": "another"}).encode()
    numbers = answers(lambda _: damaged)
    with pytest.raises(ManifestError, match=r"sha256 .* \(the same in 2 fetches\); it was changed"):
        load_manifest(FOLDER)
    assert numbers == [0, 1]
    assert len(clock.pauses) == 1


def test_a_manifest_that_is_damaged_in_another_way_each_time_is_the_networks_fault(
    manifest: bytes, answers: Answers, clock: PausesOnly
) -> None:
    document = json.loads(manifest)
    answers(lambda number: json.dumps(document | {"name": f"{number}"}).encode())
    with pytest.raises(StoreError, match=r"other bytes each time\); the network"):
        load_manifest(FOLDER)
    assert len(clock.pauses) > 8
