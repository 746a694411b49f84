"""Bytes of stored objects by range: several requests in flight, and faults outlived.

A request that fails is asked again, after a pause that doubles and is drawn at random so that many
processes do not ask in step, until its time is up. What it then costs to resume is one range: an
object is read in parts, so a cut connection loses at most one of them, and over a slow link parts
are small enough to come in time. Only lengths are compared here; whether the bytes are the right
ones their reader knows (by CRC-32 or SHA-256).

Every fsspec file system is read through the same code. Two kinds have a door of their own: S3,
because only its own call takes an ETag to compare and tells the object's size, and file systems
without coroutines, whose calls run in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from fsspec.asyn import AsyncFileSystem, get_loop, sync

from shard_tool.errors import ObjectMissing, ShardError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence

log = logging.getLogger(__name__)
_T = TypeVar("_T")

TIMEOUT_S = 120.0
"""Seconds a request may take with all its repetitions."""
PART_BYTES = 8 << 20
"""Bytes asked for at a time when a whole object is read."""
IN_FLIGHT = 16
"""Requests of one `read_ranges` at a time."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 8.0
_SLOWEST_BYTES_PER_S = 256 << 10
_SMALLEST_ASK = 64 << 10
_SILENCE_S = 15.0
_WRONG_ANSWERS = 3
"""Answers of a wrong length after which no right one is expected."""
_SAID_AFTER = 4
"""Failed attempts after which a warning says that it takes longer."""
_FINAL = {"ValueError", "InvalidURL", "ParamValidationError", "ProfileNotFound", "NoRegionError"}
"""Names of errors of client libraries that tell of a wrong URL or option."""
_NO_FAULT_OF_STORAGE = (AttributeError, ImportError, NotImplementedError)
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")
"""How client libraries, which options are handed on to, say that there is no such option."""


class Range(NamedTuple):
    """Bytes `start` to `stop` (excluded) of one object; `stop` None: to its end."""

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
    """Size it must have; None where the reader does not know it."""
    etag: str | None = None
    """The version all parts must be of, where storage tells versions apart."""
    client: object = None
    """What was last asked, where credentials may be renewed."""
    wrong_answers: int = 0
    is_reconnected: bool = False


@dataclass
class _Pace:
    """Bytes worth asking a file system for at a time, learnt from how long answers take."""

    ask_bytes: int = PART_BYTES

    def next_piece(self, request: Range, at: int) -> Range:
        """What to ask for next of a range that is there up to `at`."""
        if request.stop is None:
            return request
        return request._replace(start=at, stop=min(at + self.ask_bytes, request.stop))

    def learn(self, num_bytes: int, seconds: float, patience_s: float) -> None:
        """After an answer that took so long: ask for what comes in half of the time there is."""
        if num_bytes >= _SMALLEST_ASK:
            fitting = int(num_bytes / max(seconds, 1e-3) * patience_s / 2)
            self.ask_bytes = max(_SMALLEST_ASK, min(fitting, PART_BYTES))

    def slow_down(self, piece: Range) -> None:
        """After none came in time."""
        if piece.stop is not None and piece.stop - piece.start > _SMALLEST_ASK:
            less = (piece.stop - piece.start) // 8  # an answer in time soon allows for more
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
        wanted: The ranges; any mixture of objects.
        timeout_s: Seconds each may take, repetitions included.
        in_flight: Requests at a time.

    Returns:
        Their bytes in order, each of the length asked for.

    Raises:
        ObjectMissing: There is no such object.
        StoreError: Storage failed or refused until the time was up; names object, attempts, cause.
        ShardError: The object has not the size its reader knows.
    """

    async def read_all() -> list[bytes]:
        free = asyncio.Semaphore(in_flight)

        async def read_one(request: Range) -> bytes:
            async with free:
                for _ in range(_WRONG_ANSWERS - 1):
                    with suppress(ObjectReplacedError):  # between two pieces, over a slow link
                        return await _read(fs, request, _Object(), timeout_s)
                return await _read(fs, request, _Object(), timeout_s)

        return await _together([read_one(request) for request in wanted])

    return _run(fs, read_all)


def read_parts(
    fs: Any, request: Range, *, num_bytes: int | None = None, timeout_s: float = TIMEOUT_S
) -> Iterator[bytes]:
    """Read a long range part by part, one ahead, all of one version of the object.

    Args:
        fs: A file system, made in this process.
        request: What to read; its `stop` must be given.
        num_bytes: Size of the whole object, where known.
        timeout_s: Seconds each part may take, repetitions included.

    Yields:
        Its bytes in order, at most `PART_BYTES` at a time.

    Raises:
        ObjectReplacedError: The object changed meanwhile; start again.
        ObjectMissing: As `read_ranges`, as are all others.
    """
    assert request.stop is not None
    known = _Object(num_bytes=num_bytes)
    starts = range(request.start, request.stop, PART_BYTES)

    async def read_one(start: int) -> bytes:
        stop = min(start + PART_BYTES, request.stop or 0)
        return await _read(fs, request._replace(start=start, stop=stop), known, timeout_s)

    loop = _loop_of(fs)
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
    """One range, asked for until it is there or its time is up; in pieces over a slow link.

    Time in which a piece came is not counted, so a link may be slow, as long as it brings
    `_SMALLEST_ASK` bytes while one answer is waited for.
    """
    pace, pieces, at = _paces.setdefault(fs, _Pace()), list[bytes](), request.start
    deadline = time.monotonic() + timeout_s
    pauses, failed, cause = _pauses(), 0, ""
    while True:
        begun = time.monotonic()
        piece, left = pace.next_piece(request, at), deadline - begun
        patience_s = min(left, _patience_s(piece, timeout_s))
        try:
            content = await asyncio.wait_for(_ask(fs, piece, known), patience_s)
        except FileNotFoundError as exc:
            raise ObjectMissing(request.place, "there is no such object") from shown_cause(exc)
        except TypeError as exc:
            if option := _UNKNOWN_OPTION.search(str(exc)):
                problem = f"cannot be read: there is no storage option {option[1]!r} here"
                raise StoreError(request.place, problem, "check its spelling") from exc
            raise
        except (ObjectReplacedError, ShardError, *_NO_FAULT_OF_STORAGE):
            raise
        except Exception as exc:  # noqa: BLE001  (storage libraries share no base class)
            if _is_refusal(exc):
                await _reconnect(fs, request, known, exc, left)
                continue
            if _is_final(exc):
                hint = "check the URL and the storage options"
                problem = f"cannot be read ({_cause(exc)})"
                raise StoreError(request.place, problem, hint) from shown_cause(exc)
            failed, pause = failed + 1, next(pauses)
            if isinstance(exc, TimeoutError):
                pace.slow_down(piece)
            elif known.wrong_answers:  # a server without Range sends the whole, asked for it or not
                pace.ask_bytes = PART_BYTES
            if not (cause and isinstance(exc, TimeoutError)):  # our own, and says less
                cause = _cause(exc)
            if time.monotonic() + pause > deadline:
                problem = f"not read after {failed} attempts in {timeout_s:g} s"
                raise StoreError(str(request), f"{problem} (last: {cause})") from shown_cause(exc)
            if failed == _SAID_AFTER:
                text = "%s: %s; asking again for up to %g s"
                log.warning(text, request, cause, deadline - time.monotonic())
            await asyncio.sleep(pause)
        else:
            known.wrong_answers, known.is_reconnected = 0, False  # another part may fail anew
            at += len(content)
            pieces.append(content)
            seconds = time.monotonic() - begun
            pace.learn(len(content), seconds, _patience_s(piece, timeout_s))
            if request.stop is None or at >= request.stop:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            deadline += seconds


async def _ask(fs: Any, request: Range, known: _Object) -> bytes:
    """Ask once."""
    try:
        content = await _content(fs, request, known)
    except Exception as exc:
        if _cause(exc).endswith((": InvalidRange", ": 416")):  # whole and final, as a short one is
            problem = f"ends before byte {request.start}"
            _count_wrong_answer(request, known, problem, "put it there again")
        raise
    if request.stop is not None and len(content) != request.stop - request.start:
        expected = request.stop - request.start
        problem = f"answered with {len(content)} bytes, asked for {expected}"
        hint = "the object is cut short, or the server does not understand Range"
        _count_wrong_answer(request, known, problem, hint)
    return bytes(content)


async def _content(fs: Any, request: Range, known: _Object) -> bytes:
    if "s3" in _protocols(fs):
        return await _ask_s3(fs, request, known)
    at: dict[str, Any] = {"start": request.start, "end": request.stop}
    if isinstance(fs, AsyncFileSystem):
        return bytes(await fs._cat_file(request.path, **at))
    return bytes(await asyncio.to_thread(fs.cat_file, request.path, **at))


async def _ask_s3(fs: Any, request: Range, known: _Object) -> bytes:
    bucket, key, _ = fs.split_path(request.path)
    options = {"Bucket": bucket, "Key": key}
    if request.stop is not None:
        options["Range"] = f"bytes={request.start}-{request.stop - 1}"
    if known.etag:
        options["IfMatch"] = known.etag
    from s3fs.errors import translate_boto_error  # not above: s3fs is slow to import

    known.client = await fs.set_session()
    client = await fs.get_s3(bucket)
    try:
        # Not `_call_s3`, which repeats a SlowDown five times by itself, without jitter.
        answer = await client.get_object(**fs._get_s3_method_kwargs(client.get_object, **options))
    except Exception as error:
        exc = translate_boto_error(error)
        if known.etag and "PreconditionFailed" in f"{exc!r} {exc.__cause__!r}":
            problem = "was replaced while it was read"
            raise ObjectReplacedError(request.place, problem) from exc
        if exc is error:
            raise
        raise exc from error
    body = answer["Body"]
    try:
        _check_answer(request, known, str(answer.get("ContentRange", "")))
        content: bytes = await body.read()
    finally:
        body.close()
    known.etag = answer.get("ETag")
    return content


def _check_answer(request: Range, known: _Object, content_range: str) -> None:
    """Compare what S3 says it sends with what was asked for."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
    if not found:
        return
    start, size = int(found[1]), int(found[2])
    if start != request.start:
        raise OSError(f"answered with bytes from {start}, asked for {request.start}")
    if known.num_bytes not in (None, size):
        problem = f"{size} bytes, the manifest says {known.num_bytes}"
        _count_wrong_answer(request, known, problem, "put it there again")


def _count_wrong_answer(request: Range, known: _Object, problem: str, hint: str) -> NoReturn:
    """A whole answer that is not the right one: a fault of the way at first, then the object's."""
    known.wrong_answers += 1
    if known.wrong_answers >= _WRONG_ANSWERS:
        raise ShardError(str(request), f"{problem} ({known.wrong_answers} times)", hint)
    raise OSError(problem)


def _answer_of(exc: BaseException) -> tuple[int, str]:
    """HTTP status and code of the answer behind an error; (0, "") where there is none."""
    answer = getattr(exc.__cause__, "response", None)  # botocore's, behind s3fs's OSError
    if answer:
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status, str(answer.get("Error", {}).get("Code", status))
    status = getattr(exc, "status", 0)  # aiohttp's
    return status, str(status or "")


def _is_refusal(exc: Exception) -> bool:
    status, code = _answer_of(exc)
    is_refused = status in (401, 403) or "Token" in code
    return is_refused or isinstance(exc, PermissionError) or "Credential" in type(exc).__name__


def _is_final(exc: Exception) -> bool:
    """Whether asking again cannot help."""
    status, code = _answer_of(exc)
    is_wrong_request = 400 <= status < 500 and status not in (408, 409, 425, 429)
    return type(exc).__name__ in _FINAL or (is_wrong_request and code != "RequestTimeout")


async def _reconnect(
    fs: Any, request: Range, known: _Object, exc: Exception, timeout_s: float
) -> None:
    """Read the credentials afresh, once: they may have been renewed meanwhile.

    Requests side by side are refused together; the first makes a new client for all.
    """
    problem = f"access refused ({_cause(exc)})"
    hint = "check the credentials: they are missing, wrong, expired, or may not read this"
    if known.is_reconnected:
        raise StoreError(request.place, problem, hint) from shown_cause(exc)
    known.is_reconnected = True
    if "s3" in _protocols(fs) and fs._s3 is known.client:
        try:
            await asyncio.wait_for(fs.set_session(refresh=True), timeout_s)
        except Exception as error:  # noqa: BLE001  (of whoever gives credentials)
            problem += f", and no others were found ({_cause(error)})"
            raise StoreError(request.place, problem, hint) from shown_cause(error)


def _pauses() -> Iterator[float]:
    longest = _FIRST_PAUSE_S
    noise = random.SystemRandom()  # decides no sample and no pixel
    while True:
        yield longest * noise.uniform(0.5, 1)
        longest = min(2 * longest, _LONGEST_PAUSE_S)


def _patience_s(request: Range, timeout_s: float) -> float:
    """Seconds one answer may take: an attempt that stalls must leave time for others."""
    size = PART_BYTES if request.stop is None else request.stop - request.start
    return min(_SILENCE_S + size / _SLOWEST_BYTES_PER_S, max(1.0, timeout_s / 4))


def shown_cause(exc: BaseException) -> BaseException | None:
    """The error, unless it shows a URL as it was given, with a password or a signature."""
    chain = [exc, exc.__cause__, exc.__context__]
    return None if any("://" in str(error) for error in chain) else exc


def _cause(exc: BaseException) -> str:
    """An error in a few words that hold neither a URL nor a header."""
    name, (_, code) = type(exc).__name__, _answer_of(exc)
    if code:
        return f"{name}: {code}"
    is_told = isinstance(exc, OSError) or name in _FINAL
    text = str(exc) if is_told and exc.__cause__ is None else ""
    return f"{name}: {text}" if text and "://" not in text and len(text) < 200 else name


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _loop_of(fs: Any) -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = getattr(fs, "loop", None) or get_loop()
    return loop


def _run(fs: Any, function: Callable[[], Awaitable[_T]]) -> _T:
    """Run a coroutine in the loop thread of fsspec, which is one for each process."""
    result: _T = sync(_loop_of(fs), function)
    return result


async def _together(coroutines: list[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Await all; the first that fails cancels the others, so that nothing goes on unseen."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
