"""Streaming from a real S3 server through faults: undisturbed samples, or a clear error in time.

Every fault is put in the way of every shard, at the first, the middle and the last byte, on both
roads that bytes take. Samples are compared by key and by a hash of all their bytes with those of
the local dataset.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from datamodules import ShardDataset
from datamodules.loading import dataset
from shard_tool.errors import (
    FormatError,
    ObjectMissing,
    ShardError,
    ShardToolError,
    StoreError,
)
from shard_tool.storage import ranges
from tests.kit.clock import PausesOnly, only_pauses_count
from tests.kit.datasets.stored import hashes_read, sizes_of, stored
from tests.kit.faults.kinds import OF_RANGES
from tests.kit.faults.runs import (
    LENGTHS,
    SHARDS,
    WAYS,
    FaultyWorld,
    Outcome,
    assert_is_true,
    places,
    prefetching,
    run,
    side_by_side,
)
from tests.kit.faults.table import FAULTS, PAGE, FaultTable, rows_of, with_rows
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.fault_proxy import Fault, fault_proxy
from tests.kit.servers.s3 import S3, make_bucket, upload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kit.faults.kinds import Kind, Request

NUM_COPIES = 6
"""Runs side by side, each with a copy of the dataset of its own: most of their time is waiting."""
LIMIT_S, SILENT_S, PATIENCE_S = 6.0, 1.5, 10.0
"""`fetch_timeout_s` where pauses reach it, where silence does, and where no run comes near it."""
MOST_ATTEMPTS = 7
"""Attempts in `LIMIT_S`, by the shortest pauses: 0.05 s, 0.1 s and so on to 1.6 s."""
BREAKS: list[Kind] = ["cut-fin", "cut-rst", "stall", "chunked-cut"]
REFUSALS: list[Kind] = ["slow-down", "internal-error", "reset-before-headers", "lost-answer"]
WRONG: list[Kind] = ["short-body", "unframed-cut", "html-200", "flip", "flips"]
WRONG += ["wrong-range", "wrong-bytes", "mixed-bytes"]
ALWAYS_THE_SAME = {"flip", "wrong-bytes"}
"""Wrong bytes that are the same each time, as those of a damaged object are."""
KINDS = [*BREAKS, *REFUSALS, *WRONG, "expired-token"]
SOME: list[Kind] = ["cut-rst", "stall", "internal-error", "short-body", "flip", "flips"]
SOME += ["wrong-bytes", "expired-token", "missing"]
ERRORS: dict[str, type[ShardToolError]] = {
    **dict.fromkeys([*BREAKS, *REFUSALS, "flips", "mixed-bytes", "expired-token"], StoreError),
    **dict.fromkeys(["short-body", "unframed-cut", "html-200", "flip", "wrong-bytes"], ShardError),
    "wrong-range": StoreError,
    "missing": ObjectMissing,
}
"""What a lasting fault is reported as."""
TABLE = FaultTable()


@pytest.fixture(scope="module")
def world(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyWorld]:
    local = stored(tmp_path_factory.mktemp("local") / "voc", {"train": LENGTHS}, padding=4096)
    bucket = make_bucket(s3)
    urls = [f"{bucket}/copy-{number}" for number in range(NUM_COPIES)]
    for url in urls:
        upload(local, s3, url)
    samples = hashes_read(ShardDataset(str(local), decode=False, window=1))
    assert len(set(samples)) == sum(LENGTHS)
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "_SMALL_CHUNK", LENGTHS[0])  # samples are read a shard at a time
        yield FaultyWorld(local, urls, s3, proxy, samples, sizes_of(local))


@pytest.fixture(autouse=True)
def calm(world: FaultyWorld) -> Iterator[None]:
    """No fault, and nobody who fetches, is left over from test to test."""
    world.proxy.clear()
    world.proxy.reset()
    before = prefetching()
    yield
    world.proxy.clear()
    assert eventually(lambda: prefetching() <= before), "a prefetch thread outlives its dataset"


@pytest.fixture(scope="module")
def calm_s(world: FaultyWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Seconds an undisturbed run takes, by way: the longest of three side by side."""
    seconds = {}
    for way in (WAYS[0], *WAYS):  # the first of all pays for imports
        caches = [tmp_path_factory.mktemp("cache") for _ in range(3)]
        outcomes = side_by_side(lambda i: run(lambda: world.dataset(caches[i], way, copy=i)), 3)  # noqa: B023
        seconds[way] = max(outcome.seconds for outcome in outcomes)
    return seconds


def assert_is_undisturbed(outcome: Outcome, world: FaultyWorld) -> None:
    if outcome.error is not None:
        raise outcome.error
    assert outcome.samples == world.samples


def assert_is_clear_error(
    outcome: Outcome, world: FaultyWorld, error: type[ShardToolError], place: str
) -> None:
    """An error that names the object, after so many attempts and none but right samples."""
    assert isinstance(outcome.error, error), outcome
    assert place in str(outcome.error)
    assert outcome.attempts <= MOST_ATTEMPTS, outcome
    assert outcome.samples == world.samples[: len(outcome.samples)]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_bytes_are_read_the_way_a_test_names(world: FaultyWorld, tmp_path: Path, way: str) -> None:
    outcome = run(lambda: world.dataset(tmp_path, way))
    assert_is_undisturbed(outcome, world)
    requests = world.proxy.requests
    by_way = {w: [name for r in requests if (name := world.goes(w, r))] for w in WAYS}
    if way == "prefetch":  # while the first shard is on its way, its samples are read through
        assert eventually(
            lambda: (
                sorted(n for r in requests if (n := world.goes("prefetch", r))) == sorted(SHARDS)
            )
        )
        assert len(set(by_way["read-through"])) <= 1
    else:
        assert by_way == {"prefetch": [], "read-through": by_way["read-through"]}
        assert len(by_way["read-through"]) == sum(LENGTHS)


# Faults that pass -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_promise_7_a_fault_that_passes_changes_no_sample(
    world: FaultyWorld, tmp_path: Path, calm_s: dict[str, float], kind: Kind
) -> None:
    """At every shard of a run; a run for each way and each place in the body."""
    times = 6 if kind == "slow-down" else 1
    cases = [(way, at) for way in WAYS for at in places(kind)]

    def run_through(copy: int) -> Outcome:
        way, at = cases[copy]
        world.inject(kind, way, at=at, times=times, copy=copy)
        patience_s = 4 if kind == "stall" else PATIENCE_S  # of which a stall costs a quarter
        data = world.dataset(tmp_path / str(copy), way, copy=copy, limit_s=patience_s)
        outcome = run(lambda: data)
        assert_is_undisturbed(outcome, world)
        if way == "prefetch":  # and what it left in the cache is as good
            assert_is_undisturbed(run(lambda: data), world)
        return outcome

    outcomes = side_by_side(run_through, len(cases))
    assert eventually(lambda: world.proxy.hits == times * len(SHARDS) * len(cases))
    assert_is_true(tmp_path)
    if kind in FAULTS:
        for (way, _), outcome in zip(cases, outcomes, strict=True):
            TABLE.note(kind, "once", outcome.name, outcome.seconds - calm_s[way])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_promise_7_a_fault_of_manifest_and_indexes_that_passes_changes_no_sample(
    world: FaultyWorld, tmp_path: Path, kind: Kind
) -> None:
    names = [f"{shard}.idx" for shard in SHARDS]
    if kind not in OF_RANGES:  # the manifest is asked for as a whole
        names += ["manifest.json"]

    def run_through(copy: int) -> Outcome:
        for name in names:
            world.inject_at(kind, name, at=places(kind)[copy], times=1, copy=copy)
        patience_s = 4 if kind == "stall" else PATIENCE_S
        return run(lambda: world.dataset(tmp_path / str(copy), copy=copy, limit_s=patience_s))

    for outcome in side_by_side(run_through, len(places(kind))):
        assert_is_undisturbed(outcome, world)
    assert world.proxy.hits == len(names) * len(places(kind))
    assert_is_true(tmp_path)


BRIEFLY = [kind for kind in KINDS if kind not in ("stall", "expired-token")]
"""Faults that may go on for seconds: a stall takes them by itself, a token is renewed at once."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PausesOnly:
    return only_pauses_count(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", BRIEFLY)
def test_promise_7_a_fault_that_goes_on_for_seconds_changes_no_sample(
    world: FaultyWorld, tmp_path: Path, clock: PausesOnly, kind: Kind, way: str
) -> None:
    """As a gateway that is started again makes them; wrong bytes that do not vary are believed."""
    world.inject_for(kind, 5, clock, way=way)
    outcome = run(lambda: world.dataset(tmp_path, way, limit_s=600))
    is_short = kind == "wrong-bytes" and way == "prefetch"  # no bytes of a whole shard are as many
    if kind in ALWAYS_THE_SAME and not is_short:
        assert_is_clear_error(outcome, world, ShardError, f"{world.urls[0]}/train-")
    else:
        assert_is_undisturbed(outcome, world)
        assert clock.seconds >= 5
    assert world.proxy.hits > 1
    assert_is_true(tmp_path)
    if kind in FAULTS:
        TABLE.note(kind, "for 5 s", outcome.name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest.json", f"{SHARDS[1]}.idx"])
@pytest.mark.parametrize("kind", [k for k in BRIEFLY if k not in OF_RANGES | ALWAYS_THE_SAME])
def test_promise_7_a_fault_of_manifest_or_index_that_goes_on_for_seconds_changes_no_sample(
    world: FaultyWorld, tmp_path: Path, clock: PausesOnly, kind: Kind, name: str
) -> None:
    world.inject_for(kind, 5, clock, name=name)
    outcome = run(lambda: world.dataset(tmp_path, limit_s=600, opening_s=600))
    assert_is_undisturbed(outcome, world)
    assert clock.seconds >= 5
    assert_is_true(tmp_path)


@pytest.mark.parametrize("text", ['"dog', '"task": "de', '"index_sha256": "', '"name": "tr'])
def test_promise_7_a_flipped_bit_of_the_manifest_is_noticed(
    world: FaultyWorld, tmp_path: Path, text: str
) -> None:
    """Where the manifest with it is as good as any: a class, the task, a digest, a shard's name."""
    content = (world.local / "manifest.json").read_bytes()
    at = (content.index(text.encode()) + len(text) - 0.5) / len(content)
    world.proxy.inject(Fault("flip", at=at, path="manifest.json"))
    data = world.dataset(tmp_path)
    assert world.proxy.hits == 1
    assert data.classes == {"dog": 1}
    assert_is_undisturbed(run(lambda: data), world)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_promise_7_shards_replaced_and_put_back_change_no_sample(
    world: FaultyWorld, tmp_path: Path, calm_s: dict[str, float], way: str
) -> None:
    # the shard read first is read through at once, and may be another for too long
    shards = world.shards_in_order[1:] if way == "prefetch" else SHARDS
    until = 1 if way == "prefetch" else LENGTHS[0]
    with world.replaced(way, *shards, until=until) as asked:
        outcome = run(lambda: world.dataset(tmp_path, way))
    assert all(asked[shard] > until for shard in shards)
    assert_is_undisturbed(outcome, world)
    assert_is_true(tmp_path)
    TABLE.note("replaced", "once", outcome.name, outcome.seconds - calm_s[way])


@pytest.mark.slow
def test_promise_7_a_shard_replaced_between_its_parts_is_fetched_from_its_beginning(
    world: FaultyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", 10_000)
    second = (10_000, 20_000)

    def put_again(request: Request) -> None:  # another version of it, for S3, until it is over
        if request.range == second and request.path.endswith(SHARDS[1]) and len(seen) < 2:
            seen.append(request)
            upload(world.local, world.s3, world.urls[0])

    seen: list[Request] = []
    world.proxy.on_request = put_again
    outcome = run(lambda: world.dataset(tmp_path))
    world.proxy.on_request = None
    assert_is_undisturbed(outcome, world)
    assert_is_true(tmp_path)


def test_a_missing_shard_is_not_asked_for_again(world: FaultyWorld, tmp_path: Path) -> None:
    world.inject("missing", "read-through")
    outcome = run(lambda: world.dataset(tmp_path, "read-through"))
    assert_is_clear_error(outcome, world, ObjectMissing, world.urls[0])
    assert world.proxy.hits == 1
    TABLE.note("missing", "once", outcome.name, outcome.seconds)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_promise_7_faults_of_all_kinds_at_random_change_no_sample(
    world: FaultyWorld, tmp_path: Path, seed: int
) -> None:
    """One request in four, anything of it; never the same request thrice, or twice in one way."""
    noise = random.Random(seed)
    kinds: list[Kind] = [*BREAKS[:2], *REFUSALS, *WRONG]
    hit: dict[tuple[str, object], set[Kind]] = defaultdict(set)

    def is_unlucky(kind: Kind, request: Request) -> bool:
        those = hit[request.path, request.range]
        if noise.random() > 0.25 / len(kinds) * 2 or len(those) >= 2 or kind in those:
            return False
        those.add(kind)
        return True

    for kind in noise.sample(kinds, len(kinds)):
        where = partial(is_unlucky, kind)
        at = noise.random()
        world.proxy.inject(Fault(kind, times=None, at=at, path="/copy-0/", where=where))
    for way in WAYS:
        assert_is_undisturbed(run(lambda way=way: world.dataset(tmp_path / way, way)), world)  # type: ignore[misc]
        assert_is_true(tmp_path)
    assert world.proxy.hits >= 3


@pytest.mark.usefixtures("clock")
def test_a_fault_that_passes_before_its_shard_is_needed_ends_no_run(
    world: FaultyWorld, tmp_path: Path
) -> None:
    """The prefetcher found the shard wrong, until its time was up."""
    second = world.shards_in_order[1]
    is_prefetched = lambda request: world.goes("prefetch", request) == second  # noqa: E731
    world.proxy.inject(Fault("html-200", times=None, path=second, where=is_prefetched))
    data = world.dataset(tmp_path)
    samples = iter(data)
    found = hashes_read([next(samples)])
    prefetcher = data._reader._prefetcher
    assert prefetcher is not None
    assert eventually(lambda: len(prefetcher.errors) == 1)
    world.proxy.clear()
    assert found + hashes_read(samples) == world.samples
    assert_is_true(tmp_path)


# Faults that last -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind != "replaced"])
def test_promise_7_a_fault_that_lasts_is_a_clear_error_in_time(
    world: FaultyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """At one shard of a run; a run for each way and each shard, at another place in the body."""
    limit_s = SILENT_S if kind == "stall" else LIMIT_S
    if kind != "stall":  # which is noticed by the time it takes
        only_pauses_count(monkeypatch)
    cases = [(way, number) for way in WAYS for number in range(len(SHARDS))]

    def run_up_to(copy: int) -> Outcome:
        way, number = cases[copy]
        at = places(kind)[number % len(places(kind))]
        place = world.inject_at(kind, SHARDS[number], at=at, copy=copy)
        cache = tmp_path / str(copy)
        outcome = run(lambda: world.dataset(cache, way, copy=copy, limit_s=limit_s))
        # other bytes of a whole shard are fewer: it ends where they should
        is_short = kind == "mixed-bytes" and way == "prefetch" and type(outcome.error) is ShardError
        assert_is_clear_error(outcome, world, ShardError if is_short else ERRORS[kind], place)
        return outcome

    outcomes = side_by_side(run_up_to, len(cases))
    assert world.proxy.hits >= len(cases)
    assert_is_true(tmp_path)
    for outcome in outcomes:
        TABLE.note(kind, "lasting", outcome.name, outcome.attempts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOME)
def test_promise_7_a_fault_of_manifest_or_index_that_lasts_is_a_clear_error_in_time(
    world: FaultyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """At one object of a run; each at another place in the body."""
    limit_s = SILENT_S if kind == "stall" else LIMIT_S
    if kind != "stall":
        only_pauses_count(monkeypatch)
    names = [f"{shard}.idx" for shard in SHARDS]
    if kind not in OF_RANGES and kind != "missing":  # without a manifest there is no dataset
        names += ["manifest.json"] * len(places(kind))

    def run_up_to(copy: int) -> Outcome:
        # nobody misses the newline at the end of a manifest
        at = min(places(kind)[copy % len(places(kind))], 0.99)
        place = world.inject_at(kind, names[copy], at=at, copy=copy)
        cache = tmp_path / str(copy)
        outcome = run(lambda: world.dataset(cache, copy=copy, limit_s=limit_s, opening_s=limit_s))
        # another range of an index lies behind its end, and the server says so
        error = ShardError if kind in OF_RANGES else ERRORS[kind]
        assert_is_clear_error(outcome, world, FormatError if error is ShardError else error, place)
        return outcome

    side_by_side(run_up_to, len(names))
    assert world.proxy.hits >= len(names)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_promise_7_a_shard_replaced_for_good_is_a_clear_error(
    world: FaultyWorld, tmp_path: Path, way: str
) -> None:
    for number, shard in enumerate(SHARDS):
        with world.replaced(way, shard) as asked:
            cache = tmp_path / str(number)
            outcome = run(lambda cache=cache: world.dataset(cache, way))  # type: ignore[misc]
        assert asked[shard]
        assert_is_true(cache)
        if way == "prefetch" and outcome.error is None:
            # the first one was read through before it was replaced
            assert_is_undisturbed(outcome, world)
            continue
        assert_is_clear_error(outcome, world, ShardError, f"{world.urls[0]}/{shard}")
        TABLE.note("replaced", "lasting", outcome.name, outcome.attempts)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_storage_that_goes_away_in_mid_run_is_a_clear_error_in_time(
    world: FaultyWorld, tmp_path: Path, clock: PausesOnly, way: str
) -> None:
    with fault_proxy(world.s3.endpoint_url) as proxy:
        data = replace(world, proxy=proxy).dataset(tmp_path, way, limit_s=LIMIT_S)
        samples = iter(data)
        assert hashes_read([next(samples)]) == world.samples[:1]
        del samples
    outcome = run(lambda: data)
    assert_is_clear_error(outcome, world, StoreError, f"{world.urls[0]}/train-")
    assert "not read after" in str(outcome.error)


# The page ---------------------------------------------------------------------------------------


def test_the_reliability_page_says_what_became_of_each_fault() -> None:
    """Write its table again with `python -m tests.write_reliability`."""
    found, page = TABLE.rows(), PAGE.read_text()
    if os.environ.get("RELIABILITY") == "write":
        assert list(found) == list(FAULTS), "write the page from a run of all tests"
        PAGE.write_text(with_rows(page, found))
        return
    said = rows_of(page)
    assert list(said) == list(FAULTS)
    for kind, row in found.items():  # of a part of the tests, a part of the rows
        for found_there, what in zip(row, said[kind], strict=True):
            if isinstance(what, str):
                assert found_there in ("", what), kind
