"""An upload to S3 arrives whole through faults, or leaves nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import StoreError
from shard_tool.storage import uploads
from shard_tool.storage.location import Folder
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers import proxy_connections
from tests.kit.servers.fault_proxy import Fault, FaultProxy
from tests.kit.servers.published import CONTENT, LONG, MIB, PASSING, publish
from tests.kit.servers.s3 import S3, objects, put
from tests.kit.servers.scripted_s3 import Between, refused
from tests.kit.servers.uploads import begin_upload, unfinished_uploads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kit.faults.kinds import Kind, Request

SENDING = {
    "begin": ("POST", lambda request: "uploads" in request.query),
    "part": ("PUT", lambda request: "partNumber=2" in request.query),
    "join": ("POST", lambda request: "uploadId" in request.query),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PASSING)
def test_an_upload_is_retried_after_faults(
    s3: S3, on_s3: Folder, proxy: FaultProxy, kind: Kind
) -> None:
    proxy.inject(Fault(kind, times=2, method="PUT"), Fault(kind, method="HEAD"))
    publish(on_s3, "a.tar", CONTENT)
    assert proxy.hits == 3
    assert objects(s3, on_s3.url) == {"a.tar": CONTENT}


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("step", SENDING)
def test_every_step_of_an_upload_in_parts_is_retried_after_faults(
    s3: S3, on_s3: Folder, proxy: FaultProxy, kind: Kind, step: str
) -> None:
    method, where = SENDING[step]
    proxy.inject(Fault(kind, times=2, method=method, where=where))
    publish(on_s3, "a.tar", LONG)
    assert proxy.hits == 2
    assert objects(s3, on_s3.url) == {"a.tar": LONG}
    assert unfinished_uploads(s3, on_s3.url) == []
    sent = [request for request in proxy.requests if "partNumber" in request.query]
    assert len(sent) == (5 if step == "part" else 3)  # what had arrived is not sent again


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("step", SENDING)
def test_an_upload_that_keeps_failing_is_an_error_and_leaves_nothing(
    s3: S3, on_s3: Folder, proxy: FaultProxy, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SLOWEST_BYTES_PER_S", 100 * MIB)  # no time on top
    method, where = SENDING[step]
    proxy.inject(Fault("internal-error", times=None, method=method, where=where))
    problem = r"a.tar: not written after \d+ attempts in [\d.]+ s \(last: OSError: InternalError\)"
    with pytest.raises(StoreError, match=problem):
        publish(replace(on_s3, timeout_s=4), "a.tar", LONG)
    assert objects(s3, on_s3.url) == {}
    assert unfinished_uploads(s3, on_s3.url) == []


@pytest.fixture
def ctrl_c_as_usual() -> Iterator[None]:
    """Shells start what runs in the background deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts", "ctrl_c_as_usual")
@pytest.mark.parametrize("thread", ["any", "another"])
def test_ctrl_c_aborts_an_upload(s3: S3, on_s3: Folder, proxy: FaultProxy, thread: str) -> None:
    """Also where the system gives the signal to another thread than the one that waits."""
    go_on = threading.Event()

    def interrupt(request: Request) -> None:
        if "partNumber=3" in request.query:
            if thread == "any":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            go_on.wait(60)

    proxy.on_request = interrupt
    with pytest.raises(KeyboardInterrupt):
        publish(on_s3, "a.tar", LONG)
    proxy.on_request = None
    go_on.set()
    assert objects(s3, on_s3.url) == {}
    assert eventually(lambda: unfinished_uploads(s3, on_s3.url) == [])


@pytest.mark.slow
def test_a_stalled_upload_is_retried(s3: S3, on_s3: Folder, proxy: FaultProxy) -> None:
    released, asked = threading.Event(), list[str]()

    def hold_first(request: Request) -> None:
        asked.append(request.method)
        if asked == ["PUT"]:
            released.wait(60)

    proxy.on_request = hold_first
    publish(replace(on_s3, timeout_s=12), "a.tar", CONTENT)
    released.set()
    assert asked[:2] == ["PUT", "PUT"]
    assert objects(s3, on_s3.url) == {"a.tar": CONTENT}


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("content", [CONTENT, LONG], ids=["whole", "in-parts"])
def test_a_bit_flipped_in_transit_is_noticed(
    s3: S3, on_s3: Folder, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    exchange = proxy_connections.Exchange
    passed, flipped = exchange.request_body, list[str]()

    def flip(self: Any) -> Iterator[Any]:
        for piece in passed(self):
            if len(piece) > 1_000 and not flipped:
                flipped.append(self.request.path)
                yield bytes([piece[0] ^ 1]) + bytes(piece[1:])
            else:
                yield piece

    monkeypatch.setattr(exchange, "request_body", flip)
    publish(on_s3, "a.tar", content)
    assert flipped
    assert objects(s3, on_s3.url) == {"a.tar": content}


def test_every_upload_carries_the_md5_of_its_content(on_s3: Folder, proxy: FaultProxy) -> None:
    """Over https this is all that the server can compare with."""
    publish(on_s3, "a.tar", b"a")
    assert proxy.requests[0].headers["content-md5"] == "DMF1ucDxtqgxw5niaXcmYQ=="


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts")
def test_a_part_that_is_not_what_was_sent_is_sent_again(
    s3: S3, on_s3: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = Between("upload_part", [{"ETag": f'"{"0" * 32}"'}])
    monkeypatch.setattr(uploads, "call_s3", between.call)
    publish(on_s3, "a.tar", LONG)
    assert between.num_calls == 4
    assert objects(s3, on_s3.url) == {"a.tar": LONG}


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts")
def test_parts_joined_by_a_request_whose_answer_was_lost_are_not_sent_again(
    s3: S3, on_s3: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS then knows no such upload; Swift answers as it did before."""
    between = Between("complete_multipart_upload", [OSError("lost"), refused("NoSuchUpload")])
    monkeypatch.setattr(uploads, "call_s3", between.call)
    publish(on_s3, "a.tar", LONG)
    assert between.num_calls == 2
    assert objects(s3, on_s3.url) == {"a.tar": LONG}


def test_an_object_that_is_not_what_was_sent_is_sent_again(
    s3: S3, on_s3: Folder, proxy: FaultProxy
) -> None:
    replaced = list[str]()

    def replace_once(request: Request) -> None:
        if request.method == "HEAD" and not replaced:
            replaced.append(put(s3, f"{on_s3.url}/a.tar", CONTENT[::-1]))

    proxy.on_request = replace_once
    publish(on_s3, "a.tar", CONTENT)
    assert [request.method for request in proxy.requests] == ["PUT", "HEAD", "PUT", "HEAD"]
    assert objects(s3, on_s3.url) == {"a.tar": CONTENT}


def test_a_store_that_holds_something_else_each_time_is_an_error(
    s3: S3, on_s3: Folder, proxy: FaultProxy
) -> None:
    def replace_all(request: Request) -> None:
        if request.method == "HEAD":
            put(s3, f"{on_s3.url}/a.tar", CONTENT[1:])

    proxy.on_request = replace_all
    found = rf"holds {len(CONTENT) - 1} bytes with ETag [0-9a-f]+ after 3 uploads"
    with pytest.raises(
        StoreError, match=rf"a.tar: storage {found}, sent were {len(CONTENT)} bytes"
    ):
        publish(on_s3, "a.tar", CONTENT)


@pytest.mark.parametrize(
    ("answer", "is_same"),
    [
        ({"ETag": '"0cc175b9c0f1b6a831c399e269772661"'}, True),
        ({"ETag": '"92eb5ffee6ae2fec3ad71c777531578f"'}, False),
        ({"ETag": '"92eb5ffee6ae2fec3ad71c777531578f-1"'}, True),
        ({"ETag": '"-CKih16GjycICEAE="'}, True),
        ({}, True),
        (
            {
                "ETag": '"92eb5ffee6ae2fec3ad71c777531578f"',
                "ServerSideEncryption": "aws:kms",
            },
            True,
        ),
        (
            {"ETag": '"92eb5ffee6ae2fec3ad71c777531578f"', "ServerSideEncryption": "AES256"},
            False,
        ),
    ],
)
def test_only_a_comparable_etag_that_differs_is_a_mismatch(
    answer: dict[str, str], is_same: bool
) -> None:
    assert uploads._is_same(answer, hashlib.md5(b"a").hexdigest()) is is_same


def test_an_upload_is_staged_in_a_file_without_a_name(
    on_s3: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process leaves no shard behind in the temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with on_s3.publish("a.tar") as file:
        file.write(CONTENT)
        file.flush()
        assert list(tmp_path.iterdir()) == []


def test_missing_space_for_staging_is_reported(on_s3: Folder) -> None:
    problem = r"a.tar: cannot be staged in .*: No space left on device"
    with pytest.raises(StoreError, match=problem), on_s3.publish("a.tar"):
        raise OSError(28, "No space left on device")


@pytest.mark.slow
def test_only_our_unfinished_uploads_in_the_folder_are_aborted(
    s3: S3, bucket: str, on_s3: Folder
) -> None:
    names = ["a.tar", "a.tar", "b.tar", "c.txt", "deeper/a.tar"]
    for name in names:
        begin_upload(s3, f"{on_s3.url}/{name}")
    begin_upload(s3, f"{bucket}/vocab.tar")
    by_two = replace(on_s3, options={**on_s3.options, "s3_additional_kwargs": {"MaxUploads": 2}})
    assert by_two.abort_uploads(lambda name: name.endswith(".tar")) == 3
    left = {"voc/c.txt", "voc/deeper/a.tar", "vocab.tar"}
    assert {key for key, _ in unfinished_uploads(s3, bucket)} == left
    assert by_two.abort_uploads(lambda name: name.endswith(".tar")) == 0
    assert Folder("memory://voc").abort_uploads(lambda _: True) == 0
