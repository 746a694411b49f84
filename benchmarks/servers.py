"""Serves the bucket of case 3: nginx serves a folder and adds latency to every answer.

nginx answers S3 GET, HEAD and Range with next to no CPU, which matters because client and server
share two cores. It checks no signature and lists nothing. Its echo module adds the delay and then
hands the request to the files, so no proxy copies a byte. Its log gives requests and round trips.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ECHO_MODULE = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")
NAME = "nginx, static files, sendfile, latency by its echo module"
HOW_TO = "needs nginx with its echo module (Debian: apt-get install nginx-light)"

_CONFIG = """\
load_module {module};
worker_processes 1;
daemon off;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  log_format requests '$msec $request_time $bytes_sent $status $request_method $uri';
  access_log {home}/access.log requests;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    location / {{ echo_sleep {latency_s}; echo_exec @files; }}
    location @files {{ }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Bucket:
    """How clients reach the copies of the data."""

    endpoint: str
    name: str
    shard_names: tuple[str, ...] = ()
    """Of our dataset, for who reads them by name."""
    key: str = "nobody"
    secret: str = "no secret: the server reads none"

    @property
    def s3(self) -> str:
        """The bucket's S3 URL."""
        return f"s3://{self.name}"

    @property
    def http(self) -> str:
        """The bucket's HTTP URL."""
        return f"{self.endpoint}/{self.name}"


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the server's log; times are seconds since 1970, to the millisecond."""

    start: float
    stop: float
    num_bytes: int
    status: int
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    endpoint: str
    home: Path
    pid: int

    def requests(self) -> list[Request]:
        """All requests answered so far."""
        return [_request(line) for line in (self.home / "access.log").read_text().splitlines()]

    def cpu_s(self) -> float:
        """CPU seconds of nginx so far, in user and kernel."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(_cpu_s(pid) for pid in (str(self.pid), *listed))


def is_available() -> bool:
    """Whether this machine can serve the bucket."""
    return shutil.which("nginx") is not None and ECHO_MODULE.exists()


@contextmanager
def serving(root: Path, *, latency_ms: float) -> Iterator[Server]:
    """Serve a folder whose subfolders are buckets; every answer starts `latency_ms` late."""
    with tempfile.TemporaryDirectory(prefix="voc-shards-nginx-") as name:
        home, port = Path(name), _free_port()
        text = _CONFIG.format(
            module=ECHO_MODULE, home=home, port=port, root=root, latency_s=latency_ms / 1000
        )
        (home / "nginx.conf").write_text(text)
        if os.geteuid() == 0:
            (home / "nginx.conf").write_text(f"user root;\n{text}")  # else it may not read `root`
        command = ["nginx", "-p", name, "-c", str(home / "nginx.conf")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _wait_for(endpoint, process)
            yield Server(endpoint, home, process.pid)
        finally:
            process.terminate()
            process.wait(10)


def sequential_rounds(requests: Sequence[Request]) -> int:
    """The longest chain of requests each of which began after the one before it was answered.

    In time, not by cause: requests that happen to follow each other count as well. The log is exact
    to a millisecond, so a start may seem to lie two before the stop it waited for.

    >>> from benchmarks.servers import Request, sequential_rounds
    >>> times = [(0, 1), (0, 2), (1, 3), (2, 4), (5, 6)]
    >>> sequential_rounds([Request(a, b, 0, 200, "GET", "/") for a, b in times])
    3
    """
    rounds, last = 0, float("-inf")
    for request in sorted(requests, key=lambda request: request.stop):
        if request.start >= last - 0.002:
            rounds, last = rounds + 1, request.stop
    return rounds


def _request(line: str) -> Request:
    stop, spent, num_bytes, status, method, path = line.split(" ", 5)
    begun = float(stop) - float(spent)
    return Request(begun, float(stop), int(num_bytes), int(status), method, path)


def _cpu_s(pid: str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        if process.poll() is not None:
            message = f"nginx ended with {process.returncode}: {HOW_TO}"
            raise RuntimeError(message)
        try:
            urllib.request.urlopen(endpoint, timeout=1)
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("nginx does not answer")
