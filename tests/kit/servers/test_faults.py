"""Each kind of fault changes the answers it is for, and no others."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from defusedxml.ElementTree import fromstring

from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.kit.servers.plain_client import Answer, ask, connected, fetch, watch
from tests.kit.servers.range_store import CONTENT, HALF, StoreServer


@pytest.mark.parametrize(("at", "num_bytes"), [(0.0, 0), (0.5, HALF), (1.0, len(CONTENT) - 1)])
@pytest.mark.parametrize(
    ("kind", "end"), [("cut-fin", "fin"), ("cut-rst", "reset"), ("stall", "silence")]
)
def test_fault_breaks_an_answer_off(
    proxy: FaultProxy, kind: Any, end: str, at: float, num_bytes: int
) -> None:
    proxy.inject(Fault(kind, at=at))
    answer = watch(proxy.url)
    assert (answer.status, answer.headers["Content-Length"]) == (200, "2048")
    assert (answer.body, answer.end) == (CONTENT[:num_bytes], end)
    assert (proxy.hits, proxy.requests[0].fault, proxy.body_bytes) == (1, kind, num_bytes)


def test_cut_rst_sends_all_bytes_before_the_cut(store: StoreServer, proxy: FaultProxy) -> None:
    store.content = CONTENT * 8000  # more than sockets buffer
    proxy.inject(Fault("cut-rst"))
    answer = watch(proxy.url, pause_s=0.1)
    assert (len(answer.body), answer.end) == (len(store.content) // 2, "reset")


def test_chunked_cut_lacks_the_last_chunk(proxy: FaultProxy) -> None:
    proxy.inject(Fault("chunked-cut"))
    answer = watch(proxy.url)
    assert "Content-Length" not in answer.headers
    assert answer.headers["transfer-encoding"] == "chunked"
    assert (answer.body, answer.end) == (b"400\r\n%b\r\n" % CONTENT[:HALF], "fin")


def test_unframed_cut_looks_complete(proxy: FaultProxy) -> None:
    proxy.inject(Fault("unframed-cut"))
    answer = fetch(proxy.url)
    assert (answer.status, answer.body) == (200, CONTENT[:HALF])
    assert "Content-Length" not in answer.headers


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("slow-down", 503, "SlowDown"),
        ("internal-error", 500, "InternalError"),
        ("expired-token", 403, "ExpiredToken"),
        ("missing", 404, "NoSuchKey"),
        ("html-200", 200, None),
    ],
)
def test_fault_answers_in_place_of_the_store(
    store: StoreServer, proxy: FaultProxy, kind: Any, status: int, code: str | None
) -> None:
    proxy.inject(Fault(kind), Fault(kind, method="HEAD"), Fault(kind, method="PUT"))
    with connected(proxy.url) as connection:
        got = ask(connection)
        assert (got.status, got.headers["Content-Length"]) == (status, str(len(got.body)))
        assert fromstring(got.body).findtext("Code") == code
        assert (code is None) == (got.headers["Content-Type"] == "text/html")
        assert ask(connection, method="PUT", body=CONTENT) == got
        assert ask(connection, method="HEAD") == replace(got, body=b"")
        assert store.seen == []
        assert ask(connection).body == CONTENT
    assert (proxy.hits, proxy.num_connections) == (3, 1)


@pytest.mark.parametrize(
    ("kind", "seen"), [("reset-before-headers", []), ("lost-answer", ["PUT /a.tar"])]
)
def test_a_connection_is_reset_before_or_after_the_store_acts(
    store: StoreServer, proxy: FaultProxy, kind: Any, seen: list[str]
) -> None:
    proxy.inject(Fault(kind), Fault(kind, method="PUT"))
    assert watch(proxy.url) == Answer(0, {}, b"", "reset")
    store.seen.clear()
    with connected(proxy.url) as connection, pytest.raises(ConnectionError):
        ask(connection, method="PUT", body=CONTENT)
    assert store.seen == seen
    assert [request.status for request in proxy.requests] == [None, None]


def test_short_body_has_headers_that_fit_it(proxy: FaultProxy) -> None:
    proxy.inject(Fault("short-body", at=0.25), Fault("short-body", at=0.5))
    with connected(proxy.url) as connection:
        whole, part = ask(connection), ask(connection, Range="bytes=100-199")
        assert (whole.status, whole.body) == (200, CONTENT[:512])
        assert (part.status, part.body) == (206, CONTENT[100:150])
        assert part.headers["content-range"] == "bytes 100-149/2048"
        assert ask(connection).body == CONTENT


@pytest.mark.parametrize(("at", "place"), [(0.0, 0), (0.5, HALF), (1.0, len(CONTENT) - 1)])
def test_flip_changes_one_bit(proxy: FaultProxy, at: float, place: int) -> None:
    proxy.inject(Fault("flip", at=at))
    flipped = bytearray(CONTENT)
    flipped[place] ^= 1
    with connected(proxy.url) as connection:
        assert ask(connection).body == flipped
        assert ask(connection).body == CONTENT


@pytest.mark.parametrize(("kind", "stated_start"), [("wrong-range", 88), ("wrong-bytes", 600)])
def test_wrong_range_and_wrong_bytes_send_another_range(
    proxy: FaultProxy, kind: Any, stated_start: int
) -> None:
    proxy.inject(Fault(kind, times=2))
    answer = fetch(proxy.url, Range="bytes=600-699")
    assert (answer.status, answer.body) == (206, CONTENT[88:188])
    fields = {name.lower(): value for name, value in answer.headers.items()}
    assert fields["content-range"] == f"bytes {stated_start}-{stated_start + 99}/2048"
    assert fetch(proxy.url, Range="bytes=0-9").body == CONTENT[512:522]


def test_ignore_range_sends_the_whole_object(proxy: FaultProxy) -> None:
    proxy.inject(Fault("ignore-range"))
    assert fetch(proxy.url).body == CONTENT  # asks for no range
    assert proxy.hits == 0
    answer = fetch(proxy.url, Range="bytes=600-699")
    assert (answer.status, answer.body, proxy.hits) == (200, CONTENT, 1)


def test_changed_range_is_signed_again(store: StoreServer) -> None:
    def sign(method: str, target: str, headers: Any) -> dict[str, str]:
        return dict(headers) | {"Host": f"{method} {target}"}

    with fault_proxy(store.url, sign=sign) as proxy:
        proxy.inject(Fault("ignore-range"))
        answer = fetch(proxy.url, "/a.tar?x", Range="bytes=600-699")
    assert answer.headers["X-Host"] == "GET /a.tar?x"


def test_a_fault_hits_only_the_requests_it_is_for(proxy: FaultProxy) -> None:
    proxy.inject(
        Fault("missing", times=2, path=".tar", where=lambda request: request.range is None),
        Fault("slow-down", path=".json", method="HEAD"),
        Fault("internal-error", times=None, path="/b."),
    )
    hits = [
        ("GET", "/a.json", {}, 200),
        ("HEAD", "/a.json", {}, 503),
        ("HEAD", "/a.json", {}, 200),
        ("GET", "/b.tar", {"Range": "bytes=0-"}, 500),
        ("GET", "/b.tar", {}, 404),
        ("GET", "/c.tar?b.", {}, 404),
        ("GET", "/c.tar", {}, 200),
        ("GET", "/b.tar", {}, 500),
    ]
    with connected(proxy.url) as connection:
        for method, path, headers, status in hits:
            assert ask(connection, path, method, **headers).status == status
        assert proxy.hits == 5
        proxy.clear()
        assert ask(connection, "/b.tar").status == 200
    proxy.reset()
    assert (proxy.hits, proxy.requests, proxy.body_bytes, proxy.num_connections) == (0, [], 0, 0)


def test_fault_of_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^no fault 'cut'; there are slow-down, internal-error,"):
        Fault("cut")  # type: ignore[arg-type]


@pytest.mark.slow
def test_stalled_answer_ends_when_the_client_leaves(proxy: FaultProxy) -> None:
    proxy.inject(Fault("stall", times=None))
    num_threads = threading.active_count()
    for _ in range(3):
        assert watch(proxy.url).end == "silence"
    assert eventually(lambda: threading.active_count() <= num_threads)
