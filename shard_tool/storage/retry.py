"""Retries failed requests to storage: after a pause, with new credentials, or not at all.

A request that fails is sent again after a growing pause, until its time limit: `backoff` computes
both, and the caller sets the limit (`Folder.timeout_s`, `fetch_timeout_s` of a dataset). Where
another attempt cannot help (`failures`: a missing object, a wrong request), the error is raised at
once. Refused access is retried once, with credentials that were read afresh.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from shard_tool.errors import ObjectMissing, ShardError, ShardToolError, StoreError
from shard_tool.storage import backoff
from shard_tool.storage.backoff import Backoff
from shard_tool.storage.event_loop import is_s3
from shard_tool.storage.failures import cause_of, is_final, is_refusal, shown_cause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

log = logging.getLogger(__name__)
_T = TypeVar("_T")

What = Literal["read", "written", "listed", "removed"]
"""What a request does to an object."""

SILENCE_S = 15.0
"""Seconds a request may go without progress."""
SLOWEST_BYTES_PER_S = 256 << 10
"""The slowest connection that is still waited for."""

_TO_DO: dict[What, str] = {"read": "read", "written": "write", "listed": "list"}
_TO_DO["removed"] = "remove"
_SAID_AFTER = 4
"""Failed attempts before a warning is logged."""
_NO_FAULT_OF_STORAGE = (AttributeError, ImportError, NotImplementedError, ShardToolError)
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")
"""How client libraries report an option that they do not have."""


class WrongAnswer(OSError):  # noqa: N818  (it may be right the next time)
    """A complete answer that is not the requested one: short, a gateway's page, another range.

    Args:
        problem: What came, and what was requested.
        hint: What may be wrong with the object if this lasts; empty if it cannot be the object.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem, self.hint = problem, hint

    def __str__(self) -> str:
        return self.problem


@dataclass
class Retry:
    """The state of one retried request: its failures and its budget of time."""

    place: str
    """What messages call the object."""
    what: What
    timeout_s: float
    request: str = ""
    """What messages call the request if it asks for a part of the object."""
    client: object = None
    """The S3 client of the last attempt; its credentials may have expired."""
    cause: str = ""
    """The last failure, in a few words."""
    hint: str = ""
    """If that was a wrong answer: what may be wrong with the object."""
    is_reconnected: bool = False
    backoff: Backoff = field(init=False)
    _silences: int = 0
    """Attempts in a row, up to the last one, that got no answer in time."""

    def __post_init__(self) -> None:
        self.request = self.request or self.place
        self.backoff = Backoff(self.timeout_s)

    def extend(self, seconds: float) -> None:
        """Note that a part arrived: its time does not count, and the next part starts afresh."""
        self.is_reconnected, self.cause, self.hint = False, "", ""
        self.backoff.extend(seconds)

    async def wait_or_raise(self, fs: Any, exc: Exception) -> None:
        """Wait before the next attempt, or raise the error that ends them.

        Raises:
            ObjectMissing: There is no such object.
            StoreError: Another attempt cannot help, or the budget is spent.
            ShardError: The budget is spent, and the last answer had a wrong length.
            Exception: `exc` itself, if storage did not cause it.
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
        if is_refusal(exc):
            await self._reconnect(fs, exc)
            return
        if is_final(exc):
            hint = "check the URL and the storage options"
            problem = f"cannot be {self.what} ({cause_of(exc)})"
            raise StoreError(self.place, problem, hint) from shown_cause(exc)
        await self._pause(exc)

    async def _pause(self, exc: Exception) -> None:
        pause_s = self.backoff.next_pause_s()
        if isinstance(exc, WrongAnswer):
            self.cause, self.hint = exc.problem, exc.hint
        elif not (self.cause and isinstance(exc, TimeoutError)):  # ours, and it says less
            self.cause, self.hint = cause_of(exc), ""
        elif self._silences and self.backoff.left_s > 0:
            self.hint = ""  # lasting silence, before the end of the budget: not the object's fault
        self._silences = self._silences + 1 if isinstance(exc, TimeoutError) else 0
        if pause_s is None:
            attempts = f"{self.backoff.failed} attempts in {self.timeout_s:g} s"
            if self.hint:
                raise ShardError(self.request, f"{self.cause} ({attempts})", self.hint)
            problem = f"not {self.what} after {attempts} (last: {self.cause})"
            raise StoreError(self.request, problem) from shown_cause(exc)
        if self.backoff.failed == _SAID_AFTER:
            text = "%s: %s; retrying for up to %g s"
            log.warning(text, self.request, self.cause, self.backoff.left_s)
        await backoff.clock.sleep_async(pause_s)

    def _missing(self) -> StoreError:
        if self.what == "written":
            hint = "make it first, or check the URL"
            return StoreError(self.place, "cannot be written: there is no such bucket", hint)
        return ObjectMissing(self.place, "there is no such object")

    async def _reconnect(self, fs: Any, exc: Exception) -> None:
        """Read the credentials again, once: they may have been renewed meanwhile.

        Concurrent requests are refused together; the first one makes a new client for all.
        """
        problem = f"access refused ({cause_of(exc)})"
        hint = "check the credentials: they are missing, wrong, expired, or may not "
        hint += f"{_TO_DO[self.what]} this"
        if self.is_reconnected:
            raise StoreError(self.place, problem, hint) from shown_cause(exc)
        self.is_reconnected = True
        if is_s3(fs) and fs._s3 is self.client:
            try:
                await asyncio.wait_for(fs.set_session(refresh=True), self.backoff.left_s)
            except Exception as error:  # noqa: BLE001  (any credential provider's)
                problem += f", and no others were found ({cause_of(error)})"
                raise StoreError(self.place, problem, hint) from shown_cause(error)


async def with_retry(fs: Any, retry: Retry, ask: Callable[[], Awaitable[_T]]) -> _T:
    """Call `ask` until it succeeds.

    Raises:
        ObjectMissing: As `Retry.wait_or_raise`, as are all others.
    """
    while True:
        try:
            return await asyncio.wait_for(ask(), retry.backoff.left_s)
        except Exception as exc:  # noqa: BLE001  (storage libraries share no base class)
            await retry.wait_or_raise(fs, exc)


async def call_s3_with_retry(fs: Any, method: str, options: Mapping[str, Any], retry: Retry) -> Any:
    """Call a method of S3's client until it succeeds."""
    return await with_retry(fs, retry, lambda: call_s3(fs, method, options, retry))


async def call_s3(fs: Any, method: str, options: Mapping[str, Any], retry: Retry) -> Any:
    """Call a method of S3's client once.

    Not by s3fs's `_call_s3`, which itself repeats a SlowDown five times, without jitter.
    """
    from s3fs.errors import translate_boto_error  # not above: s3fs is slow to import

    retry.client = await fs.set_session()
    client = await fs.get_s3(options["Bucket"])
    ask = getattr(client, method)
    try:
        return await ask(**fs._get_s3_method_kwargs(ask, **options))
    except Exception as error:
        exc = translate_boto_error(error)
        if exc is error:
            raise
        raise exc from error
