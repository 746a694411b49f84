"""Reads byte ranges of stored objects, several at a time, and retries those that fail (`retry`).

An object is read in parts, so a broken connection costs one part at most; over a slow connection
parts are small enough to arrive in time. This module compares lengths only. Readers know the
CRC-32 or SHA-256 of the bytes (`wrong_bytes`).

All fsspec file systems share this code, with two special cases. S3 is called directly, because only
its own call compares an ETag and tells the object's size. Calls of synchronous file systems run in
a thread.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from shard_tool.errors import ShardError, StoreError
from shard_tool.storage import backoff
from shard_tool.storage.event_loop import coroutine_of, is_s3, loop_of, run, together
from shard_tool.storage.failures import cause_of, shown_cause
from shard_tool.storage.retry import SILENCE_S, SLOWEST_BYTES_PER_S, Retry, WrongAnswer, call_s3

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TIMEOUT_S = 120.0
"""Seconds a request may take, with all its attempts."""
PART_BYTES = 8 << 20
"""Bytes of one request while a whole object is read."""
IN_FLIGHT = 16
"""Requests of one `read_ranges` at a time."""

_SMALLEST_ASK = 64 << 10
_READINGS = 3
"""Times a range is read from its beginning if the object is replaced meanwhile."""
_PUT_AGAIN = "put it there again"


class Range(NamedTuple):
    """Bytes `start` to `stop` (excluded) of one object; None: to its end."""

    path: str
    """The object's path in its file system."""
    place: str
    """What messages call it."""
    start: int = 0
    stop: int | None = None

    def __str__(self) -> str:
        return self.place if self.stop is None else f"{self.place} bytes {self.start}-{self.stop}"


@dataclass
class _Object:
    """What is known of one object while its ranges are read."""

    num_bytes: int | None = None
    """The size it must have; None if the reader does not know it."""
    etag: str | None = None
    """The version that all parts must have, if storage tells versions apart."""
    wrong_versions: set[tuple[Any, int]] = field(default_factory=set)
    """ETag and size of answers whose size is wrong."""


@dataclass
class _Pace:
    """How many bytes to request at a time from a file system, by how fast its answers are."""

    ask_bytes: int = PART_BYTES

    def next_chunk(self, request: Range, at: int) -> Range:
        """Return the next request for a range that has arrived up to `at`."""
        if request.stop is None:
            return request
        return request._replace(start=at, stop=min(at + self.ask_bytes, request.stop))

    def learn(self, num_bytes: int, seconds: float, patience_s: float) -> None:
        """After an answer: request what arrives in half of the time that one may take."""
        if num_bytes >= _SMALLEST_ASK:
            fitting = int(num_bytes / max(seconds, 1e-3) * patience_s / 2)
            self.ask_bytes = max(_SMALLEST_ASK, min(fitting, PART_BYTES))

    def slow_down(self, chunk: Range) -> None:
        """After a timeout: request less."""
        if chunk.stop is not None and chunk.stop - chunk.start > _SMALLEST_ASK:
            less = (chunk.stop - chunk.start) // 8  # the next answer in time allows for more
            self.ask_bytes = max(_SMALLEST_ASK, min(self.ask_bytes, less))


_paces: weakref.WeakKeyDictionary[Any, _Pace] = weakref.WeakKeyDictionary()


class ObjectReplacedError(StoreError):
    """The object changed between two of its parts."""


def read_ranges(
    fs: Any, wanted: Sequence[Range], *, timeout_s: float = TIMEOUT_S, in_flight: int = IN_FLIGHT
) -> list[bytes]:
    """Read ranges, several at a time.

    Args:
        fs: A file system, made in this process.
        wanted: The ranges, of any objects.
        timeout_s: Seconds for each range, with all attempts.
        in_flight: Concurrent requests.

    Returns:
        Their bytes in order, each of the requested length.

    Raises:
        ObjectMissing: There is no such object.
        StoreError: Storage failed until the time was up; names object, attempts and cause.
        ShardError: The object is too short, or answers had a wrong length until the time was up.
    """

    async def read_all() -> list[bytes]:
        free = asyncio.Semaphore(in_flight)

        async def read_one(request: Range) -> bytes:
            async with free:
                for _ in range(_READINGS - 1):
                    with suppress(ObjectReplacedError):  # between two chunks
                        return await _read(fs, request, _Object(), timeout_s)
                return await _read(fs, request, _Object(), timeout_s)

        return await together([read_one(request) for request in wanted])

    return run(fs, read_all)


def read_parts(
    fs: Any, request: Range, *, num_bytes: int | None = None, timeout_s: float = TIMEOUT_S
) -> Iterator[bytes]:
    """Read a long range part by part, one part ahead, all of one version of the object.

    Args:
        fs: A file system, made in this process.
        request: What to read; its `stop` must be given.
        num_bytes: Size of the whole object, if known.
        timeout_s: Seconds for each part, with all attempts.

    Yields:
        Its bytes in order, at most `PART_BYTES` at a time.

    Raises:
        ObjectReplacedError: The object was replaced meanwhile; start again.
        ObjectMissing: As `read_ranges`, as are all others.
    """
    assert request.stop is not None
    known = _Object(num_bytes=num_bytes)
    starts = range(request.start, request.stop, PART_BYTES)

    async def read_one(start: int) -> bytes:
        stop = min(start + PART_BYTES, request.stop or 0)
        return await _read(fs, request._replace(start=start, stop=stop), known, timeout_s)

    loop = loop_of(fs)
    coming = [asyncio.run_coroutine_threadsafe(read_one(start), loop) for start in starts[:1]]
    try:
        for number in range(len(starts)):
            part = coming.pop(0).result()
            coming += [
                asyncio.run_coroutine_threadsafe(read_one(start), loop)
                for start in starts[number + 1 : number + 2]
            ]
            yield part
    finally:
        for future in coming:
            future.cancel()


async def _read(fs: Any, request: Range, known: _Object, timeout_s: float) -> bytes:
    """Read one range until it is complete or its budget of time is spent.

    A slow connection brings it in chunks. Time in which a chunk arrived does not count, so the
    connection may be slow as long as it brings `_SMALLEST_ASK` bytes within one answer's time.
    """
    pace, chunks, at = _paces.setdefault(fs, _Pace()), list[bytes](), request.start
    retry = Retry(request.place, "read", timeout_s, str(request))
    while True:
        begun, chunk = backoff.clock.now_s(), pace.next_chunk(request, at)
        patience_s = min(retry.backoff.left_s, _patience_s(chunk, timeout_s))
        try:
            content = await asyncio.wait_for(_ask(fs, chunk, known, retry), patience_s)
        except Exception as exc:  # noqa: BLE001  (storage libraries share no base class)
            if isinstance(exc, TimeoutError):
                pace.slow_down(chunk)
            elif isinstance(exc, WrongAnswer):  # a server without Range sends all, asked or not
                pace.ask_bytes = PART_BYTES
            await retry.wait_or_raise(fs, exc)
        else:
            at += len(content)
            chunks.append(content)
            seconds = backoff.clock.now_s() - begun
            pace.learn(len(content), seconds, _patience_s(chunk, timeout_s))
            if request.stop is None or at >= request.stop:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            retry.extend(seconds)


async def _ask(fs: Any, request: Range, known: _Object, retry: Retry) -> bytes:
    """Request a range once and check the length of the answer."""
    try:
        content, etag = await _answer(fs, request, known, retry)
    except Exception as exc:
        if cause_of(exc).endswith((": InvalidRange", ": 416")):
            problem = f"ends before byte {request.start}"
            raise WrongAnswer(problem, _PUT_AGAIN) from shown_cause(exc)
        raise
    if request.stop is not None and len(content) != request.stop - request.start:
        expected = request.stop - request.start
        problem = f"answered with {len(content)} bytes, asked for {expected}"
        hint = "the object is cut short, the server does not understand Range, "
        hint += "or a gateway answers in its place"
        raise WrongAnswer(problem, hint)
    known.etag = etag  # only of a right answer: a wrong one may come from another server
    return content


async def _answer(
    fs: Any, request: Range, known: _Object, retry: Retry
) -> tuple[bytes, str | None]:
    """Return the bytes of one answer, and the object's version if storage tells it."""
    if is_s3(fs):
        return await _ask_s3(fs, request, known, retry)
    at = {} if request.stop is None else {"start": request.start, "end": request.stop}
    return bytes(await coroutine_of(fs, "cat_file")(request.path, **at)), None


async def _ask_s3(
    fs: Any, request: Range, known: _Object, retry: Retry
) -> tuple[bytes, str | None]:
    bucket, key, _ = fs.split_path(request.path)
    options = {"Bucket": bucket, "Key": key}
    if request.stop is not None:
        options["Range"] = f"bytes={request.start}-{request.stop - 1}"
    if known.etag:
        options["IfMatch"] = known.etag
    try:
        answer = await call_s3(fs, "get_object", options, retry)
    except Exception as exc:
        if known.etag and "PreconditionFailed" in f"{exc!r} {exc.__cause__!r}":
            problem = "was replaced while it was read"
            raise ObjectReplacedError(request.place, problem) from exc
        raise
    body = answer["Body"]
    try:
        _check_answer(request, known, answer)
        content: bytes = await body.read()
    finally:
        body.close()
    return content, answer.get("ETag")


def _check_answer(request: Range, known: _Object, answer: Mapping[str, Any]) -> None:
    """Compare what S3 says it sends with the request."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", str(answer.get("ContentRange", "")))
    if not found:
        return
    start, size = int(found[1]), int(found[2])
    if start != request.start:
        problem = f"answered with bytes from {start}, asked for {request.start}"
        raise WrongAnswer(problem)
    problem = ""
    if known.num_bytes not in (None, size):
        problem = f"{size} bytes, the manifest says {known.num_bytes}"
    elif size < (request.stop or 0):
        problem = f"ends at byte {size}, before byte {request.stop}"
    if problem:
        version = answer.get("ETag"), size
        if version in known.wrong_versions:  # an ETag stands for content: this is what S3 holds
            raise ShardError(str(request), f"{problem} (the same in 2 answers)", _PUT_AGAIN)
        known.wrong_versions |= {version} if version[0] else set()
        raise WrongAnswer(problem, _PUT_AGAIN)


def _patience_s(request: Range, timeout_s: float) -> float:
    """Seconds for one answer: an attempt that stalls must leave time for others."""
    size = PART_BYTES if request.stop is None else request.stop - request.start
    return min(SILENCE_S + size / SLOWEST_BYTES_PER_S, max(1.0, timeout_s / 4))
