"""Asks a URL for its bytes from a position on: one request with Range, and what its answer means.

What goes wrong becomes one of three errors, which say whether to ask again. Their texts never show
a URL as it was given nor the text of a library's error: both may hold a secret.
"""

from __future__ import annotations

import base64
import http
import http.client
import re
import string
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.error import URLError
from urllib.parse import quote, unquote, urljoin, urlsplit

from shard_tool.release import RELEASE
from shard_tool.storage.location import public_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

_MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_NOW = (408, 425, 429)
"""Request timeout, too early, too many requests: a later request may succeed."""


class TransientError(Exception):
    """A request failed; the same request may succeed later."""


class StartOverError(TransientError):
    """The server cannot continue the file; a request from byte 0 may succeed."""


class RefusedError(Exception):
    """This URL does not have the file; asking again cannot help."""


@dataclass(frozen=True, slots=True)
class Body:
    """The body of an answer."""

    start: int
    """Position of its first byte in the file: the requested one, or 0."""
    total: int | None
    """Length of the whole file; None if the server does not tell."""
    _answer: http.client.HTTPResponse
    _timeout_s: float

    def read(self, at_most: int) -> bytes:
        """Read the bytes that have arrived, at least one; empty at the end.

        Raises:
            TransientError: The connection broke or fell silent.
        """
        try:
            return self._answer.read1(at_most)  # read() would lose the bytes before a stall
        except (OSError, http.client.HTTPException) as exc:
            raise _error_of(exc, self._timeout_s) from exc


@contextmanager
def open_body(url: str, *, start: int, timeout_s: float) -> Iterator[Body]:
    """Request a URL from byte `start` on, once; redirects are followed.

    Args:
        url: http or https. User and password go to its own host alone, as Basic authorization.
        start: Position of the first byte wanted.
        timeout_s: Longest wait for a connection or for the next bytes.

    Raises:
        TransientError: No answer, a 5xx, or one of the 4xx that say "not now".
        StartOverError: The server cannot continue at `start`.
        RefusedError: Any other answer without the file.
    """
    with _answer_of(url, start=start, timeout_s=timeout_s) as answer:
        first, total = _range_of(answer.status, answer.headers, asked_from=start)
        yield Body(first, total, answer, timeout_s)


def is_web(url: str) -> bool:
    """Whether it is an http or https URL with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are no IPv6 address, a port that is no number
        return False


def _answer_of(url: str, *, start: int, timeout_s: float) -> http.client.HTTPResponse:
    """Open a URL and follow its redirects."""
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            answer = _opener().open(_request(url, start=start), timeout=timeout_s)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise _error_of(exc, timeout_s) from exc
        if answer.status not in _REDIRECTS:
            return cast("http.client.HTTPResponse", answer)
        with answer:
            url = _redirected(url, answer.headers.get("Location", ""))
    raise RefusedError(f"more than {_MAX_REDIRECTS} redirects")


def _range_of(status: int, headers: Message, *, asked_from: int) -> tuple[int, int | None]:
    """Read (position of the first byte, length of the file or None) from an answer's headers.

    Raises:
        TransientError: As `open_body`, as are the others.
    """
    content_range = headers.get("Content-Range", "")
    if status == http.HTTPStatus.OK:  # also the answer of a server without ranges
        return 0, _number(headers.get("Content-Length", ""))
    if status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        if match and int(match[1]) == asked_from:
            return asked_from, _number(match[2])
        problem = f"Content-Range is {content_range!r}, asked for bytes from {asked_from}"
        raise StartOverError(problem)
    if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and asked_from:
        raise StartOverError(f"{_spell(status)}, asked for bytes from {asked_from}")
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or status in _NOT_NOW:
        raise TransientError(_spell(status))
    raise RefusedError(_spell(status))


def _redirected(url: str, location: str) -> str:
    """Target of a redirect; refuses all but http and https."""
    try:
        target = urljoin(url, location) if location else ""
    except ValueError:
        target = ""
    if not is_web(target):
        problem = f"redirects to {public_url(target)!r}, which is no http or https URL"
        raise RefusedError(problem)
    return target


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]+", text) else None


def _spell(status: int) -> str:
    """Name a status with the standard's words; the server's own could hold anything.

    >>> _spell(503), _spell(599)
    ('HTTP 503 Service Unavailable', 'HTTP 599')
    """
    return f"HTTP {status} {http.client.responses.get(status, '')}".rstrip()


def _error_of(exc: Exception, timeout_s: float) -> TransientError | RefusedError:
    """Classify a failed connection; the exception's own text may show a URL and is not used."""
    wrapped = exc.reason if isinstance(exc, URLError) else None
    reason = wrapped if isinstance(wrapped, Exception) else exc
    if isinstance(reason, TimeoutError):
        return TransientError(f"nothing came for {timeout_s:g} s")
    text = (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__
    # A certificate that fails to verify is also a ValueError.
    is_lasting = isinstance(reason, ValueError | http.client.InvalidURL)
    return RefusedError(text) if is_lasting else TransientError(text)


def _request(url: str, *, start: int) -> urllib.request.Request:
    """Build a request; urllib needs user and password of a URL in a header."""
    parts = urlsplit(url)
    bare = parts._replace(
        netloc=parts.netloc.rpartition("@")[2],
        path=quote(parts.path, safe=string.punctuation),  # already quoted text stays as it is
        query=quote(parts.query, safe=string.punctuation),
        fragment="",
    )
    headers = {"User-Agent": f"shard-tool/{RELEASE}"}
    request = urllib.request.Request(bare.geturl(), headers=headers)
    if start:
        request.add_header("Range", f"bytes={start}-")
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        encoded = base64.b64encode(secret.encode()).decode()
        request.add_header("Authorization", f"Basic {encoded}")
    return request


def _opener() -> urllib.request.OpenerDirector:
    """Open http and https alone; `urlopen` would also open file:, ftp: and data:.

    Every status comes back as an answer and none as an exception, for `_range_of` to judge.
    """
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler())
    opener.add_handler(urllib.request.HTTPHandler())
    opener.add_handler(urllib.request.HTTPSHandler())
    return opener
