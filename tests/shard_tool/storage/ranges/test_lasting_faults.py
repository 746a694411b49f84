"""Faults that last are an error in time, which says what was wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import ObjectMissing, ShardError, StoreError
from shard_tool.storage import ranges
from shard_tool.storage.location import Folder
from tests.kit.servers.fault_proxy import Fault
from tests.kit.servers.http_server import Reply, serve
from tests.kit.servers.ranged_object import (
    BREAKS,
    CONTENT,
    LONGEST_PAUSE_S,
    MOST_ATTEMPTS,
    NAME,
    SECRET,
    SHORT_S,
    TIMEOUT_S,
    WRONG,
    Store,
    read_in_parts,
    read_part,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kit.clock import PausesOnly
    from tests.kit.faults.kinds import Kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", BREAKS)
def test_a_fault_that_lasts_is_an_error_when_the_time_is_up(
    store: Store, kind: Kind, clock: PausesOnly, assert_no_secret: Callable[[BaseException], None]
) -> None:
    store.proxy.inject(Fault(kind, times=None, at=0.9))
    problem = rf"not read after (\d+) attempts? in {SHORT_S} s \(last: \w+(: \w+)?\)"
    with pytest.raises(StoreError, match=rf"{NAME} bytes 5000-9000: {problem}$") as caught:
        read_part(replace(store.folder, timeout_s=SHORT_S))
    assert_no_secret(caught.value)
    said = re.search(problem, str(caught.value))
    assert said
    attempts = int(said[1])
    assert 3 <= attempts <= MOST_ATTEMPTS
    assert attempts == len(clock.pauses) + 1
    # aiohttp repeats once by itself what was reset before an answer came. The time may be up before
    # the request of the last attempt arrives.
    assert attempts - 1 <= len(store.proxy.requests) == store.proxy.hits <= 2 * attempts
    assert clock.seconds <= SHORT_S


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_answers_are_an_error_when_the_time_is_up_and_not_before(
    store: Store, kind: Kind, clock: PausesOnly, assert_no_secret: Callable[[BaseException], None]
) -> None:
    store.proxy.inject(Fault(kind, times=None))
    problem = r"bytes, asked for 4000 \((\d+) attempts in 60 s\); the object is cut"
    with pytest.raises(ShardError, match=problem) as caught:
        read_part(store.folder)
    said = re.search(problem, str(caught.value))
    assert said
    assert store.proxy.hits == len(store.proxy.requests) == int(said[1]) == len(clock.pauses) + 1
    assert TIMEOUT_S - LONGEST_PAUSE_S <= clock.seconds <= TIMEOUT_S
    assert_no_secret(caught.value)


@pytest.mark.parametrize("kind", [*WRONG, "ignore-range"])
def test_answers_that_are_wrong_for_seconds_are_retried(
    store: Store, kind: Kind, clock: PausesOnly
) -> None:
    """As a gateway that is started again gives them."""
    store.proxy.inject(Fault(kind, times=None, where=lambda _: clock.seconds < 5))
    assert read_part(store.folder) == CONTENT[5_000:9_000]
    assert store.proxy.hits == len(clock.pauses) >= 6


def test_an_object_whose_size_differs_from_the_manifest_is_an_error(on_s3: Store) -> None:
    """Its ETag is a digest: the same size of the same version twice is what S3 holds."""
    on_s3.put(CONTENT + b"more")
    problem = r"20004 bytes, the manifest says 20000 \(the same in 2 answers\)"
    with pytest.raises(ShardError, match=problem):
        list(read_in_parts(on_s3.folder))


@pytest.mark.usefixtures("small_parts", "clock")
def test_a_wrong_answer_leaves_no_version_to_compare_with(
    on_s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the right ones after it would be taken for another object."""

    async def of_a_gateway(*args: Any) -> tuple[bytes, str | None]:
        content, etag = await asked(*args)
        return (content, etag) if asked_for.pop() else (b"<html>", '"of-the-page"')

    asked, asked_for = ranges._ask_s3, [True] * 9 + [False]
    monkeypatch.setattr(ranges, "_ask_s3", of_a_gateway)
    assert b"".join(read_in_parts(on_s3.folder)) == CONTENT


def test_a_missing_object_is_requested_once(
    store: Store, assert_no_secret: Callable[[BaseException], None]
) -> None:
    store.proxy.inject(Fault("missing", times=None))
    with pytest.raises(ObjectMissing) as caught:
        read_part(store.folder)
    assert len(store.proxy.requests) == 1
    assert_no_secret(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cause"),
    [("internal-error", "OSError: InternalError"), ("slow-down", "OSError: SlowDown")],
)
def test_the_error_names_the_answer_of_storage(on_s3: Store, kind: Kind, cause: str) -> None:
    on_s3.proxy.inject(Fault(kind, times=None))
    with pytest.raises(StoreError, match=rf"\(last: {cause}\)"):
        read_part(replace(on_s3.folder, timeout_s=SHORT_S))


def test_the_error_names_the_status_of_a_web_server(on_the_web: Store) -> None:
    on_the_web.proxy.inject(Fault("slow-down", times=None))
    with pytest.raises(StoreError, match=r"\(last: ClientResponseError: 503\)"):
        read_part(replace(on_the_web.folder, timeout_s=SHORT_S))


@pytest.mark.parametrize("status", [400, 405, 410])
def test_a_request_that_a_server_rejects_is_not_retried(status: int) -> None:
    with serve(CONTENT, Reply(status=status, body=b"no")) as server:
        with pytest.raises(StoreError, match=rf"cannot be read \(ClientResponseError: {status}\)"):
            read_part(Folder(server.url, timeout_s=TIMEOUT_S))
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 429])
def test_a_request_that_a_server_postpones_is_retried(status: int) -> None:
    with serve(CONTENT, Reply(status=status, body=b"later"), Reply()) as server:
        assert read_part(Folder(server.url, timeout_s=TIMEOUT_S), 0, len(CONTENT)) == CONTENT
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("url", "options", "cause"),
    [
        ("s3://Bad_Bucket!", {}, "ParamValidationError"),
        (
            "s3://bucket",
            {"endpoint_url": "localhost:1"},
            "ValueError: Invalid endpoint: localhost:1",
        ),
        ("s3://bucket", {"profile": "typo"}, r"ProfileNotFound: The config profile \(typo\)"),
    ],
)
def test_a_mistake_in_url_or_options_is_an_error_at_once(
    url: str, options: dict[str, str], cause: str, clock: PausesOnly
) -> None:
    known = {"key": "key", "secret": SECRET} if "profile" not in options else {}
    problem = rf"{url}/{NAME}: cannot be read \({cause}.*check the URL and the storage options$"
    with pytest.raises(StoreError, match=problem):
        read_part(Folder(url, known | options, timeout_s=60))
    assert clock.pauses == []


@pytest.mark.parametrize(
    ("url", "options", "name"),
    [
        ("s3://bucket", {"endpont_url": "http://127.0.0.1:1"}, "endpont_url"),
        ("s3://bucket", {"client_kwargs": {"regoin": "x"}}, "regoin"),
        ("http://127.0.0.1:1", {"hedaers": {}}, "hedaers"),
    ],
)
def test_an_unknown_option_is_named(url: str, options: dict[str, Any], name: str) -> None:
    known = {"key": "key", "secret": SECRET} if url.startswith("s3") else {}
    with pytest.raises(StoreError) as caught:
        read_part(Folder(url, known | options, timeout_s=60))
    problem = f"cannot be read: there is no storage option {name!r} here; check its spelling"
    assert str(caught.value) == f"{url}/{NAME}: {problem}"
