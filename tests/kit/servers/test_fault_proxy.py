"""The fault proxy passes requests on, records them, slows them down, and stops."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import IncompleteRead
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.servers import fault_proxy as fault_proxy_module
from tests.kit.servers import proxy_connections
from tests.kit.servers.fault_proxy import Fault, FaultProxy, Request, fault_proxy
from tests.kit.servers.plain_client import ask, connected, fetch
from tests.kit.servers.proxy_process import proxy_process
from tests.kit.servers.range_store import CONTENT, HALF, StoreServer

if TYPE_CHECKING:
    from collections.abc import Callable


def test_proxy_passes_on_what_it_gets_unchanged(store: StoreServer, proxy: FaultProxy) -> None:
    direct, proxied = fetch(store.url, Host="me"), fetch(proxy.url, Host="me")
    assert (proxied.status, proxied.body, proxied.headers["X-Host"]) == (200, CONTENT, "me")
    assert proxied.headers | {"Date": ""} == direct.headers | {"Date": ""}


def test_proxy_keeps_a_connection_until_an_answer_has_no_framing(proxy: FaultProxy) -> None:
    with connected(proxy.url) as connection:
        head = ask(connection, method="HEAD")
        assert (head.headers["Content-Length"], head.body) == ("2048", b"")
        for status in (204, 304, 412):
            assert ask(connection, f"/{status}").status == status
        assert ask(connection, "/chunked").body == b"abcde"
        assert ask(connection, Range="bytes=10-19").body == CONTENT[10:20]
        assert ask(connection, "/unframed").body == b"abc"
        assert [request.status for request in proxy.requests] == [200, 204, 304, 412, 200, 206, 200]
        assert proxy.num_connections == 1
        assert ask(connection).body == CONTENT
        assert proxy.num_connections == 2


def test_proxy_passes_on_bodies_with_a_length_in_chunks_and_after_a_continue(
    proxy: FaultProxy,
) -> None:
    body = CONTENT * 500
    digest = hashlib.sha256(body).hexdigest().encode()
    with connected(proxy.url) as connection:
        assert ask(connection, method="PUT", body=body).body == digest
        assert ask(connection, method="PUT", body=iter([body[:99], body[99:]])).body == digest
        connection.putrequest("PUT", "/a.tar")
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        assert connection.sock.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(body)
        assert connection.getresponse().read() == digest
    assert proxy.num_connections == 1


def test_proxy_closes_when_a_body_is_refused_before_it_was_sent(proxy: FaultProxy) -> None:
    with connected(proxy.url) as connection:
        headers = {"Expect": "100-continue", "Content-Length": "9"}
        refused = ask(connection, "/refused", "PUT", **headers)
        assert (refused.status, refused.body) == (403, b"no")
        assert connection.sock.recv(1) == b""


def test_proxy_connects_again_when_the_server_has_left(proxy: FaultProxy) -> None:
    with connected(proxy.url) as connection:
        assert ask(connection, "/leave").body == CONTENT
        time.sleep(0.05)
        assert ask(connection).body == CONTENT
    assert proxy.num_connections == 1


def test_proxy_breaks_an_answer_off_where_the_server_does(proxy: FaultProxy) -> None:
    with pytest.raises(IncompleteRead, match="3 bytes read"):
        fetch(proxy.url, "/broken")


def test_requests_record_the_question_and_the_answer(proxy: FaultProxy) -> None:
    fetch(proxy.url, "/voc/a%20b.tar?x=1", Range="bytes=5-9", **{"If-Match": '"e"'})
    (request,) = proxy.requests
    assert (request.method, request.path, request.query) == ("GET", "/voc/a b.tar", "x=1")
    assert (request.range, request.headers["if-match"]) == ((5, 10), '"e"')
    assert (request.status, request.body_bytes, request.fault) == (206, 5, None)
    assert request.started_s < (request.ended_s or 0)
    assert "if-match" not in repr(request)


def test_round_trips_count_the_longest_chain(store: StoreServer) -> None:
    with fault_proxy(store.url, latency_s=0.03) as proxy, ThreadPoolExecutor(4) as pool:
        start_s = time.perf_counter()
        for _ in range(3):
            fetch(proxy.url)
        assert time.perf_counter() - start_s >= 0.09
        assert proxy.round_trips() == 3
        list(pool.map(fetch, [proxy.url] * 4))
        assert (proxy.round_trips(), len(proxy.requests)) == (4, 7)
        assert proxy.body_bytes == 7 * len(CONTENT)


def at_rest(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Stop the proxy's clock; gives how long it would have waited at most, since then."""
    waits = [0.0]

    def wait(timeout: float | None = None) -> bool:
        waits.append(timeout or 0.0)
        return False

    monkeypatch.setattr(proxy.stopped, "wait", wait)
    stopped = SimpleNamespace(perf_counter=lambda: 0.0)
    for module in (fault_proxy_module, proxy_connections):
        monkeypatch.setattr(module, "time", stopped)
    return lambda: max(waits)


def test_bandwidth_is_limited(store: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with fault_proxy(store.url, bytes_per_s=20_000) as proxy:
        assert fetch(proxy.url).body == CONTENT
        longest_wait_s = at_rest(proxy, monkeypatch)
        assert fetch(proxy.url).body == CONTENT
        assert longest_wait_s() == pytest.approx(len(CONTENT) / 20_000)


def test_bandwidth_of_all_connections_together_is_limited(
    store: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_proxy(store.url) as proxy, ThreadPoolExecutor(4) as pool:
        proxy.link_bytes_per_s = 40_000
        longest_wait_s = at_rest(proxy, monkeypatch)
        assert list(pool.map(lambda _: fetch(proxy.url).body, range(4))) == 4 * [CONTENT]
        assert longest_wait_s() == pytest.approx(4 * len(CONTENT) / 40_000)


def test_callback_may_change_the_store_before_a_request_reaches_it(
    store: StoreServer, proxy: FaultProxy
) -> None:
    def change(request: Request) -> None:
        store.content = b"new" if request.range else CONTENT

    proxy.on_request = change
    assert [fetch(proxy.url).body, fetch(proxy.url, Range="bytes=0-").body] == [CONTENT, b"new"]


def test_a_failing_callback_is_reported(
    store: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    unhandled: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)

    def fail(_: object) -> None:
        raise KeyError("a bug in a test")

    with fault_proxy(store.url) as proxy:
        proxy.on_request = fail
        with pytest.raises(ConnectionError):
            fetch(proxy.url)
    assert [repr(args.exc_value) for args in unhandled] == ["KeyError('a bug in a test')"]


def test_proxy_stops_while_clients_are_connected(store: StoreServer) -> None:
    with ExitStack() as clients:
        with fault_proxy(store.url) as proxy:
            proxy.inject(Fault("stall"))
            stalled, idle, silent = (clients.enter_context(connected(proxy.url)) for _ in range(3))
            stalled.request("GET", "/a.tar")
            assert stalled.getresponse().read(HALF) == CONTENT[:HALF]
            assert ask(idle).body == CONTENT
            silent.connect()
        assert idle.sock.recv(1) == b""


def test_proxy_runs_in_a_process_of_its_own(store: StoreServer) -> None:
    with proxy_process(store.url, latency_s=0.001, bytes_per_s=1e6) as proxy:
        assert proxy.tell({"kind": "short-body", "at": 0.25})["hits"] == 0
        assert [len(fetch(proxy.url).body) for _ in range(2)] == [512, 2048]
        stats = proxy.tell("stats")
        assert stats.pop("cpu_s") > 0
        assert stats == {
            "requests": 2,
            "body_bytes": 2560,
            "round_trips": 2,
            "hits": 1,
            "connections": 2,
        }
        assert proxy.tell("reset")["requests"] == 0
    with pytest.raises(ConnectionError):
        fetch(proxy.url)
