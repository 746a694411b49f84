"""A real S3 server for tests, and ways to look into its buckets around the code under test.

The server is OpenStack Swift (`scripts/s3-server`). The helpers use botocore, not s3fs: what s3fs
caches, retries or forgets has no part in what a test sets up or finds.
"""

from __future__ import annotations

import functools
import json
import subprocess
import uuid
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.loaders import JSONFileLoader

from tests.kit.processes.shard_tool_process import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.kit.servers.fault_proxy import FaultProxy
    from tests.kit.servers.proxy_process import ProxyProcess

SERVER = Path(__file__).resolve().parents[3] / "scripts/s3-server"
REGION = "us-east-1"
MANIFEST = "manifest.json"

_SESSION = botocore.session.Session()

# botocore parses the description of S3 for each session, in 50 ms; s3fs has one a file system.
_parse_once = functools.cache(functools.partial(JSONFileLoader.load_file, JSONFileLoader()))
JSONFileLoader.load_file = lambda _, path: _parse_once(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3:
    """Where a server is, and who may use it."""

    endpoint_url: str
    key: str
    secret: str = field(repr=False)
    pid: int | None = None
    """Of the server; to measure it."""

    @property
    def storage_options(self) -> dict[str, str]:
        """As `Folder` and fsspec take them; a new dict."""
        return {"key": self.key, "secret": self.secret, "endpoint_url": self.endpoint_url}

    @property
    def environment(self) -> dict[str, str]:
        """The same for a process that is given a URL and nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
        }

    def through(self, proxy: FaultProxy | ProxyProcess) -> S3:
        """The same server as seen through a proxy."""
        return replace(self, endpoint_url=proxy.url)

    def sign(self, method: str, target: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers with a new signature, for a proxy that changes what is asked."""
        request = AWSRequest(method, f"{self.endpoint_url}{target}", headers=dict(headers))
        S3SigV4Auth(Credentials(self.key, self.secret), "s3", REGION).add_auth(request)
        return dict(request.headers.items())


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """Run a server that keeps its objects in `folder`; the first ever is installed first."""
    errors = folder / "stderr.txt"
    command = [str(SERVER), "--dir", str(folder), "--format", "json"]
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, stdin=subprocess.DEVNULL
        )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"no S3 server: {errors.read_text()}"
            started = json.loads(line)
            names = ("endpoint_url", "key", "secret")
            yield S3(**{name: started[name] for name in names}, pid=process.pid)
        finally:
            process.terminate()


def make_bucket(s3: S3) -> str:
    """A fresh bucket's URL."""
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    with _client(s3) as client:
        client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


def upload(folder: Path, s3: S3, url: str) -> None:
    """Put every file of a folder under a URL; the manifest last, as a conversion does."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    with _client(s3) as client:
        for path in sorted(files, key=lambda path: (path.name == MANIFEST, path)):
            name = path.relative_to(folder).as_posix()
            with path.open("rb") as file:
                client.put_object(**_place(f"{url}/{name}"), Body=file)


def wait_until_at_rest(s3: S3) -> None:
    """Wait until the server has done all that clients have asked of it which are gone by now.

    A process that is killed leaves a request behind, which the server still carries out: an object
    may come or go after the process has ended.
    """
    assert eventually(lambda: is_at_rest(s3), deadline_s=60), "the server is still at work"


def is_at_rest(s3: S3) -> bool:
    """Whether the server has ended the connections of all clients that are gone.

    It reads the next request of a connection, or its end, only when it has answered the last one.
    So as long as it works for a client that is gone, it holds a connection that the other side has
    closed (CLOSE_WAIT).
    """
    port = f":{urlsplit(s3.endpoint_url).port:04X}"
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    sockets = [line.split()[1:4] for line in table]  # local address, remote address, state
    return not any(at.endswith(port) and state == "08" for at, _, state in sockets)


def objects(s3: S3, url: str) -> dict[str, bytes]:
    """Name to content of every object under a URL, at rest; empty where there is none."""
    wait_until_at_rest(s3)
    at = _place(f"{url}/")
    found = {}
    with _client(s3) as client:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=at["Bucket"], Prefix=at["Key"]
        )
        for key in [entry["Key"] for page in pages for entry in page.get("Contents", [])]:
            with client.get_object(Bucket=at["Bucket"], Key=key)["Body"] as body:
                found[key.removeprefix(at["Key"])] = body.read()
    return found


def put(s3: S3, url: str, content: bytes) -> str:
    """Make or replace one object; its ETag."""
    with _client(s3) as client:
        etag: str = client.put_object(**_place(url), Body=content)["ETag"]
    return etag


def remove(s3: S3, url: str) -> None:
    """Remove one object."""
    with _client(s3) as client:
        client.delete_object(**_place(url))


def _place(url: str) -> dict[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


@contextmanager
def _client(s3: S3) -> Iterator[Any]:
    """A client that fails at once, for a test would rather know."""
    config = Config(
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = _SESSION.create_client(
        "s3",
        region_name=REGION,
        endpoint_url=s3.endpoint_url,
        aws_access_key_id=s3.key,
        aws_secret_access_key=s3.secret,
        config=config,
    )
    with closing(client):
        yield client
