"""What can go wrong between a client and a store: the kinds, as small values and pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from tests.kit.servers.http_wire import Head

if TYPE_CHECKING:
    from collections.abc import Callable

Range = tuple[int, int | None]
"""Half-open; (5, None) is ``bytes=5-`` and (-5, None) is ``bytes=-5``."""

Kind = Literal[
    # Something else answers; the store sees nothing of the request.
    "slow-down",  # 503 SlowDown
    "internal-error",  # 500 InternalError
    "expired-token",  # 403 ExpiredToken
    "missing",  # 404 NoSuchKey
    "html-200",  # a page of some other server, with status 200
    # There is no answer.
    "reset-before-headers",  # and the store sees nothing of the request
    "lost-answer",  # although the store did what it was asked to do
    # The answer breaks off in its body: 0.0 is right after the headers, 1.0 before the last byte.
    "cut-fin",
    "cut-rst",
    "chunked-cut",  # chunked; the last chunk is missing
    "unframed-cut",  # without Content-Length: nothing tells that something is missing
    "stall",  # nothing more comes until the client leaves or the proxy stops
    # The answer is whole, and wrong.
    "short-body",  # ends at `at`; Content-Length and Content-Range agree with that
    "flip",  # one bit, at `at`
    "flips",  # one bit, each time another one
    "wrong-range",  # other bytes of the object, as many; Content-Range says which
    "wrong-bytes",  # other bytes of the object, as many; Content-Range says what was asked for
    "mixed-bytes",  # likewise, each time others
    "ignore-range",  # 200 and the whole object
]

INSTEAD: dict[str, tuple[str, str, str]] = {
    "slow-down": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "internal-error": ("500 Internal Server Error", "InternalError", "Please try again."),
    "expired-token": ("403 Forbidden", "ExpiredToken", "The provided token has expired."),
    "missing": ("404 Not Found", "NoSuchKey", "The specified key does not exist."),
    "html-200": ("200 OK", "", "<html><title>Sign in</title><p>Please sign in first.</p></html>"),
}
OF_RANGES = {"wrong-range", "wrong-bytes", "mixed-bytes", "ignore-range"}
OF_BODIES = {
    "cut-fin",
    "cut-rst",
    "chunked-cut",
    "unframed-cut",
    "stall",
    "short-body",
    "flip",
    "flips",
}

SHIFT_BYTES = 512
"""How far off a wrong range is: a block of a tar, so that it may look like one of its members."""


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One request, and what became of it so far. Times are those of `time.perf_counter`."""

    method: str
    path: str
    """Decoded, without the query."""
    query: str
    headers: dict[str, str] = field(repr=False)
    """By lower-case names. Not shown: signatures are among them."""
    range: Range | None
    started_s: float
    ended_s: float | None = None
    """The time just before the last block of the answer was sent."""
    status: int | None = None
    """None: there is no answer, or not yet."""
    body_bytes: int = 0
    """Of the answer, as far as they were sent to the client."""
    fault: Kind | None = None
    hit_number: int = 0
    """Which fault this is of those that requests for the same bytes got, from 1; 0: none."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, where and how often."""

    kind: Kind
    times: int | None = 1
    """How many requests it hits; None: all."""
    at: float = 0.5
    """A fraction of the answer's body."""
    path: str = ".tar"
    """A part of the path of requests it hits."""
    method: str = "GET"
    where: Callable[[Request], bool] | None = None
    """Hits only requests that this says yes to."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"no fault {self.kind!r}; there are {', '.join(get_args(Kind))}")

    def meets(self, request: Request) -> bool:
        """Whether it hits this request; faults of ranges hit only requests from a first byte on."""
        return (
            request.method == self.method
            and self.path in request.path
            and (self.kind not in OF_RANGES or (request.range or (-1, None))[0] >= 0)
            and (self.where is None or self.where(request))
        )


def answer_instead(kind: str) -> tuple[Head, bytes]:
    """The answer of those that keep a request from the store."""
    status, code, text = INSTEAD[kind]
    if code:
        error = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>"
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n{error}'
    fields = {
        "Content-Type": "application/xml" if code else "text/html",
        "Content-Length": str(len(text)),
    }
    return Head(f"HTTP/1.1 {status}", tuple(fields.items())), text.encode()


def parse_range(header: str) -> Range | None:
    """Of one range; None for anything else.

    >>> parse_range("bytes=5-9"), parse_range("bytes=5-"), parse_range("bytes=-5")
    ((5, 10), (5, None), (-5, None))
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return -int(match[2]), None
    return int(match[1]), int(match[2]) + 1 if match[2] else None


def other_range(range_: Range, number: int = 1) -> str:
    """As many bytes beside those asked for; fewer where the object ends.

    Args:
        range_: What was asked for.
        number: How many blocks away from it.

    >>> other_range((1024, 1034)), other_range((0, None))
    ('bytes=512-521', 'bytes=512-')
    """
    start, stop = range_
    shift = number * SHIFT_BYTES
    shift = -shift if start >= shift else shift
    return f"bytes={start + shift}-{'' if stop is None else stop + shift - 1}"


def shortened(answer: Head, num_bytes: int) -> Head:
    """The head that goes with the first bytes of a body."""
    start = re.match(r"bytes (\d+)-", answer.get("content-range"))
    answer = answer.changed({"content-length": str(num_bytes)})
    return answer if start is None else placed(answer, int(start[1]))


def placed(answer: Head, start: int) -> Head:
    """The head of a 206, with a Content-Range that starts there."""
    stop = start + int(answer.get("content-length"))
    total = answer.get("content-range").rpartition("/")[2]
    return answer.changed({"content-range": f"bytes {start}-{stop - 1}/{total}"})
