"""The S3 server of the tests is a real one, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from s3fs import S3FileSystem

from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.fault_proxy import Fault, fault_proxy
from tests.kit.servers.s3 import (
    S3,
    SERVER,
    is_at_rest,
    make_bucket,
    objects,
    put,
    remove,
    s3_server,
    upload,
)

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"".join(bytes([block % 251]) * 512 for block in range(22_000))
"""11 MB, and no block like its neighbour."""


def file_system(s3: S3) -> S3FileSystem:
    return S3FileSystem(**s3.storage_options, max_concurrency=1)


def answers(endpoint_url: str) -> bool:
    at = urlsplit(endpoint_url)
    try:
        socket.create_connection((at.hostname, at.port), timeout=30).close()
    except ConnectionError:
        return False
    return True


@pytest.mark.slow
def test_server_keeps_objects_with_ranges_and_etags(s3: S3, bucket: str) -> None:
    fs = file_system(s3)
    fs.pipe_file(f"{bucket}/voc/a.tar", CONTENT, chunksize=5 << 20)
    fs.pipe_file(f"{bucket}/voc/b.json", b"{}")
    assert fs.cat_file(f"{bucket}/voc/a.tar") == CONTENT
    assert fs.cat_file(f"{bucket}/voc/a.tar", start=700, end=1300) == CONTENT[700:1300]
    assert fs.info(f"{bucket}/voc/a.tar")["ETag"].endswith('-3"')  # parts
    assert fs.info(f"{bucket}/voc/b.json")["ETag"] == '"99914b932bd37a50b983c5e7c90ae93b"'
    assert [path.rpartition("/")[2] for path in fs.ls(f"{bucket}/voc")] == ["a.tar", "b.json"]
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{bucket}/voc/c.tar")


def test_server_checks_conditions(s3: S3, bucket: str) -> None:
    name, _, key = f"{bucket}/a.tar".removeprefix("s3://").partition("/")
    old = put(s3, f"{bucket}/a.tar", b"old")
    fs = file_system(s3)
    assert fs.call_s3("get_object", Bucket=name, Key=key, IfMatch=old)["ETag"] == old
    new = put(s3, f"{bucket}/a.tar", b"new")
    assert new != old
    with pytest.raises(OSError, match="At least one of the preconditions"):
        fs.call_s3("get_object", Bucket=name, Key=key, IfMatch=old)
    with pytest.raises(OSError, match="At least one of the preconditions"):
        fs.call_s3("put_object", Bucket=name, Key=key, Body=b"", IfNoneMatch="*")


@pytest.mark.slow
def test_server_lists_what_was_put_on_a_busy_machine_too(tmp_path: Path) -> None:
    """S3 always does (consistency model, since 2020); Swift would show what it has at hand."""
    with s3_server(tmp_path) as s3, ThreadPoolExecutor() as pool:
        bucket = make_bucket(s3)
        put(s3, f"{bucket}/a.tar", b"")
        (database,) = tmp_path.glob("disk/containers/*/*/*/*.db.pending")
        with (database.parent / ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as whoever brings it up to date does
            listed = pool.submit(objects, s3, bucket)
            with pytest.raises(TimeoutError):
                listed.result(1.0)
        assert listed.result(30) == {"a.tar": b""}


def test_server_refuses_a_wrong_secret(s3: S3, bucket: str) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        put(replace(s3, secret="guessed"), f"{bucket}/a.tar", b"")
    assert s3.secret not in repr(s3)


def test_helpers_put_and_find_what_lies_in_a_folder(s3: S3, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("manifest.json", "z.tar", "deep/a.tar"):
        (tmp_path / name).write_text(name)
    with fault_proxy(s3.endpoint_url) as proxy:
        upload(tmp_path, s3.through(proxy), f"{bucket}/voc")
        paths = [request.path.rpartition("/voc/")[2] for request in proxy.requests]
    assert paths == ["deep/a.tar", "z.tar", "manifest.json"]
    put(s3, f"{bucket}/vocals", b"of another dataset")
    remove(s3, f"{bucket}/voc/z.tar")
    assert objects(s3, f"{bucket}/voc") == {name: name.encode() for name in (paths[0], paths[2])}
    assert objects(s3, f"{bucket}/nothing") == {}


@pytest.mark.slow
def test_server_is_at_rest_when_it_has_done_what_clients_that_are_gone_have_asked(
    tmp_path: Path,
) -> None:
    """The server stands still while a client asks for a removal and is killed."""
    with s3_server(tmp_path) as s3:
        bucket = make_bucket(s3)
        assert s3.pid is not None
        for number in range(10):
            put(s3, f"{bucket}/{number}.tar", b"content")
        assert eventually(lambda: is_at_rest(s3))
        os.kill(s3.pid, signal.SIGSTOP)
        for number in range(10):
            remove_and_go(s3, f"{bucket}/{number}.tar")
        assert not is_at_rest(s3)
        os.kill(s3.pid, signal.SIGCONT)
        assert objects(s3, bucket) == {}


def remove_and_go(s3: S3, url: str) -> None:
    """Ask for a removal without waiting for the answer."""
    target, host = f"/{url.removeprefix('s3://')}", urlsplit(s3.endpoint_url)
    headers = s3.sign("DELETE", target, {"Host": host.netloc})
    lines = [f"DELETE {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    with socket.create_connection((host.hostname, host.port)) as connection:
        connection.sendall("\r\n".join([*lines, "Content-Length: 0", "", ""]).encode())


@pytest.mark.slow
def test_faults_reach_a_client_of_the_real_server(s3: S3, bucket: str) -> None:
    put(s3, f"{bucket}/a.tar", CONTENT)
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        fs = file_system(s3.through(proxy))
        proxy.inject(Fault("cut-rst", at=0.9), Fault("slow-down"))
        assert fs.cat_file(f"{bucket}/a.tar") == CONTENT
        assert (proxy.hits, [request.status for request in proxy.requests]) == (2, [200, 503, 200])
        proxy.inject(Fault("short-body"))
        assert fs.cat_file(f"{bucket}/a.tar") == CONTENT[: len(CONTENT) // 2]
        for fault, found in (
            (Fault("wrong-range"), CONTENT[:512]),
            (Fault("wrong-bytes"), CONTENT[:512]),
            (Fault("ignore-range"), CONTENT),
        ):
            proxy.inject(fault)
            assert fs.cat_file(f"{bucket}/a.tar", start=512, end=1024) == found


@pytest.mark.slow
def test_server_ends_with_the_test_and_is_one_process(tmp_path: Path) -> None:
    with s3_server(tmp_path) as s3:
        assert s3.pid is not None
        assert answers(s3.endpoint_url)
    assert not answers(s3.endpoint_url)
    with pytest.raises(ProcessLookupError):
        os.kill(s3.pid, 0)


@pytest.mark.slow
def test_server_finds_its_objects_again_under_a_new_secret(tmp_path: Path) -> None:
    with s3_server(tmp_path) as before:
        bucket = make_bucket(before)
        put(before, f"{bucket}/a.tar", b"content")
    with s3_server(tmp_path) as after:
        assert objects(after, bucket) == {"a.tar": b"content"}
    assert before.secret != after.secret
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(after.secret.encode() in path.read_bytes() for path in files)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["launcher", "parent"])
def test_server_ends_with_a_killed(victim: str, tmp_path: Path) -> None:
    command = [str(SERVER), "--format", "json"]
    script = f"import subprocess; subprocess.run({command!r})"
    with subprocess.Popen(
        command if victim == "launcher" else [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert answers(started["endpoint_url"])
        assert (started["pids"] == [process.pid]) == (victim == "launcher")
        process.kill()
    assert eventually(lambda: not answers(started["endpoint_url"]))
    assert eventually(lambda: not is_alive(process.pid))
    if victim == "parent":
        assert eventually(lambda: list(tmp_path.iterdir()) == [])


def is_alive(group: int) -> bool:
    """Whether any process of the group is."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_server_tells_people_how_to_use_it(tmp_path: Path) -> None:
    command = [str(SERVER), "--bucket", "photos"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        url = first.removeprefix("S3 server at ").partition(",")[0]
        taken = subprocess.run(
            [str(SERVER), "--port", str(urlsplit(url).port)], capture_output=True, text=True
        )
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert first == f"S3 server at {url}, until Ctrl-C. For another shell:\n"
    secret = rest.partition("SECRET_ACCESS_KEY=")[2].partition("\n")[0]
    assert (
        rest
        == f"""
export AWS_ENDPOINT_URL={url}
export AWS_ACCESS_KEY_ID=voc:shards
export AWS_SECRET_ACCESS_KEY={secret}
export AWS_DEFAULT_REGION=us-east-1

shard-tool convert SOURCE s3://photos/detection
shard-tool info s3://photos/detection
"""
    )
    assert len(secret) == 40
    assert (process.returncode, list(tmp_path.iterdir())) == (0, [])
    assert (taken.returncode, taken.stdout) == (1, "")
    assert (
        taken.stderr
        == """\
error: no S3 server: [Errno 98] Address already in use

hint: choose another --port, or a --dir that takes extended attributes
"""
    )
