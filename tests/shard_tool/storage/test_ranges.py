"""Bytes by range: the same from every storage, through faults of the way, within a time limit."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.core import url_to_fs
from s3fs import S3FileSystem

from shard_tool.errors import ObjectMissing, ShardError, StoreError
from shard_tool.storage import event_loop, ranges
from shard_tool.storage.location import Folder
from shard_tool.storage.ranges import ObjectReplacedError, Range, read_parts, read_ranges
from tests.kit.clock import PausesOnly, only_pauses_count
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.kit.servers.http_server import Reply, serve
from tests.kit.servers.s3 import S3, make_bucket, put
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.kit.faults.kinds import Kind, Request

NAME = "train-000000.tar"
CONTENT = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(625))
PART = 4_000
"""Bytes of a part where a test reads several: a fifth of the content."""
SECRET = "tr0ub4dor"
TIMEOUT_S = 60.0
"""No run comes near a quarter of it, after which an attempt counts as stalled: on a busy machine
a slow answer would be asked for twice, and these tests count requests."""
STALLED_S = 8.0
"""The time limit where something stalls, which costs a quarter of it."""
SHORT_S = 0.6
"""The time limit where it is reached."""
LONGEST_PAUSE_S = 8.0
MOST_ATTEMPTS = 5
"""Attempts in `SHORT_S` with the shortest pauses: after 0.05, 0.1, 0.2 and 0.4 s it is over."""
IN_BODIES = {"cut-fin", "cut-rst", "chunked-cut", "unframed-cut", "short-body"}
"""Faults with a place in the body; a stall has one, too, and takes two seconds each time."""

BREAKS: list[Kind] = [
    "cut-fin",
    "cut-rst",
    "chunked-cut",
    "stall",
    "reset-before-headers",
    "lost-answer",
    "internal-error",
    "slow-down",
]
"""Faults after which it may go better; a lasting one is an error when the time is up."""
WRONG: list[Kind] = ["short-body", "unframed-cut", "html-200"]
"""Answers that look whole and have another length."""


@dataclass
class Store:
    """One object somewhere, as the code under test reaches it and as the test does."""

    folder: Folder
    put: Callable[[bytes], object]
    proxy: FaultProxy

    @property
    def ranges_asked(self) -> list[tuple[int, int | None] | None]:
        return [request.range for request in self.proxy.requests]


@pytest.fixture(scope="module")
def s3_proxy(s3: S3) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def s3_url(s3: S3) -> str:
    return f"{make_bucket(s3)}/voc"


@pytest.fixture(scope="module")
def web_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def web_proxy(web_folder: Path) -> Iterator[FaultProxy]:
    with web_server(web_folder) as url, fault_proxy(url) as proxy:
        yield proxy


@pytest.fixture
def on_s3(s3: S3, s3_url: str, s3_proxy: FaultProxy) -> Store:
    options: dict[str, Any] = dict(s3.through(s3_proxy).storage_options)
    options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}  # all repetitions are ours
    folder = Folder(s3_url, options, timeout_s=TIMEOUT_S)
    return afresh(Store(folder, lambda content: put(s3, f"{s3_url}/{NAME}", content), s3_proxy))


@pytest.fixture
def on_the_web(web_folder: Path, web_proxy: FaultProxy) -> Store:
    url = web_proxy.url.replace("://", f"://me:{SECRET}@")
    folder = Folder(url, timeout_s=TIMEOUT_S)
    return afresh(Store(folder, (web_folder / NAME).write_bytes, web_proxy))


@pytest.fixture(params=["on_s3", "on_the_web"])
def store(request: pytest.FixtureRequest) -> Store:
    """A store behind a proxy, which may break what comes from it."""
    found: Store = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["memory", "file", "on_s3", "on_the_web"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder that holds the content, anywhere."""
    if request.param == "memory":
        fsspec.filesystem("memory").pipe_file(f"/ranges/{NAME}", CONTENT)
        return Folder("memory://ranges", timeout_s=TIMEOUT_S)
    if request.param == "file":
        (tmp_path / NAME).write_bytes(CONTENT)
        return Folder(f"file://{tmp_path}", timeout_s=TIMEOUT_S)
    found: Store = request.getfixturevalue(request.param)
    return found.folder


def afresh(store: Store) -> Store:
    store.proxy.clear()
    store.proxy.on_request, store.proxy.latency_s = None, 0.0
    store.put(CONTENT)
    store.proxy.reset()
    return store


def patient_with(store: Store, kind: Kind) -> Folder:
    """The folder, with the time limit for a fault."""
    return replace(store.folder, timeout_s=STALLED_S) if kind == "stall" else store.folder


def read_part(folder: Folder, start: int = 5_000, stop: int = 9_000) -> bytes:
    (content,) = folder.read_ranges([(NAME, start, stop)])
    return content


def read_in_parts(folder: Folder, start: int = 0, stop: int = len(CONTENT)) -> Iterator[bytes]:
    return folder.read_parts(NAME, start, stop, num_bytes=len(CONTENT))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PausesOnly:
    return only_pauses_count(monkeypatch)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", PART)


# The same from everywhere -----------------------------------------------------------------------


def test_a_whole_object_is_read(folder: Folder) -> None:
    assert folder.read(NAME) == CONTENT


def test_ranges_come_in_the_order_they_were_asked_for(folder: Folder) -> None:
    places = [(19_000, 20_000), (0, 1), (7, 7_000), (0, 20_000), (19_999, 20_000), (7, 7_000)]
    found = folder.read_ranges([(NAME, start, stop) for start, stop in places])
    assert found == [CONTENT[start:stop] for start, stop in places]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("start", "stop"), [(0, 20_000), (1, 8_001), (3_999, 4_001), (5, 5)])
def test_parts_make_up_the_requested_range(folder: Folder, start: int, stop: int) -> None:
    parts = list(read_in_parts(folder, start, stop))
    assert b"".join(parts) == CONTENT[start:stop]
    assert all(0 < len(part) <= PART for part in parts)


def test_a_missing_object_is_reported_as_missing(folder: Folder) -> None:
    for read in (
        lambda: folder.read("none.tar"),
        lambda: folder.read_ranges([(NAME, 0, 9), ("none.tar", 0, 9)]),
        lambda: list(folder.read_parts("none.tar", 0, 9, num_bytes=9)),
    ):
        with pytest.raises(ObjectMissing, match=r"none\.tar: there is no such object$"):
            read()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("start", [19_000, 20_000, 30_000])
def test_an_object_that_ends_before_the_range_is_an_error(folder: Folder, start: int) -> None:
    times = r"\((\d+ attempts in 60 s|the same in 2 answers)\)"
    with pytest.raises(ShardError, match=rf"{NAME} bytes {start}-40000: .*{times}"):
        read_part(folder, start, 40_000)


# How it is asked for ----------------------------------------------------------------------------


def most_at_once(requests: list[Request]) -> int:
    """Of how many requests the times overlap."""
    starts = [(request.started_s, 1) for request in requests]
    ends = [(request.ended_s, -1) for request in requests if request.ended_s is not None]
    return max(itertools.accumulate(change for _, change in sorted(starts + ends)))


@pytest.mark.parametrize("in_flight", [1, 3])
def test_requests_run_concurrently_up_to_a_limit(store: Store, in_flight: int) -> None:
    store.proxy.latency_s = 0.02
    fs, path = url_to_fs(store.folder.url, **store.folder.options)
    wanted = [Range(f"{path}/{NAME}", "it", start, start + 100) for start in range(0, 900, 100)]
    assert b"".join(read_ranges(fs, wanted, in_flight=in_flight)) == CONTENT[:900]
    assert len(store.proxy.requests) == len(wanted)
    assert most_at_once(store.proxy.requests) == in_flight


def test_a_folder_requests_sixteen_ranges_at_a_time(store: Store) -> None:
    store.proxy.latency_s = 0.1
    wanted = [(NAME, start, start + 100) for start in range(0, 4_000, 100)]
    assert b"".join(store.folder.read_ranges(wanted)) == CONTENT[:4_000]
    assert 8 < most_at_once(store.proxy.requests) <= 16


def test_an_error_leaves_no_requests_behind(store: Store) -> None:
    store.proxy.latency_s = 0.02
    wanted = [("none.tar", 0, 9), *((NAME, start, start + 9) for start in range(500))]
    with pytest.raises(ObjectMissing):
        store.folder.read_ranges(wanted)
    loop = event_loop.loop_of(store.folder._fs_path()[0])
    assert not [task for task in asyncio.all_tasks(loop) if "read_one" in repr(task)]
    assert len(store.proxy.requests) < 50


@pytest.mark.usefixtures("small_parts")
def test_one_part_is_fetched_ahead_and_no_more(store: Store) -> None:
    parts = read_in_parts(store.folder)
    for taken in (1, 2):
        next(parts)
        expected = [(i * PART, i * PART + PART) for i in range(taken + 1)]
        assert eventually(lambda expected=expected: store.ranges_asked == expected)  # type: ignore[misc]
        loop = event_loop.loop_of(store.folder._fs_path()[0])
        running = [task for task in asyncio.all_tasks(loop) if "read_one" in repr(task)]
        assert len(running) <= 1
    del parts  # nobody waits for the part ahead
    assert len(store.proxy.requests) == 3


# Faults that pass -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "at"),
    [
        (kind, at)
        for kind in (*BREAKS, *WRONG)
        for at in ((0.0, 0.5, 1.0) if kind in IN_BODIES else (0.5,))
    ],
)
def test_a_passing_fault_is_retried(store: Store, kind: Kind, at: float) -> None:
    store.proxy.inject(Fault(kind, at=at))
    assert read_part(patient_with(store, kind)) == CONTENT[5_000:9_000]
    assert store.proxy.hits == 1


def test_an_answer_with_another_range_is_retried(on_s3: Store) -> None:
    on_s3.proxy.inject(Fault("wrong-range", times=2))
    assert read_part(on_s3.folder) == CONTENT[5_000:9_000]
    assert on_s3.proxy.hits == 2


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("at", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["cut-fin", "cut-rst", "stall", "short-body", "slow-down"])
def test_a_download_goes_on_from_the_part_that_failed(store: Store, kind: Kind, at: float) -> None:
    third = (2 * PART, 3 * PART)
    store.proxy.inject(Fault(kind, at=at, where=lambda request: request.range == third))
    assert b"".join(read_in_parts(patient_with(store, kind))) == CONTENT
    assert store.proxy.hits == 1
    parts = [(start, start + PART) for start in range(0, len(CONTENT), PART)]
    assert store.ranges_asked == [*parts[:3], third, *parts[3:]]


@pytest.mark.usefixtures("small_parts")
def test_all_parts_of_a_download_are_of_one_version(on_s3: Store) -> None:
    on_s3.proxy.inject(Fault("cut-rst", where=lambda request: (request.range or (0,))[0] > 0))
    assert b"".join(read_in_parts(on_s3.folder)) == CONTENT
    etags = [request.headers.get("if-match") for request in on_s3.proxy.requests]
    assert len(etags) == 6
    assert etags[0] is None
    assert {str(etag).strip('"') for etag in etags[1:]} == {hashlib.md5(CONTENT).hexdigest()}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT[:9_000]], ids=["as long", "shorter"])
def test_an_object_replaced_while_it_is_read_is_noticed(on_s3: Store, other: bytes) -> None:
    def put_another(request: Request) -> None:
        if request.range == (2 * PART, 3 * PART):
            on_s3.put(other)

    on_s3.proxy.on_request = put_another
    with pytest.raises(ObjectReplacedError, match=f"{NAME}: was replaced while it was read"):
        list(read_in_parts(on_s3.folder))
    assert len(on_s3.proxy.requests) == 3  # and is not asked for again: it is another one now


@pytest.mark.usefixtures("small_parts")
def test_the_same_bytes_uploaded_again_are_no_replacement(on_s3: Store) -> None:
    def put_again(request: Request) -> None:
        on_s3.put(CONTENT)

    on_s3.proxy.on_request = put_again
    assert b"".join(read_in_parts(on_s3.folder)) == CONTENT


# Faults that last -------------------------------------------------------------------------------


@pytest.fixture
def assert_no_secret(s3: S3, caplog: pytest.LogCaptureFixture) -> Callable[[BaseException], None]:
    """Neither in an error, its causes and traceback (which a parent logs), nor in the log."""

    def check(error: BaseException) -> None:
        text = "".join(traceback.format_exception(error)) + caplog.text
        for secret in (SECRET, s3.secret, "Signature", "Authorization"):
            assert secret not in text

    return check


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
    # aiohttp repeats once by itself what was reset before an answer came
    assert attempts <= len(store.proxy.requests) == store.proxy.hits <= 2 * attempts
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


# Credentials ------------------------------------------------------------------------------------


def test_refused_access_is_retried_once_and_then_an_error(
    store: Store, assert_no_secret: Callable[[BaseException], None]
) -> None:
    store.proxy.inject(Fault("expired-token"))
    assert read_part(store.folder) == CONTENT[5_000:9_000]
    store.proxy.reset()
    store.proxy.inject(Fault("expired-token", times=None))
    with pytest.raises(
        StoreError, match=rf"{NAME}: access refused .*check the credentials"
    ) as caught:
        read_part(store.folder)
    assert len(store.proxy.requests) == 2
    assert_no_secret(caught.value)


def test_renewed_credentials_are_read(
    s3: S3, on_s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"

    def write(secret: str) -> None:
        lines = ["[default]", f"aws_access_key_id={s3.key}", f"aws_secret_access_key={secret}"]
        file.write_text("\n".join(lines))

    def renew(request: Request) -> None:
        write(s3.secret)

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    write("of yesterday")
    on_s3.proxy.on_request = renew  # when the request is signed already, with the old one
    folder = Folder(on_s3.folder.url, {"endpoint_url": on_s3.proxy.url}, timeout_s=30)
    assert read_part(folder) == CONTENT[5_000:9_000]
    assert [request.status for request in on_s3.proxy.requests] == [403, 206]


@pytest.mark.parametrize("delay_s", [0, 9])
def test_credentials_that_cannot_be_renewed_are_an_error_in_time(
    on_s3: Store, monkeypatch: pytest.MonkeyPatch, delay_s: float
) -> None:
    class CredentialRetrievalError(Exception): ...

    set_session = S3FileSystem.set_session

    async def refused(self: Any, refresh: bool = False, **options: Any) -> Any:
        if refresh:
            await asyncio.sleep(delay_s)
            raise CredentialRetrievalError
        return await set_session(self, **options)

    monkeypatch.setattr(S3FileSystem, "set_session", refused)
    on_s3.proxy.inject(Fault("expired-token", times=None))
    problem = "access refused .*, and no others were found"
    with pytest.raises(StoreError, match=rf"{NAME}: {problem}"):
        read_part(replace(on_s3.folder, timeout_s=SHORT_S))


def test_requests_refused_together_read_credentials_together(
    on_s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    set_session = S3FileSystem.set_session

    async def counted(self: Any, refresh: bool = False, **options: Any) -> Any:
        made.append(refresh)
        return await set_session(self, refresh=refresh, **options)

    read_part(on_s3.folder)
    on_s3.proxy.latency_s = 0.05
    on_s3.proxy.inject(Fault("expired-token", times=16))
    monkeypatch.setattr(S3FileSystem, "set_session", counted)
    wanted = [(NAME, start, start + 100) for start in range(0, 3_200, 100)]
    assert b"".join(on_s3.folder.read_ranges(wanted)) == CONTENT[:3_200]
    assert on_s3.proxy.hits == 16
    assert 1 <= sum(made) <= 2


# Pauses, on a file system without a network ------------------------------------------------------


class Flaky:
    """Fails so many times."""

    protocol = "flaky"

    def __init__(self, num_failures: float) -> None:
        self.num_failures = num_failures
        self.num_calls = 0

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.num_calls += 1
        if self.num_calls <= self.num_failures:
            raise OSError("not just now")
        return CONTENT[start:end]


class SlowLink:
    """So many bytes a second; nothing comes before all of an answer does.

    An answer may take one second of the clock, as with a time limit of four.
    """

    protocol = "slow"

    def __init__(self, content: bytes, bytes_per_s: float, clock: PausesOnly) -> None:
        self.content, self.bytes_per_s, self.clock = content, bytes_per_s, clock
        self.asked: list[int] = []

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.asked.append(end - start)
        seconds = (end - start) / self.bytes_per_s
        self.clock.seconds += min(seconds, 1)
        if seconds > 1:
            raise TimeoutError
        return self.content[start:end]


def test_a_range_too_long_for_a_slow_connection_comes_in_chunks(clock: PausesOnly) -> None:
    """In the second of an answer 4 of the 8 MiB come; nothing would ever be there."""
    content = CONTENT * (ranges.PART_BYTES // len(CONTENT) + 1)
    link = SlowLink(content, 4 << 20, clock)
    wanted = Range("it", "it", 3, 3 + ranges.PART_BYTES)
    assert read_ranges(link, [wanted], timeout_s=4) == [content[wanted.start : wanted.stop]]
    assert link.asked[0] == ranges.PART_BYTES
    assert 4 <= len(link.asked) <= 16
    link.asked.clear()  # what was learnt holds for what is read next
    assert b"".join(read_parts(link, wanted, timeout_s=4)) == content[wanted.start : wanted.stop]
    assert max(link.asked) < ranges.PART_BYTES / 2
    link.bytes_per_s = 1 << 30
    read_ranges(link, [wanted], timeout_s=4)
    link.asked.clear()  # and is forgotten when the link is fast again
    read_ranges(link, [wanted], timeout_s=4)
    assert link.asked == [ranges.PART_BYTES]


def test_a_server_without_range_is_asked_for_the_whole_object_after_a_stall(
    clock: PausesOnly,
) -> None:
    class Whole(SlowLink):
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            self.asked.append(end - start)
            if len(self.asked) == 1:
                raise TimeoutError
            return self.content

    content = CONTENT * 20
    link = Whole(content, 0, clock)
    assert read_ranges(link, [Range("it", "it", 0, len(content))], timeout_s=6) == [content]
    assert link.asked == [len(content), ranges._SMALLEST_ASK, len(content)]


def test_an_object_replaced_between_two_chunks_of_a_range_is_read_again(on_s3: Store) -> None:
    whole = CONTENT * 20
    on_s3.put(whole)
    fs = on_s3.folder._fs_path()[0]
    ranges._paces[fs] = ranges._Pace(ask_bytes=ranges._SMALLEST_ASK)
    replaced = []

    async def replacing(*args: Any) -> bytes:
        content = await asked(*args)
        if not replaced:
            replaced.append(on_s3.put(whole[::-1]))
        return content

    asked = ranges._ask_s3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "_ask_s3", replacing)
        wanted = [(NAME, 0, len(whole))]
        found = on_s3.folder.read_ranges(wanted)
    on_s3.put(CONTENT)
    assert replaced
    assert found == [whole[::-1]]


def test_a_connection_that_brings_next_to_nothing_is_an_error(clock: PausesOnly) -> None:
    link = SlowLink(CONTENT * 10, 10_000, clock)
    with pytest.raises(StoreError, match=r"not read after \d+ attempts in 2.5 s"):
        read_ranges(link, [Range("it", "it", 0, 150_000)], timeout_s=2.5)
    smallest = ranges._SMALLEST_ASK
    assert link.asked == [150_000, smallest, smallest]  # a second each, and pauses between


def pauses_of(num_failures: int, clock: PausesOnly) -> list[float]:
    clock.pauses = []
    read_ranges(Flaky(num_failures), [Range("it", "it", 0, 9)])
    return clock.pauses


def test_pauses_double_up_to_a_limit_and_are_random(clock: PausesOnly) -> None:
    first, second = pauses_of(12, clock), pauses_of(12, clock)
    longest = [min(0.1 * 2**i, LONGEST_PAUSE_S) for i in range(12)]
    for pauses in (first, second):
        assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert first != second


def test_pauses_count_towards_the_time_limit(clock: PausesOnly) -> None:
    problem = (
        r"it bytes 0-9: not read after (\d+) attempts in 0.5 s \(last: OSError: not just now\)"
    )

    fs = Flaky(1e9)
    with pytest.raises(StoreError, match=problem) as caught:
        read_ranges(fs, [Range("it", "it", 0, 9)], timeout_s=0.5)
    assert f"after {fs.num_calls} attempts" in str(caught.value)
    assert 0.1 < clock.seconds <= 0.5


def test_attempts_count_towards_the_time_limit(clock: PausesOnly) -> None:
    class Slow(Flaky):
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            clock.seconds += 3
            return super().cat_file(path, start, end)

    with pytest.raises(StoreError, match=r"not read after 4 attempts in 10 s"):
        read_ranges(Slow(1e9), [Range("it", "it", 0, 9)], timeout_s=10)


def test_many_failed_attempts_are_logged(
    clock: PausesOnly, caplog: pytest.LogCaptureFixture
) -> None:
    pauses_of(3, clock)
    assert not caplog.records
    pauses_of(9, clock)
    (record,) = caplog.records
    assert "it bytes 0-9: OSError: not just now; retrying for up to" in record.getMessage()


def test_a_bug_is_not_retried() -> None:
    class Broken:
        protocol = "broken"

        def cat_file(self, path: str, start: int, end: int) -> bytes:
            raise TypeError("a wrong argument")

    with pytest.raises(TypeError):
        read_ranges(Broken(), [Range("it", "it", 0, 9)])
