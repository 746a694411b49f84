"""Runs OpenStack Swift with its S3 API on this machine: a real object store for tests.

Signatures, ranges, ETags, multipart uploads and conditions are Swift's. Swift's four servers run in
one process: killing it leaves no orphans, and all ports are bound before a server must name the
port of another. It listens on loopback only; the secret is drawn at each start and never written to
disk. `scripts/s3-server` runs this in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import eventlet
import eventlet.wsgi
from swift.account.server import app_factory as account_app
from swift.common import utils, wsgi
from swift.common.http_protocol import SwiftHttpProtocol
from swift.common.ring import RingBuilder
from swift.common.swob import Request
from swift.container.server import ContainerController
from swift.obj.server import app_factory as object_app

HOST = "127.0.0.1"
KEY = "voc:shards"  # Swift's account:user
REGION = "us-east-1"
DEVICE = "disk"

LOGGING = {"log_level": "ERROR", "log_udp_host": HOST, "log_udp_port": "9"}
"""Logs go to stderr; a syslog gets nothing (port 9 discards)."""

SETTINGS = LOGGING | {
    "mount_check": "no",
    "fallocate_reserve": "0",
    # Few large pieces cost less than many small ones.
    "disk_chunk_size": "1048576",
    "network_chunk_size": "1048576",
    "object_chunk_size": "1048576",
    "client_chunk_size": "1048576",
    # A slow answer is no failure: there is no other replica to ask.
    "client_timeout": "600",
    "conn_timeout": "60",
    "node_timeout": "60",
    "container_update_timeout": "60",
    "error_suppression_limit": "1000000",
}


class ContainerServer(ContainerController):  # type: ignore[misc]
    """Swift's container server, with listings that are always up to date, as S3's are.

    Swift itself needs 0.1 s to update a listing, and shows the old one if the machine is too busy.
    """

    def _get_container_broker(self, *place: str, **options: Any) -> Any:
        fresh = {"pending_timeout": 60, "stale_reads_ok": False}
        return super()._get_container_broker(*place, **options | fresh)


BACKENDS = {"account": account_app, "container": ContainerServer, "object": object_app}

SWIFT_CONF = """
[swift-hash]
swift_hash_path_suffix = loopback
"""

FRONTEND_CONF = f"""
[pipeline:main]
pipeline = bulk s3api tempauth slo proxy-server
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = {REGION}
[filter:tempauth]
use = egg:swift#tempauth
[filter:slo]
use = egg:swift#slo
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""


def main() -> None:
    """Serve until a signal arrives or the parent process has ended."""
    options = parse_options()
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: signals.append(number))
    with tempfile.TemporaryDirectory(prefix="s3-server-", ignore_cleanup_errors=True) as scratch:
        try:
            started = start(Path(options.dir or scratch).absolute(), options.port, options.bucket)
        except OSError as exc:
            hint = "choose another --port, or a --dir that takes extended attributes"
            sys.exit(f"error: no S3 server: {exc}\n\nhint: {hint}")
        print(json.dumps(started) if options.format == "json" else as_text(started), flush=True)
        while not signals and os.getppid() == options.parent:
            eventlet.sleep(0.1)


def parse_options() -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        prog="scripts/s3-server",
        description="A real S3 server on this machine, until Ctrl-C: OpenStack Swift.",
    )
    parser.add_argument(
        "--dir",
        help="folder that keeps the objects; its file system must have extended attributes. "
        "Default: a temporary folder, deleted at the end",
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free port")
    parser.add_argument("--bucket", default="voc", help="bucket to make at the start; default: voc")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--parent", type=int, default=os.getppid(), help=argparse.SUPPRESS)
    return parser.parse_args()


def start(folder: Path, port: int, bucket: str) -> dict[str, Any]:
    """Start all servers; they answer as soon as the caller yields to eventlet.

    Raises:
        OSError: The port is taken, or the folder cannot hold objects.
    """
    (folder / DEVICE).mkdir(parents=True, exist_ok=True)
    os.setxattr(folder / DEVICE, "user.swift", b"objects carry such attributes")
    (folder / "swift.conf").write_text(SWIFT_CONF)
    utils.set_swift_dir(str(folder))
    utils.monkey_patch()
    utils.get_logger(LOGGING, log_to_console=True)  # from now on, every logger does
    frontend = eventlet.listen((HOST, port), reuse_port=False)

    settings = SETTINGS | dict.fromkeys(("swift_dir", "devices", "recon_cache_path"), str(folder))
    for name, app_of in BACKENDS.items():
        backend = eventlet.listen((HOST, 0), reuse_port=False)
        save_ring(folder / f"{name}.ring.gz", backend.getsockname()[1])
        serve(backend, app_of(settings))

    secret = secrets.token_hex(20)
    settings[f"user_{KEY.replace(':', '_')}"] = f"{secret} .admin"
    app = wsgi.loadapp(wsgi.ConfigString(FRONTEND_CONF), settings)
    serve(frontend, with_memory(app))
    make_bucket(app, bucket)
    return {
        "endpoint_url": f"http://{HOST}:{frontend.getsockname()[1]}",
        "key": KEY,
        "secret": secret,
        "bucket": bucket,
        "pids": [os.getpid()],
    }


def save_ring(path: Path, port: int) -> None:
    """Write the ring that puts everything of one kind on one device of one server."""
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
    device = {"region": 1, "zone": 1, "device": DEVICE, "weight": 1, "meta": ""}
    at = {"ip": HOST, "port": port, "replication_ip": HOST, "replication_port": port}
    builder.add_dev(device | at)
    builder.rebalance()
    builder.get_ring().save(str(path))


def serve(listener: Any, app: Any) -> None:
    """Answer requests in the background."""
    eventlet.spawn(
        eventlet.wsgi.server,
        listener,
        app,
        utils.NullLogger(),
        protocol=SwiftHttpProtocol,
        capitalize_response_headers=False,  # clients look for ETag and do not find Etag
    )


def make_bucket(app: Any, name: str) -> None:
    """Make a bucket inside the process, where requests need no signature."""
    account = KEY.partition(":")[0]
    request = Request.blank(f"/v1/AUTH_{account}/{name}", {"REQUEST_METHOD": "PUT"})
    response = request.get_response(app._pipeline_final_app)
    if not response.is_success:
        raise OSError(f"bucket {name!r} cannot be made: {response.status}")


def with_memory(app: Any) -> Any:
    """Add the cache that Swift expects from memcached.

    Without a cache, every request asks the account and the container server first: twice the CPU.
    """
    cache = Memory()

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        environ["swift.cache"] = cache
        return app(environ, start_response)

    return answer


class Memory:
    """The methods of a memcached client that Swift calls; nothing expires."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def get(self, key: str, **_: Any) -> Any:
        """Return a copy of the value; None if there is none."""
        return json.loads(self._values.get(key, "null"))

    def set(self, key: str, value: Any, **_: Any) -> None:
        """Store a value."""
        self._values[key] = json.dumps(value)

    def delete(self, key: str, **_: Any) -> None:
        """Remove a value."""
        self._values.pop(key, None)


def as_text(started: dict[str, Any]) -> str:
    """Say how to use the server from another shell."""
    return f"""\
S3 server at {started["endpoint_url"]}, until Ctrl-C. For another shell:

export AWS_ENDPOINT_URL={started["endpoint_url"]}
export AWS_ACCESS_KEY_ID={started["key"]}
export AWS_SECRET_ACCESS_KEY={started["secret"]}
export AWS_DEFAULT_REGION={REGION}

shard-tool convert SOURCE s3://{started["bucket"]}/detection
shard-tool info s3://{started["bucket"]}/detection"""


if __name__ == "__main__":
    main()
