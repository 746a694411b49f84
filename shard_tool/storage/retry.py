"""What to do when a request to storage fails: ask again, with other credentials, or say why not.

A request that fails is asked again, after a pause that doubles and is drawn at random so that many
processes do not ask in step, until its time is up. What asking again cannot help, a missing object,
a wrong request or refused access, is an error at once; for the last the credentials are read
afresh once before. Storage libraries share no base class of errors, so errors are told apart by
what answer is behind them. Their texts may hold URLs with signatures: none of them is shown.

Requests run as coroutines in the loop thread of fsspec, of which each process has one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fsspec.asyn import AsyncFileSystem, get_loop

from shard_tool.errors import ObjectMissing, ShardToolError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping

log = logging.getLogger(__name__)
_T = TypeVar("_T")

What = Literal["read", "written", "listed", "removed"]
"""What a request was to do to an object."""

SILENCE_S = 15.0
"""How long a request may show no sign of progress."""
SLOWEST_BYTES_PER_S = 256 << 10
"""What a link brings at least."""

_TO_DO: dict[What, str] = {"read": "read", "written": "write", "listed": "list"}
_TO_DO["removed"] = "remove"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 8.0
_SAID_AFTER = 4
"""Failed attempts after which a warning says that it takes longer."""
_FINAL = {"ValueError", "InvalidURL", "ParamValidationError", "ProfileNotFound", "NoRegionError"}
"""Names of errors of client libraries that tell of a wrong URL or option."""
_SPOILED_ON_THE_WAY = {
    "RequestTimeout",
    "BadDigest",
    "IncompleteBody",
    "InvalidDigest",
    "XAmzContentSHA256Mismatch",
}
"""Codes that call a request wrong although the way was at fault."""
_NO_FAULT_OF_STORAGE = (AttributeError, ImportError, NotImplementedError, ShardToolError)
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")
"""How client libraries, which options are handed on to, say that there is no such option."""
_CLEANUP_S = 10.0
"""How long an interrupted request may take to undo what it began."""
_AWAKE_S = 1.0
"""Who waits longer does not see a signal that another thread received."""


@dataclass
class Attempts:
    """The attempts at one request, and the time they may take together."""

    place: str
    """What messages call the object."""
    what: What
    timeout_s: float
    request: str = ""
    """What messages call the request where it is for a part of the object."""
    client: object = None
    """The S3 client that was asked last; its credentials may be outdated."""
    failed: int = 0
    cause: str = ""
    is_reconnected: bool = False
    deadline: float = field(init=False)
    _pauses: Iterator[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.request = self.request or self.place
        self.deadline = time.monotonic() + self.timeout_s
        self._pauses = pauses()

    @property
    def left_s(self) -> float:
        """Seconds there still are."""
        return self.deadline - time.monotonic()

    def succeeded(self, seconds: float) -> None:
        """A part came, in so much time, which is not counted; another part may fail anew."""
        self.is_reconnected = False
        self.deadline += seconds

    async def outlive(self, fs: Any, exc: Exception) -> None:
        """Wait until it is time to ask again.

        Raises:
            ObjectMissing: There is nothing to ask for.
            StoreError: Asking again cannot help, or the time is up.
            Exception: What was given, where it is no fault of storage.
        """
        if isinstance(exc, _NO_FAULT_OF_STORAGE):
            raise exc
        if isinstance(exc, FileNotFoundError | NotADirectoryError):
            raise self._missing() from shown_cause(exc)
        if isinstance(exc, TypeError):
            if option := _UNKNOWN_OPTION.search(str(exc)):
                problem = f"cannot be {self.what}: there is no storage option {option[1]!r} here"
                raise StoreError(self.place, problem, "check its spelling") from exc
            raise exc
        if _is_refusal(exc):
            await self._reconnect(fs, exc)
            return
        if _is_final(exc):
            hint = "check the URL and the storage options"
            problem = f"cannot be {self.what} ({cause_of(exc)})"
            raise StoreError(self.place, problem, hint) from shown_cause(exc)
        await self._pause(exc)

    async def _pause(self, exc: Exception) -> None:
        self.failed, pause = self.failed + 1, next(self._pauses)
        if not (self.cause and isinstance(exc, TimeoutError)):  # our own, and says less
            self.cause = cause_of(exc)
        if pause > self.left_s:
            problem = f"not {self.what} after {self.failed} attempts in {self.timeout_s:g} s"
            raise StoreError(self.request, f"{problem} (last: {self.cause})") from shown_cause(exc)
        if self.failed == _SAID_AFTER:
            text = "%s: %s; asking again for up to %g s"
            log.warning(text, self.request, self.cause, self.left_s)
        await asyncio.sleep(pause)

    def _missing(self) -> StoreError:
        if self.what == "written":
            hint = "make it first, or check the URL"
            return StoreError(self.place, "cannot be written: there is no such bucket", hint)
        return ObjectMissing(self.place, "there is no such object")

    async def _reconnect(self, fs: Any, exc: Exception) -> None:
        """Read the credentials afresh, once: they may have been renewed meanwhile.

        Requests side by side are refused together; the first makes a new client for all.
        """
        problem = f"access refused ({cause_of(exc)})"
        hint = "check the credentials: they are missing, wrong, expired, or may not "
        hint += f"{_TO_DO[self.what]} this"
        if self.is_reconnected:
            raise StoreError(self.place, problem, hint) from shown_cause(exc)
        self.is_reconnected = True
        if is_s3(fs) and fs._s3 is self.client:
            try:
                await asyncio.wait_for(fs.set_session(refresh=True), self.left_s)
            except Exception as error:  # noqa: BLE001  (of whoever gives credentials)
                problem += f", and no others were found ({cause_of(error)})"
                raise StoreError(self.place, problem, hint) from shown_cause(error)


async def insist(fs: Any, attempts: Attempts, ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask until there is an answer.

    Raises:
        ObjectMissing: As `Attempts.outlive`, as are all others.
    """
    while True:
        try:
            return await asyncio.wait_for(ask(), attempts.left_s)
        except Exception as exc:  # noqa: BLE001  (storage libraries share no base class)
            await attempts.outlive(fs, exc)


async def insist_on_s3(fs: Any, method: str, options: Mapping[str, Any], attempts: Attempts) -> Any:
    """Call S3 until there is an answer."""
    return await insist(fs, attempts, lambda: call_s3(fs, method, options, attempts))


async def call_s3(fs: Any, method: str, options: Mapping[str, Any], attempts: Attempts) -> Any:
    """Call S3 once.

    Not s3fs's `_call_s3`, which repeats a SlowDown five times by itself, without jitter.
    """
    from s3fs.errors import translate_boto_error  # not above: s3fs is slow to import

    attempts.client = await fs.set_session()
    client = await fs.get_s3(options["Bucket"])
    ask = getattr(client, method)
    try:
        return await ask(**fs._get_s3_method_kwargs(ask, **options))
    except Exception as error:
        exc = translate_boto_error(error)
        if exc is error:
            raise
        raise exc from error


def coroutine_of(fs: Any, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A method as a coroutine function; of a file system without any it runs in a thread."""
    if isinstance(fs, AsyncFileSystem):
        method: Callable[..., Coroutine[Any, Any, Any]] = getattr(fs, f"_{name}")
        return method
    return partial(asyncio.to_thread, getattr(fs, name))


def is_s3(fs: Any) -> bool:
    """Whether a file system is s3fs's."""
    return "s3" in protocols(fs)


def protocols(fs: Any) -> tuple[str, ...]:
    """The protocols a file system goes by."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def loop_of(fs: Any) -> asyncio.AbstractEventLoop:
    """The loop its coroutines run in."""
    loop: asyncio.AbstractEventLoop = getattr(fs, "loop", None) or get_loop()
    return loop


def run(fs: Any, function: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine in the loop thread, and wait for it.

    Unlike fsspec's `sync`, Ctrl-C ends it, and waits a little for what it has to undo.
    """
    loop, has_ended, tasks = loop_of(fs), threading.Event(), list[asyncio.Task[_T]]()

    def start() -> None:
        tasks.append(loop.create_task(function()))
        tasks[0].add_done_callback(lambda _: has_ended.set())

    loop.call_soon_threadsafe(start)
    try:
        while not has_ended.wait(_AWAKE_S):
            pass
    except BaseException:
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())
        has_ended.wait(_CLEANUP_S)
        raise
    return tasks[0].result()


async def together(coroutines: list[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Await all; the first that fails cancels the others, so that nothing goes on unseen."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def pauses() -> Iterator[float]:
    """Seconds to wait after the first failure, the second and so on."""
    longest = _FIRST_PAUSE_S
    noise = random.SystemRandom()  # decides no sample and no pixel
    while True:
        yield longest * noise.uniform(0.5, 1)
        longest = min(2 * longest, _LONGEST_PAUSE_S)


def answer_of(exc: BaseException) -> tuple[int, str]:
    """HTTP status and code of the answer behind an error; (0, "") where there is none."""
    answer = getattr(exc.__cause__, "response", None)  # botocore's, behind s3fs's OSError
    if answer:
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status, str(answer.get("Error", {}).get("Code", status))
    status = getattr(exc, "status", 0)  # aiohttp's
    return status, str(status or "")


def cause_of(exc: BaseException) -> str:
    """An error in a few words that hold neither a URL nor a header."""
    name, (_, code) = type(exc).__name__, answer_of(exc)
    if code:
        return f"{name}: {code}"
    is_told = isinstance(exc, OSError) or name in _FINAL
    text = str(exc) if is_told and exc.__cause__ is None else ""
    return f"{name}: {text}" if text and "://" not in text and len(text) < 200 else name


def shown_cause(exc: BaseException) -> BaseException | None:
    """The error, unless it shows a URL as it was given, with a password or a signature."""
    chain = [exc, exc.__cause__, exc.__context__]
    return None if any("://" in str(error) for error in chain) else exc


def _is_refusal(exc: Exception) -> bool:
    status, code = answer_of(exc)
    is_refused = status in (401, 403) or "Token" in code
    return is_refused or isinstance(exc, PermissionError) or "Credential" in type(exc).__name__


def _is_final(exc: Exception) -> bool:
    """Whether asking again cannot help."""
    status, code = answer_of(exc)
    is_wrong_request = status == 501 or (400 <= status < 500 and status not in (408, 409, 425, 429))
    return type(exc).__name__ in _FINAL or (is_wrong_request and code not in _SPOILED_ON_THE_WAY)
