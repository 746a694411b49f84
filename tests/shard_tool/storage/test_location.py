"""Folders and objects anywhere: objects come and go whole, and secrets stay secret."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import stat
import tempfile
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore.config import Config

from shard_tool.errors import ObjectMissing, ShardError, StoreError
from shard_tool.storage import objects as objects_module
from shard_tool.storage import retry, uploads
from shard_tool.storage.location import Folder, StoredObject, public_url
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers import proxy_connections
from tests.kit.servers.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.kit.servers.http_server import Reply, serve
from tests.kit.servers.s3 import REGION, S3, objects, put
from tests.kit.servers.uploads import begin_upload, unfinished_uploads
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.kit.faults.kinds import Kind, Request

CONTENT = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(3_000))
MIB = 1 << 20
LONG = hashlib.shake_256(b"long").digest(12 * MIB + 5)
"""Uploaded in three parts where a test asks for parts."""
TIMEOUT_S = 60.0
"""No run comes near it."""
SECRET = "tr0ub4dor"


def publish(folder: Folder, name: str, content: bytes) -> None:
    with folder.publish(name) as file:
        file.write(content)


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        yield proxy


@pytest.fixture
def on_s3(s3: S3, bucket: str, proxy: FaultProxy) -> Folder:
    """A folder in a fresh bucket, behind a proxy that has seen nothing yet."""
    proxy.clear()
    proxy.reset()
    proxy.on_request, proxy.latency_s = None, 0.0
    options: dict[str, Any] = dict(s3.through(proxy).storage_options)
    options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}  # all repetitions are ours
    return Folder(f"{bucket}/voc", options, timeout_s=TIMEOUT_S)


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder that does not exist yet, anywhere one can write."""
    if request.param == "s3":
        found: Folder = request.getfixturevalue("on_s3")
        return found
    return Folder(str(tmp_path / "voc") if request.param == "local" else f"memory:/{tmp_path}/voc")


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is longer than 5 MiB, the least that S3 takes for a part, is uploaded in parts."""
    monkeypatch.setattr(uploads, "SINGLE_BYTES", 5 * MIB)
    monkeypatch.setattr(uploads, "PART_BYTES", 5 * MIB)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/data/voc", "/data/voc"),
        ("s3://bucket/voc", "s3://bucket/voc"),
        ("https://me:secret@host/voc", "https://host/voc"),
        ("https://me:se@cret@host/voc", "https://host/voc"),
        ("s3://key:se/cret@bucket/voc", "s3://bucket/voc"),
        ("https://host:8080/voc?X-Amz-Signature=secret", "https://host:8080/voc"),
        ("https://host/voc#secret", "https://host/voc"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert public_url(url) == shown
    assert "secret" not in str(Folder(url, {"secret": "secret"}))


def test_options_may_be_nested() -> None:
    folder = Folder("memory://nested", {"client_kwargs": {"endpoint_url": "http://127.0.0.1"}})
    assert folder.names() == []


def test_any_error_of_a_store_becomes_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    class NoCredentialsError(Exception): ...

    def fail(*_: object, **__: object) -> None:
        raise NoCredentialsError

    folder = Folder("memory://voc")
    for name in ("ls", "cat_file", "rm_file", "pipe_file", "info"):
        monkeypatch.setattr(MemoryFileSystem, name, fail)
    acts: list[Callable[[], object]] = [
        folder.names,
        folder.sizes,
        lambda: folder.remove("a"),
        lambda: folder.remove_all(["a", "b"]),
        lambda: folder.read("a"),
        lambda: folder.put("a", b"x"),
        lambda: publish(folder, "a", b"x"),
        folder.object("a").num_bytes,
    ]
    for act in acts:
        with pytest.raises(StoreError, match=r"access refused \(NoCredentialsError\)"):
            act()


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(StoreError, match=r"known protocols: .*memory"):
        Folder("voc://x").names()


def test_a_missing_object_is_also_a_file_not_found() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Folder("memory://voc").read("none")
    assert isinstance(caught.value, ObjectMissing)


# Anywhere ----------------------------------------------------------------------------------------


def test_what_is_put_is_there(folder: Folder) -> None:
    assert folder.names() == []
    assert folder.sizes() == {}
    folder.put("b", b"small")
    publish(folder, "a.tar", CONTENT)
    publish(folder, "empty", b"")
    folder.child("below").put("c", b"deeper")
    assert folder.names() == ["a.tar", "b", "below", "empty"]
    assert folder.sizes() == {"a.tar": len(CONTENT), "b": 5, "empty": 0}
    assert folder.child("below").sizes() == {"c": 6}
    assert folder.read("a.tar") == CONTENT
    assert folder.child("below").read("c") == b"deeper"


def test_what_is_put_again_is_replaced(folder: Folder) -> None:
    for content in (b"longer than", b"then"):
        folder.put("a", content)
        publish(folder, "b", content)
    assert folder.read("a") == folder.read("b") == b"then"


def test_an_object_is_visible_only_when_it_is_complete(folder: Folder) -> None:
    with folder.publish("a") as file:
        file.write(CONTENT)
        file.flush()
        assert folder.sizes().keys() & {"a"} == set()
        with pytest.raises(ObjectMissing):
            folder.object("a").num_bytes()
    assert folder.sizes() == {"a": len(CONTENT)}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, StoreError("a", "b")])
def test_a_failed_write_leaves_nothing(folder: Folder, error: Any) -> None:
    folder.put("a", b"before")

    def give_up() -> None:
        with folder.publish("a") as file:
            file.write(CONTENT)
            raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        give_up()
    assert folder.names() == ["a"]
    assert folder.read("a") == b"before"


def test_many_objects_are_removed_together(folder: Folder) -> None:
    folder.remove_all([])
    folder.remove_all(["never"])
    for name in "abcd":
        folder.put(name, b"x")
    folder.child("a b").put("e", b"x")
    folder.remove_all(["a", "never", "b"])
    folder.remove("c")
    folder.remove("c")
    assert folder.names() == ["a b", "d"]


def test_an_object_is_read_by_itself(folder: Folder) -> None:
    folder.put("a", CONTENT)
    found = pickle.loads(pickle.dumps(folder.object("a")))
    assert found.num_bytes() == len(CONTENT)
    assert found.read_ranges([(5, 9), (0, 3), (7, 7 + 9_000)]) == [
        CONTENT[5:9],
        CONTENT[:3],
        CONTENT[7:9_007],
    ]
    parts = found.read_parts(3, len(CONTENT), num_bytes=len(CONTENT))
    assert b"".join(parts) == CONTENT[3:]
    assert found.place == str(found) == folder.place("a")
    assert found.read_ranges([]) == []
    with pytest.raises(ShardError, match=r"ends at byte|answered with"):
        found.read_ranges([(5, len(CONTENT) + 1)])


def test_every_operation_reports_a_missing_object_as_missing(folder: Folder) -> None:
    missing = folder.object("none")
    with pytest.raises(ObjectMissing, match="none: there is no such object"):
        missing.num_bytes()
    with pytest.raises(ObjectMissing, match="none: there is no such object"):
        missing.read_ranges([(0, 1)])


def test_a_relative_folder_is_relative_to_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = Folder("voc")
    monkeypatch.chdir(tmp_path)
    folder.child("below").put("a", b"x")
    assert (tmp_path / "here/voc/below/a").read_bytes() == b"x"
    assert folder.child("below").object("a").num_bytes() == 1
    assert str(folder.child("below").object("a")) == "voc/below/a"


# On a disk ---------------------------------------------------------------------------------------


def test_published_files_have_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        Folder(str(tmp_path)).put("a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_publishing_does_not_change_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks run in threads, and there is one umask for all."""
    monkeypatch.delattr(os, "umask")
    Folder(str(tmp_path)).put("a", b"x")


def test_a_file_being_written_has_a_temporary_name_in_its_folder(tmp_path: Path) -> None:
    with Folder(str(tmp_path)).publish("a.tar"):
        (path,) = tmp_path.iterdir()
    assert path.name.startswith(".a.tar.partial-")


def test_a_listing_skips_files_that_vanish_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Folder(str(tmp_path)).put("a", b"x")
    (tmp_path / "b").symlink_to(tmp_path / "gone")
    assert Folder(str(tmp_path)).sizes() == {"a": 1}


# On S3, with faults ------------------------------------------------------------------------------

PASSING: list[Kind] = ["internal-error", "slow-down", "reset-before-headers", "lost-answer"]
SENDING = {
    "begin": ("POST", lambda request: "uploads" in request.query),
    "part": ("PUT", lambda request: "partNumber=2" in request.query),
    "join": ("POST", lambda request: "uploadId" in request.query),
}


@pytest.mark.parametrize("kind", PASSING)
def test_an_upload_is_retried_after_faults(
    s3: S3, on_s3: Folder, proxy: FaultProxy, kind: Kind
) -> None:
    proxy.inject(Fault(kind, times=2, method="PUT"), Fault(kind, method="HEAD"))
    publish(on_s3, "a.tar", CONTENT)
    assert proxy.hits == 3
    assert objects(s3, on_s3.url) == {"a.tar": CONTENT}


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


@dataclass
class Between:
    """Stands between uploads and S3, and answers a call of a method as its script says."""

    method: str
    script: list[Any]
    """Of each call: None to pass it on; an answer, or an error, to give when it was done."""
    is_done: bool = True
    """False: what the script answers is not asked of S3 at all."""
    num_calls: int = 0

    async def call(self, fs: Any, method: str, *rest: Any) -> Any:
        is_meant = method == self.method
        self.num_calls += is_meant
        scripted = self.script.pop(0) if is_meant and self.script else None
        answer = None
        if scripted is None or self.is_done:
            answer = await retry.call_s3(fs, method, *rest)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted or answer


@pytest.mark.usefixtures("in_parts")
def test_a_part_that_is_not_what_was_sent_is_sent_again(
    s3: S3, on_s3: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = Between("upload_part", [{"ETag": f'"{"0" * 32}"'}])
    monkeypatch.setattr(uploads, "call_s3", between.call)
    publish(on_s3, "a.tar", LONG)
    assert between.num_calls == 4
    assert objects(s3, on_s3.url) == {"a.tar": LONG}


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


def refused(code: str) -> OSError:
    """An error as s3fs makes one of what a store answered."""
    error, refusal = OSError("refused"), Exception()
    refusal.response = {  # type: ignore[attr-defined]
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": 404},
    }
    error.__cause__ = refusal
    return error


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


def test_a_listing_of_several_pages_is_whole(on_s3: Folder) -> None:
    for name in ("a", "b", "c", "d/e", "f/g"):
        on_s3.put(name, name.encode())
    by_two = replace(on_s3, options={**on_s3.options, "s3_additional_kwargs": {"MaxKeys": 2}})
    assert by_two.names() == ["a", "b", "c", "d", "f"]
    assert by_two.sizes() == {"a": 1, "b": 1, "c": 1}


def test_a_folder_marker_is_not_listed_as_an_object(s3: S3, on_s3: Folder) -> None:
    put(s3, f"{on_s3.url}/", b"")
    on_s3.put("a", b"")
    assert on_s3.names() == ["a"]


def test_many_objects_are_removed_by_few_requests(
    on_s3: Folder, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "_AT_A_TIME", 2)
    names = ["a", "b", "c", "d&<>", "e é"]
    for name in names:
        on_s3.put(name, b"")
    proxy.reset()
    on_s3.remove_all(names)
    assert on_s3.names() == []
    assert [request.method for request in proxy.requests] == ["POST"] * 3 + ["GET"]


def test_objects_are_removed_one_by_one_if_bulk_removal_is_not_supported(
    on_s3: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = Between("delete_objects", [refused("NotImplemented")], is_done=False)
    monkeypatch.setattr(objects_module, "call_s3", between.call)
    for name in "abc":
        on_s3.put(name, b"")
    on_s3.remove_all(["a", "b", "never"])
    assert on_s3.names() == ["c"]


@pytest.mark.parametrize("kind", PASSING)
def test_listing_measuring_and_removing_are_retried_after_faults(
    on_s3: Folder, proxy: FaultProxy, kind: Kind
) -> None:
    for name in ("a.tar", "b.tar"):
        on_s3.put(name, b"x")
    proxy.inject(
        *[Fault(kind, method=method, path="bucket") for method in ("GET", "HEAD", "POST", "DELETE")]
    )
    assert on_s3.names() == ["a.tar", "b.tar"]
    assert on_s3.object("a.tar").num_bytes() == 1
    on_s3.remove_all(["a.tar", "b.tar"])
    on_s3.remove("a.tar")
    assert proxy.hits == 4
    assert on_s3.names() == []


def test_a_missing_bucket_is_reported(s3: S3) -> None:
    folder = Folder("s3://no-such-bucket/voc", s3.storage_options)
    assert folder.names() == []
    with pytest.raises(StoreError, match="there is no such bucket; make it first"):
        folder.put("a", b"")


@pytest.mark.parametrize(
    ("method", "act", "to_do"),
    [
        ("PUT", lambda folder: folder.put("a", b""), "write"),
        ("GET", lambda folder: folder.names(), "list"),
        ("DELETE", lambda folder: folder.remove("a"), "remove"),
        ("HEAD", lambda folder: folder.object("a").num_bytes(), "read"),
    ],
)
def test_refused_access_is_final(
    on_s3: Folder, proxy: FaultProxy, method: str, act: Callable[[Folder], object], to_do: str
) -> None:
    proxy.inject(Fault("expired-token", times=None, method=method, path="bucket"))
    with pytest.raises(StoreError, match="access refused") as caught:
        act(on_s3)
    assert proxy.hits == 2  # once more with the credentials read again
    assert caught.value.hint.endswith(f"or may not {to_do} this")


# Elsewhere ---------------------------------------------------------------------------------------


def test_files_on_a_remote_disk_are_renamed_when_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    seen = list[str]()

    class OverThere(LocalFileSystem):  # type: ignore[misc]  # it ships no types
        """A disk as SFTP shows one: files are seen while they are written."""

        def put_file(self, lpath: Any, rpath: Any, **options: Any) -> None:
            super().put_file(lpath, rpath, **options)
            seen.extend(path.name for path in (tmp_path / "voc").iterdir())

    fs = OverThere()
    monkeypatch.setattr(fs, "protocol", "sftp")
    for content in (CONTENT, CONTENT[1:]):
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            staged = uploads.Staged(file.fileno(), len(content), file.name)
            uploads.upload(fs, str(tmp_path / "voc/a"), "a", staged, TIMEOUT_S)
        assert (tmp_path / "voc/a").read_bytes() == content
    assert [name.partition("partial-")[0] for name in sorted(seen)] == [".a.", ".a.", "a"]
    assert [path.name for path in (tmp_path / "voc").iterdir()] == ["a"]


def test_web_servers_are_read_only() -> None:
    with pytest.raises(StoreError, match=r"https://host/voc/a: cannot be written"):
        Folder(f"https://me:{SECRET}@host/voc").put("a", b"")


def test_a_signed_url_is_requested_unchanged_and_never_shown(
    s3: S3, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is signed for GET: another question is refused."""
    put(s3, f"{bucket}/a b/ä.tar", CONTENT)
    url = signed_url(s3, bucket.removeprefix("s3://"), "a b/ä.tar")
    assert "Signature" in url
    found = StoredObject(url)
    assert found.num_bytes() == len(CONTENT)
    assert found.read_ranges([(3, 9)]) == [CONTENT[3:9]]
    assert b"".join(found.read_parts(0, 9, num_bytes=len(CONTENT))) == CONTENT[:9]
    wrong = StoredObject(url.replace("Signature=", "Signature=0"), timeout_s=2)
    for act in (wrong.num_bytes, lambda: wrong.read_ranges([(0, 1)])):
        with pytest.raises(StoreError, match="access refused") as caught:
            act()
        shown = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {wrong!r}"
        assert "Signature=" not in shown + caplog.text
    assert found.place == url.partition("?")[0]


def signed_url(s3: S3, bucket: str, key: str) -> str:
    client = botocore.session.Session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=s3.endpoint_url,
        aws_access_key_id=s3.key,
        aws_secret_access_key=s3.secret,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    url: str = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, 300)
    client.close()
    return url


def test_a_query_is_requested_unchanged() -> None:
    """What a signature is of may be escaped in more than one way."""
    with serve(b"x", Reply()) as server:
        query = "sig=a%2Fb%3D%3d/&t=%20+/"
        assert StoredObject(f"{server.url}/a.tar?{query}").num_bytes() == 1
        assert Folder(f"{server.url}/voc/?{query}").read("a.tar") == b"x"
    assert [request.path for request in server.requests] == [
        f"/a.tar?{query}",
        f"/voc/a.tar?{query}",
    ]


def test_the_size_of_a_web_object_comes_with_its_first_byte(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    (tmp_path / "empty").write_bytes(b"")
    with web_server(tmp_path) as url, fault_proxy(url) as proxy:
        assert Folder(proxy.url).object("a.tar").num_bytes() == len(CONTENT)
        proxy.inject(Fault("slow-down"), Fault("reset-before-headers"))
        assert Folder(proxy.url).object("a.tar").num_bytes() == len(CONTENT)
        assert proxy.body_bytes < 1_000
        assert Folder(proxy.url).object("empty").num_bytes() == 0
        proxy.inject(Fault("ignore-range"))
        assert Folder(proxy.url).object("a.tar").num_bytes() == len(CONTENT)
        with pytest.raises(ObjectMissing):
            Folder(proxy.url).object("none").num_bytes()


# Secrets -----------------------------------------------------------------------------------------


def test_no_secret_is_in_any_error_or_log(
    s3: S3, on_s3: Folder, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="shard_tool")
    folder = replace(on_s3, timeout_s=0.3)
    shown = [repr(folder), repr(folder.child("a")), repr(folder.object("a"))]
    acts: list[Callable[[], object]] = [
        folder.names,
        folder.sizes,
        folder.object("a").num_bytes,
        lambda: folder.put("a", b"x"),
        lambda: folder.remove("a"),
        lambda: folder.remove_all(["a", "b"]),
        lambda: folder.abort_uploads(lambda _: True),
    ]
    kinds: list[Kind] = ["expired-token", "slow-down", "html-200"]
    for kind in kinds:
        for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
            proxy.inject(Fault(kind, times=None, method=method, path=""))
        for act in acts:
            try:
                act()
            except StoreError as exc:
                shown += [str(exc), repr(exc), exc.hint, repr(exc.__cause__)]
        proxy.clear()
    assert len(shown) > 40
    assert s3.secret not in "".join(shown) + caplog.text
    assert "Signature=" not in "".join(shown) + caplog.text
