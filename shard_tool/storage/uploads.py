"""Uploads objects: each becomes visible when it is complete, and is compared with what was sent.

A failed upload is repeated, since its content is staged and can be read again. The time limit grows
with the content's length; the time without progress does not. S3 is called directly, because
s3fs's `put_file` repeats an upload only after some errors, holds a whole object in memory, compares
nothing, and leaves a multipart upload behind when it is interrupted. Every request carries the MD5
of its content; afterwards length and ETag of the stored object are compared.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import logging
import mimetypes
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec.implementations.memory import MemoryFileSystem

from shard_tool.errors import ObjectMissing, StoreError
from shard_tool.storage.event_loop import coroutine_of, is_s3, protocols, run, together
from shard_tool.storage.failures import answer_of
from shard_tool.storage.objects import abort_upload, abort_uploads_at
from shard_tool.storage.retry import (
    SILENCE_S,
    SLOWEST_BYTES_PER_S,
    Retry,
    call_s3,
    call_s3_with_retry,
    with_retry,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

log = logging.getLogger(__name__)

PARTIAL = ".partial-"
"""Part of the temporary names of files being written; readers skip such names."""
SINGLE_BYTES = 96 << 20
"""Longer content is uploaded in parts."""
PART_BYTES = 32 << 20
MOST_PARTS = 10_000
"""S3's limit."""
_IN_FLIGHT = 4
_TIMES = 3
"""Uploads of an object before its failing comparison is an error."""
_CLEANUP_S = 8.0
"""Seconds for aborting a failed upload; less than `event_loop.run` waits."""
_READ_BYTES = 1 << 20
_RENAMING = {"sftp", "ssh", "smb", "hdfs", "webhdfs", "arrow_hdfs", "ftp", "dbfs"}
"""Protocols of remote disks: a file is visible while it is written, and can be renamed."""


@dataclass(frozen=True, slots=True)
class Staged:
    """Content in a file."""

    descriptor: int
    num_bytes: int
    path: str
    """The path under which other libraries open it."""

    def read_at(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`; does not move the file's position."""
        return os.pread(self.descriptor, stop - start, start)


@dataclass(frozen=True, slots=True)
class Small:
    """Content in memory."""

    content: bytes

    @property
    def num_bytes(self) -> int:
        """Its length."""
        return len(self.content)

    def read_at(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`."""
        return self.content[start:stop]


Content = Staged | Small
"""What is uploaded; any thread may read it again."""


def upload(fs: Any, path: str, place: str, content: Content, timeout_s: float) -> None:
    """Upload an object completely or not at all.

    Args:
        fs: A file system, made in this process.
        path: The object's path in it.
        place: What messages call it.
        content: The object's content.
        timeout_s: Seconds for all attempts, plus the time a slow connection needs for the content.

    Raises:
        StoreError: Storage failed until the time was up, or holds something else.
    """
    timeout_s += content.num_bytes / SLOWEST_BYTES_PER_S
    if is_s3(fs):
        bucket, key, _ = fs.split_path(path)
        run(fs, _S3Upload(fs, bucket, key, place, content, timeout_s).run)
    else:
        run(fs, partial(_upload_elsewhere, fs, path, place, content, timeout_s))


def part_bytes_of(num_bytes: int) -> int:
    """Return the size of an upload's parts: whole MiB, at most `MOST_PARTS` parts.

    >>> part_bytes_of(8 << 30) >> 20, part_bytes_of(1 << 40) >> 20
    (32, 105)
    """
    mib = -(-num_bytes // (MOST_PARTS << 20))
    return max(PART_BYTES, mib << 20)


@dataclass(frozen=True, slots=True)
class _S3Upload:
    """The upload of one object into a bucket."""

    fs: Any
    bucket: str
    key: str
    place: str
    content: Content
    timeout_s: float

    async def run(self) -> None:
        """Upload the object until S3 holds what was sent."""
        is_single = self.content.num_bytes <= SINGLE_BYTES
        for _ in range(_TIMES):
            etag = await (self.put_whole() if is_single else self.put_in_parts())
            found = await self.found()
            if _is_held(found, self.content.num_bytes, etag):
                return
        problem = f"storage holds {_told(found)} after {_TIMES} uploads, sent were "
        problem += f"{self.content.num_bytes} bytes with ETag {etag}"
        raise StoreError(self.place, problem)

    @property
    def at(self) -> dict[str, Any]:
        """Bucket and key, as S3's calls take them; a new dict."""
        return {"Bucket": self.bucket, "Key": self.key}

    def retry(self) -> Retry:
        return Retry(self.place, "written", self.timeout_s)

    def kind(self) -> dict[str, Any]:
        kind, _ = mimetypes.guess_type(self.key)
        return {"ContentType": kind} if kind else {}

    async def put_whole(self) -> str:
        """Upload the object in one request; returns its expected ETag."""
        return await self.send("put_object", self.at | self.kind(), 0, self.content.num_bytes)

    async def put_in_parts(self) -> str:
        """Upload the object in parts and join them; returns its expected ETag."""
        creation, upload_id, is_joined = self.retry(), "", False
        try:
            options = self.at | self.kind()
            answer = await call_s3_with_retry(self.fs, "create_multipart_upload", options, creation)
            upload_id = answer["UploadId"]
            etags = await self.send_parts(upload_id)
            await self.join(upload_id, etags)
            is_joined = True
        finally:
            if creation.backoff.failed or not is_joined:
                await self.clean_up(upload_id)
        digests = b"".join(bytes.fromhex(etag) for etag in etags)
        return f"{_md5(digests).hexdigest()}-{len(etags)}"

    async def clean_up(self, upload_id: str) -> None:
        """Abort what was begun: invisible parts take space until somebody does.

        If the answer to its beginning was lost, only S3 knows the upload's id. Nobody else uploads
        this object: a folder has one writer.
        """

        async def abort() -> None:
            if upload_id:
                await abort_upload(self.fs, self.bucket, self.key, upload_id, self.retry())
            at = (self.fs, self.bucket, self.key, self.place, self.timeout_s)
            await abort_uploads_at(*at, is_ours=lambda key: key == self.key)

        try:
            await asyncio.wait_for(abort(), _CLEANUP_S)
        except (StoreError, TimeoutError):
            log.warning(
                "%s: an unfinished upload may be left, for a later run to abort", self.place
            )

    async def send_parts(self, upload_id: str) -> list[str]:
        """Upload the parts, several at a time; returns their ETags."""
        size, free = part_bytes_of(self.content.num_bytes), asyncio.Semaphore(_IN_FLIGHT)

        async def send_one(number: int, start: int) -> str:
            options = self.at | {"UploadId": upload_id, "PartNumber": number}
            stop = min(start + size, self.content.num_bytes)
            async with free:
                return await self.send("upload_part", options, start, stop)

        starts = range(0, self.content.num_bytes, size)
        return await together([send_one(*at) for at in enumerate(starts, 1)])

    async def send(self, method: str, options: Mapping[str, Any], start: int, stop: int) -> str:
        """Send bytes until S3 confirms them; returns their MD5, which is their ETag."""
        digest = await asyncio.to_thread(_md5_of, self.content, start, stop)
        md5, retry = base64.b64encode(digest.digest()).decode(), self.retry()
        silence_s = min(SILENCE_S, max(1.0, self.timeout_s / 4))

        async def ask() -> None:
            body = _Window(self.content, start, stop)
            sent = {**options, "Body": body, "ContentMD5": md5}
            request = call_s3(self.fs, method, sent, retry)
            answer = await _while_it_moves(request, body, silence_s)
            if not _is_same(answer, digest.hexdigest()):
                raise OSError("storage answered with another ETag than that of what was sent")

        await with_retry(self.fs, retry, ask)
        return str(digest.hexdigest())

    async def join(self, upload_id: str, etags: list[str]) -> None:
        """Join the parts to one object."""
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
        options = self.at | {"UploadId": upload_id, "MultipartUpload": {"Parts": parts}}
        retry = self.retry()

        async def ask() -> None:
            try:
                await call_s3(self.fs, "complete_multipart_upload", options, retry)
            except Exception as exc:
                if not retry.backoff.failed or answer_of(exc)[1] != "NoSuchUpload":
                    raise
                # done before, and the answer was lost: what S3 holds is compared anyway

        await with_retry(self.fs, retry, ask)

    async def found(self) -> Mapping[str, Any] | None:
        """Ask S3 for the stored object's length and ETag."""
        with suppress(ObjectMissing):
            retry = Retry(self.place, "read", self.timeout_s)
            answer: Mapping[str, Any] = await call_s3_with_retry(
                self.fs, "head_object", self.at, retry
            )
            return answer
        return None


class _Window(io.RawIOBase):
    """A range of content as a file, so that it is sent without being in memory as a whole.

    `moved` counts the bytes read from it, which shows the progress of an upload.
    """

    def __init__(self, content: Content, start: int, stop: int) -> None:
        self._content, self._start, self._stop, self._at = content, start, stop, start
        self.moved = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at - self._start

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: self._start, os.SEEK_CUR: self._at, os.SEEK_END: self._stop}[whence]
        self._at = min(max(origin + offset, self._start), self._stop)
        return self.tell()

    def readinto(self, buffer: Any) -> int:
        found = self._content.read_at(self._at, min(self._at + len(buffer), self._stop))
        buffer[: len(found)] = found
        self._at += len(found)
        self.moved += len(found)
        return len(found)


async def _while_it_moves(
    request: Coroutine[Any, Any, Mapping[str, Any]], body: _Window, silence_s: float
) -> Mapping[str, Any]:
    """Await a request, with a time limit for each stretch without progress."""
    task = asyncio.ensure_future(request)
    try:
        while True:
            moved = body.moved
            await asyncio.wait({task}, timeout=silence_s)
            if task.done():
                return task.result()
            if body.moved == moved:
                raise TimeoutError
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _upload_elsewhere(
    fs: Any, path: str, place: str, content: Content, timeout_s: float
) -> None:
    """Upload through fsspec; on a remote disk under a temporary name that is then renamed."""
    if "https" in protocols(fs):
        raise StoreError(place, "cannot be written: web servers are read only")
    put = _put_renamed if _RENAMING & set(protocols(fs)) else _put
    info = coroutine_of(fs, "info")
    for _ in range(_TIMES):
        retry = Retry(place, "written", timeout_s)
        await with_retry(fs, retry, lambda: put(fs, path, content))
        size = (await with_retry(fs, retry, lambda: info(path))).get("size")
        if size in (None, content.num_bytes):
            return
    problem = f"storage holds {size} bytes after {_TIMES} uploads, sent were {content.num_bytes}"
    raise StoreError(place, problem)


async def _put(fs: Any, path: str, content: Content) -> None:
    # a file in memory:// shows from its opening on, unless its content is given with it
    if isinstance(content, Small) or isinstance(fs, MemoryFileSystem):
        whole = content.read_at(0, content.num_bytes)
        await coroutine_of(fs, "pipe_file")(path, whole)
    else:
        await coroutine_of(fs, "put_file")(content.path, path)


async def _put_renamed(fs: Any, path: str, content: Content) -> None:
    folder, _, name = path.rpartition("/")
    partial_path = f"{folder}/.{name}{PARTIAL}{secrets.token_hex(4)}"
    await coroutine_of(fs, "makedirs")(folder, exist_ok=True)
    try:
        await _put(fs, partial_path, content)
        try:
            await asyncio.to_thread(fs.mv, partial_path, path)
        except OSError:  # not all rename onto a file
            await coroutine_of(fs, "rm_file")(path)
            await asyncio.to_thread(fs.mv, partial_path, path)
    except BaseException:
        with suppress(Exception):
            await coroutine_of(fs, "rm_file")(partial_path)
        raise


def _is_held(found: Mapping[str, Any] | None, num_bytes: int, etag: str) -> bool:
    return bool(found and found["ContentLength"] == num_bytes and _is_same(found, etag))


def _is_same(answer: Mapping[str, Any], etag: str) -> bool:
    """Tell whether an ETag equals ours, or is of a kind that cannot be compared.

    An ETag is an MD5, or the MD5 of the MD5s of so many parts, unless the object is encrypted with
    a key of the client or the key service, or the store makes ETags in another way.
    """
    found = str(answer.get("ETag", "")).strip('"').lower()
    encryption = str(answer.get("ServerSideEncryption", ""))
    is_encrypted = "SSECustomerAlgorithm" in answer or encryption.startswith("aws:")
    is_alike = re.fullmatch(r"[0-9a-f]{32}(-\d+)?", found) and ("-" in found) == ("-" in etag)
    return is_encrypted or not is_alike or found == etag


def _told(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "nothing"
    return f"{found['ContentLength']} bytes with ETag {str(found.get('ETag')).strip(chr(34))}"


def _md5(content: bytes = b"") -> Any:
    return hashlib.md5(content, usedforsecurity=False)  # S3's checksum, nobody's secret


def _md5_of(content: Content, start: int, stop: int) -> Any:
    digest = _md5()
    for at in range(start, stop, _READ_BYTES):
        digest.update(content.read_at(at, min(at + _READ_BYTES, stop)))
    return digest
