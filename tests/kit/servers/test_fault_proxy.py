"""The fault proxy does to answers what its faults say, and nothing to anything else."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from defusedxml.ElementTree import fromstring

from tests.kit.faults.kinds import parse_range
from tests.kit.processes.shard_tool import eventually
from tests.kit.servers import fault_proxy as fault_proxy_module
from tests.kit.servers.fault_proxy import Fault, FaultProxy, Request, fault_proxy, proxy_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTENT = b"".join(bytes([block]) * 512 for block in range(4))
HALF = len(CONTENT) // 2


class Store(BaseHTTPRequestHandler):
    """Answers with the content; a path such as /204 asks for another answer."""

    protocol_version = "HTTP/1.1"
    server: StoreServer

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.command} {self.path}")
        content = self.server.content
        if self.path == "/chunked":
            self.reply(200, {"Transfer-Encoding": "chunked"})
            self.wfile.write(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: z\r\n\r\n")
        elif self.path == "/broken":
            self.reply(200, {"Transfer-Encoding": "chunked"})
            self.wfile.write(b"3\r\nabc\r\n")
            self.close_connection = True
        elif self.path == "/unframed":
            self.reply(200, {"Connection": "close"}, b"abc")
        elif self.path[1:].isdecimal():
            self.reply(int(self.path[1:]), {"Content-Length": "0"})
        elif range_ := parse_range(self.headers.get("Range", "")):
            part = content[slice(*range_)]
            place = f"bytes {range_[0]}-{range_[0] + len(part) - 1}/{len(content)}"
            self.reply(206, {"Content-Range": place, "Content-Length": str(len(part))}, part)
        else:
            fields = {"Content-Length": str(len(content)), "X-Host": self.headers["Host"]}
            self.reply(200, fields, content)
        self.close_connection |= self.path == "/leave"  # without having said so

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.server.seen.append(f"{self.command} {self.path}")
        if "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        else:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size + 2)[:-2]
            self.rfile.readline()
        digest = hashlib.sha256(body).hexdigest().encode()
        self.reply(200, {"Content-Length": str(len(digest))}, digest)

    def handle_expect_100(self) -> bool:
        if self.path == "/refused":
            self.reply(403, {"Content-Length": "2"}, b"no")
            return False
        return super().handle_expect_100()

    def reply(self, status: int, fields: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep test output quiet."""


class StoreServer(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Store)
        self.content = CONTENT
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave early are what these tests are about."""


@pytest.fixture
def store() -> Iterator[StoreServer]:
    with StoreServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(store: StoreServer) -> Iterator[FaultProxy]:
    with fault_proxy(store.url) as proxy:
        yield proxy


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client was told; `end`: fin, reset or silence, after which it waits no longer."""

    status: int
    headers: dict[str, str]
    body: bytes
    end: str = ""


@contextmanager
def connected(url: str) -> Iterator[HTTPConnection]:
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=5)) as connection:
        yield connection


def ask(
    connection: HTTPConnection,
    path: str = "/a.tar",
    method: str = "GET",
    body: Any = None,
    **headers: str,
) -> Answer:
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return Answer(answer.status, dict(answer.headers.items()), answer.read())


def fetch(url: str, path: str = "/a.tar", method: str = "GET", **headers: str) -> Answer:
    with connected(url) as connection:
        return ask(connection, path, method, **headers)


def watch(url: str, *, pause_s: float = 0.0) -> Answer:
    """Whatever comes, by a client that trusts no header; status 0: nothing came."""
    at = urlsplit(url)
    content, end = b"", "fin"
    with socket.create_connection((at.hostname, at.port), timeout=0.2) as sock:
        sock.sendall(b"GET /a.tar HTTP/1.1\r\nHost: store\r\n\r\n")
        time.sleep(pause_s)
        try:
            while data := sock.recv(1 << 20):
                content += data
        except TimeoutError:
            end = "silence"
        except ConnectionResetError:
            end = "reset"
    if not content:
        return Answer(0, {}, b"", end)
    head, _, body = content.partition(b"\r\n\r\n")
    start, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Answer(int(start.split()[1]), headers, body, end)


def test_proxy_passes_on_what_it_gets_unchanged(store: StoreServer, proxy: FaultProxy) -> None:
    direct, proxied = fetch(store.url, Host="me"), fetch(proxy.url, Host="me")
    assert (proxied.status, proxied.body, proxied.headers["X-Host"]) == (200, CONTENT, "me")
    assert proxied.headers | {"Date": ""} == direct.headers | {"Date": ""}


def test_proxy_keeps_a_connection_for_as_long_as_answers_have_an_end(proxy: FaultProxy) -> None:
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


def test_proxy_breaks_off_where_the_server_does(proxy: FaultProxy) -> None:
    with pytest.raises(IncompleteRead, match="3 bytes read"):
        fetch(proxy.url, "/broken")


def test_request_tells_what_was_asked_and_answered(proxy: FaultProxy) -> None:
    fetch(proxy.url, "/voc/a%20b.tar?x=1", Range="bytes=5-9", **{"If-Match": '"e"'})
    (request,) = proxy.requests
    assert (request.method, request.path, request.query) == ("GET", "/voc/a b.tar", "x=1")
    assert (request.range, request.headers["if-match"]) == ((5, 10), '"e"')
    assert (request.status, request.body_bytes, request.fault) == (206, 5, None)
    assert request.started_s < (request.ended_s or 0)
    assert "if-match" not in repr(request)


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


def test_cut_rst_comes_after_all_bytes_before_the_cut_have(
    store: StoreServer, proxy: FaultProxy
) -> None:
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


def test_unframed_cut_looks_whole(proxy: FaultProxy) -> None:
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
def test_reset_comes_before_or_after_the_store_has_acted(
    store: StoreServer, proxy: FaultProxy, kind: Any, seen: list[str]
) -> None:
    proxy.inject(Fault(kind), Fault(kind, method="PUT"))
    assert watch(proxy.url) == Answer(0, {}, b"", "reset")
    store.seen.clear()
    with connected(proxy.url) as connection, pytest.raises(ConnectionError):
        ask(connection, method="PUT", body=CONTENT)
    assert store.seen == seen
    assert [request.status for request in proxy.requests] == [None, None]


def test_short_body_is_consistent(proxy: FaultProxy) -> None:
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


@pytest.mark.parametrize(("kind", "claimed"), [("wrong-range", 88), ("wrong-bytes", 600)])
def test_wrong_bytes_come_from_elsewhere_and_say_so_or_not(
    proxy: FaultProxy, kind: Any, claimed: int
) -> None:
    proxy.inject(Fault(kind, times=2))
    answer = fetch(proxy.url, Range="bytes=600-699")
    assert (answer.status, answer.body) == (206, CONTENT[88:188])
    fields = {name.lower(): value for name, value in answer.headers.items()}
    assert fields["content-range"] == f"bytes {claimed}-{claimed + 99}/2048"
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


def test_fault_hits_only_what_it_is_for(proxy: FaultProxy) -> None:
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
    monkeypatch.setattr(fault_proxy_module, "time", SimpleNamespace(perf_counter=lambda: 0.0))
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


def test_callback_that_fails_is_not_silent(
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


def test_proxy_stops_although_its_clients_stay(store: StoreServer) -> None:
    with ExitStack() as clients:
        with fault_proxy(store.url) as proxy:
            proxy.inject(Fault("stall"))
            stalled, idle, silent = (clients.enter_context(connected(proxy.url)) for _ in range(3))
            stalled.request("GET", "/a.tar")
            assert stalled.getresponse().read(HALF) == CONTENT[:HALF]
            assert ask(idle).body == CONTENT
            silent.connect()
        assert idle.sock.recv(1) == b""


def test_stalled_answer_ends_when_the_client_leaves(proxy: FaultProxy) -> None:
    proxy.inject(Fault("stall", times=None))
    num_threads = threading.active_count()
    for _ in range(3):
        assert watch(proxy.url).end == "silence"
    assert eventually(lambda: threading.active_count() <= num_threads)


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
