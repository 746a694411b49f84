"""Official archives, fetched over HTTP: resumable, and never there unless their digest is right.

Bytes stream into ``<name>.part``, which only the digest of the table turns into ``<name>``. What is
cut short is continued, also by another process and from another mirror; a whole file with the
wrong digest is moved aside, where people can look at it. Knows nothing of what an archive holds.

The decisions (`_urls_of`, `_body_of`, `_redirected`, `_trouble`, `_pause_s`) are pure; `_Part` owns
the disk, `_Download` the requests.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http
import http.client
import logging
import os
import re
import shutil
import string
import time
import urllib.request
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.error import URLError
from urllib.parse import quote, unquote, urljoin, urlsplit

from shard_tool.errors import ObjectBusy, OptionError, StoreError
from shard_tool.release import RELEASE
from shard_tool.sources.voc.official import OFFICIAL_HOSTS
from shard_tool.storage.location import public_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from email.message import Message
    from io import FileIO
    from pathlib import Path

    from shard_tool.sources.voc.official import Archive

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20
_PROGRESS_BYTES = 1 << 20
"""New bytes that make an attempt worth its while: it then does not count as a failed one."""
_LONGEST_PAUSE_S = 60.0
_MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_NOW = (408, 425, 429)
"""Request timeout, too early, too many requests: what 4xx a later request may not get."""


def download_archive(
    archive: Archive,
    folder: Path,
    *,
    mirrors: Sequence[str] = (),
    on_progress: Callable[[int, int | None], None] | None = None,
    on_check: Callable[[int, int], None] | None = None,
    timeout_s: float = 30,
    attempts: int = 5,
    backoff_s: float = 1.0,
) -> Path:
    """Make sure that an official archive lies in a folder, whole and with the right digest.

    A right file that is there already costs one md5 and no request, each time: a few seconds, and
    nothing has to be believed that an earlier run may have written down. A wrong one is moved
    aside. A ``.part`` left by a process that died is continued.

    Args:
        archive: Which one.
        folder: Where to put it; made if missing.
        mirrors: http or https URLs to try before the official hosts, in turn. Each is the URL of
            the archive itself, or of a folder that holds it, with or without ``voc<year>/``
            between; the URL of another archive is passed over, so one list serves several.
            User, password and query may be secret: messages do not show them.
        on_progress: Called with (bytes got so far, all bytes or None) with every answer and at
            every block. Counts what an earlier run got, and falls back where a download has to
            begin again.
        on_check: Called with (bytes, all bytes) while what lies there already is hashed.
        timeout_s: Longest wait for a connection, or for the next bytes.
        attempts: Failed requests in a row before the next mirror is tried; one that brings at least
            1 MiB of new bytes does not count. An answer that will not change (404, another file's
            length, a wrong digest) is not asked for twice.
        backoff_s: Pause after the first failed request; doubles with each, up to 60 s.

    Returns:
        The file, ``folder/<official name>``.

    Raises:
        OptionError: A mirror is not an http or https URL, or a number is not positive.
        ObjectBusy: Another process is at it.
        StoreError: No mirror gave the right file (says what each did, and where wrong files were
            kept), or the disk is full or cannot be written.
    """
    _check_options(timeout_s=timeout_s, attempts=attempts, backoff_s=backoff_s)
    sources = sources_of(archive, mirrors)
    target = folder / archive.file
    if _is_right(archive, target, on_check):
        return target
    with closing(_Part(target, on_check)) as part:
        # Once more, under the lock: another process may have published it meanwhile.
        if not _is_right(archive, target, on_check):
            download = _Download(archive, part, on_progress, timeout_s, attempts, backoff_s)
            download.run(sources)
            part.publish()
    return target


def sources_of(archive: Archive, mirrors: Sequence[str]) -> list[tuple[str, ...]]:
    """Where an archive is looked for: the mirrors in turn, then the official hosts.

    Returns:
        Of each the URLs the archive may have there, most likely first; none at the URL of another
        archive.

    Raises:
        OptionError: A mirror is not an http or https URL.
    """
    sources = [_urls_of(base, archive) for base in mirrors]
    return sources + [(host + archive.url_path,) for host in OFFICIAL_HOSTS]


class _TransientError(Exception):
    """A request failed in a way that another one may not."""


class _StartOverError(_TransientError):
    """The bytes there are cannot be continued; those of one answer may do."""


class _RefusedError(Exception):
    """A URL does not have the archive, however often it is asked."""


class _Body(NamedTuple):
    """What an answer brings: bytes from `start` on, up to `total` where that is known."""

    start: int
    total: int | None


@dataclass(slots=True)
class _Download:
    """One archive on its way: which URL is asked next, and what became of the earlier ones."""

    archive: Archive
    part: _Part
    on_progress: Callable[[int, int | None], None] | None
    timeout_s: float
    attempts: int
    backoff_s: float
    num_requests: int = 0

    def run(self, sources: Sequence[Sequence[str]]) -> None:
        """Fill the part with the right bytes.

        Args:
            sources: The mirrors in turn, each with the URLs the archive may have there.

        Raises:
            StoreError: None of them gave it.
        """
        if self.part.md5 == self.archive.md5:
            return None  # a process died between the last byte and the new name
        if self.archive.num_bytes is not None and self.part.size >= self.archive.num_bytes:
            self.part.restart()
        self._check_space(self.archive.num_bytes)
        failures: list[str] = []
        last: Exception | None = None
        for urls in sources:
            for url in urls:
                try:
                    return self._fetch(url)
                except (_TransientError, _RefusedError) as exc:
                    last = exc
                    failures.append(f"{public_url(url)}: {exc}")
                if isinstance(last, _TransientError):
                    break  # the mirror is down: its other URLs would be as silent
        raise self._given_up(failures) from last

    def _fetch(self, url: str) -> None:
        """Ask one URL, again and again while that may help."""
        num_failed, furthest = 0, self.part.size
        while True:
            try:
                return self._attempt(url)
            except _TransientError as exc:
                if isinstance(exc, _StartOverError):
                    self.part.restart()
                is_worth_it = self.part.size - furthest >= _PROGRESS_BYTES
                num_failed = 0 if is_worth_it else num_failed + 1
                furthest = max(furthest, self.part.size)
                if num_failed >= self.attempts:
                    raise
                pause_s = _pause_s(max(num_failed, 1), self.backoff_s)
                logger.info("%s: %s; next attempt in %g s", public_url(url), exc, pause_s)
                time.sleep(pause_s)

    def _attempt(self, url: str) -> None:
        """One request, from the first byte that is missing to a digest that is right."""
        with self._open(url) as answer:
            body = _body_of(answer.status, answer.headers, asked_from=self.part.size)
            total = body.total if body.total is not None else self.archive.num_bytes
            if self.archive.num_bytes not in (None, total):
                problem = f"has {total} bytes there, the archive has {self.archive.num_bytes}"
                raise _RefusedError(problem)
            if body.start == 0:
                self.part.restart()
            self._check_space(total)
            self._tell(total)
            self._receive(answer, total)
        self._check_digest(is_continued=body.start > 0)

    def _open(self, url: str) -> http.client.HTTPResponse:
        """The answer of a URL, or of the one it redirects to in the end."""
        self.num_requests += 1
        for _ in range(_MAX_REDIRECTS + 1):
            request = _request(url, start=self.part.size)
            try:
                answer = _opener().open(request, timeout=self.timeout_s)
            except (OSError, http.client.HTTPException, ValueError) as exc:
                raise _trouble(exc, self.timeout_s) from exc
            if answer.status not in _REDIRECTS:
                return cast("http.client.HTTPResponse", answer)
            with answer:
                url = _redirected(url, answer.headers.get("Location", ""))
        raise _RefusedError(f"more than {_MAX_REDIRECTS} redirects")

    def _receive(self, answer: http.client.HTTPResponse, total: int | None) -> None:
        part = self.part
        while total is None or part.size < total:
            wanted = _BLOCK_BYTES if total is None else min(_BLOCK_BYTES, total - part.size)
            try:
                block = answer.read1(wanted)  # whatever is there: read() would lose it on a stall
            except (OSError, http.client.HTTPException) as exc:
                raise _trouble(exc, self.timeout_s) from exc
            if not block:
                break
            part.append(block)
            self._tell(total)
        if total is not None and part.size < total:
            raise _TransientError(f"the answer ended after {part.size} of {total} bytes")

    def _tell(self, total: int | None) -> None:
        if self.on_progress is not None:
            self.on_progress(self.part.size, total)

    def _check_space(self, total: int | None) -> None:
        if total is None:
            return
        folder = self.part.path.parent
        free, needed = shutil.disk_usage(folder).free, total - self.part.size
        if needed > free:
            problem = f"{free} bytes free, {self.archive.file} needs {needed} more"
            raise StoreError(str(folder), problem, "make room or choose another folder")

    def _check_digest(self, *, is_continued: bool) -> None:
        md5 = self.part.md5
        if md5 == self.archive.md5:
            return
        explanation = self.archive.explanation_of(md5)
        if is_continued and explanation is None:  # old and new bytes may be of different files
            raise _StartOverError(f"md5 {md5} once continued, expected {self.archive.md5}")
        kept = self.part.set_aside(md5)
        raise _RefusedError(_digest_problem(self.archive, md5, kept))

    def _given_up(self, failures: list[str]) -> StoreError:
        place = str(self.part.target)
        plural = "" if self.num_requests == 1 else "s"
        problem = f"not downloaded after {self.num_requests} attempt{plural}: {'; '.join(failures)}"
        hint = "try again later or give another mirror"
        if self.part.size:
            hint += f" (the first {self.part.size} bytes are kept in {self.part.path.name})"
        return StoreError(place, problem, hint)


class _Part:
    """The bytes got so far: a locked file, with its length and its md5."""

    def __init__(self, target: Path, on_check: Callable[[int, int], None] | None) -> None:
        self.target = target
        self.path = part_of(target)
        with _on_disk(self.path):
            self._file = _open_locked(self.path)
            self._hash = _hashed(self._file, on_check)
            self.size = self._file.tell()

    @property
    def md5(self) -> str:
        """Of all bytes there are."""
        return self._hash.hexdigest()

    def append(self, block: bytes) -> None:
        """Write behind the last byte."""
        with _on_disk(self.path):
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        self._hash.update(block)
        self.size += len(block)

    def restart(self) -> None:
        """Drop every byte."""
        with _on_disk(self.path):
            self._file.truncate(0)
        self._hash, self.size = _new_md5(), 0

    def set_aside(self, md5: str) -> Path:
        """Keep the bytes under another name and begin anew; returns that name."""
        with _on_disk(self.path):
            kept = _set_aside(self.path, self.target.name, md5)
            self._file.close()
            self._file = _open_locked(self.path)
        self._hash, self.size = _new_md5(), 0
        return kept

    def publish(self) -> None:
        """Give the file its name, at once and whole."""
        with _on_disk(self.target):
            self.path.replace(self.target)

    def close(self) -> None:
        """Give up the lock; what was got stays for the next process."""
        if self.size == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()


def _check_options(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise OptionError(name, f"is {value!r}, expected a number above 0")


def _urls_of(base: str, archive: Archive) -> tuple[str, ...]:
    """The URLs an archive may have at a mirror, most likely first.

    >>> from shard_tool.sources.voc.official import archives_of
    >>> (archive,) = archives_of("2012")
    >>> _urls_of("https://m/voc/VOCtrainval_11-May-2012.tar?key=1", archive)
    ('https://m/voc/VOCtrainval_11-May-2012.tar?key=1',)
    >>> _urls_of("https://m/voc/VOCtrainval_06-Nov-2007.tar", archive)
    ()
    """
    if not _is_web(base):
        raise OptionError(f"mirror {public_url(base)!r}", "is not an http or https URL")
    parts = urlsplit(base)
    if parts.path.endswith(".tar"):
        return (base,) if parts.path.endswith(f"/{archive.file}") else ()
    folder = parts.path.rstrip("/")
    paths = [f"{folder}/{archive.url_path}", f"{folder}/{archive.file}"]
    return tuple(parts._replace(path=path).geturl() for path in paths)


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are no IPv6 address, a port that is no number
        return False


def _body_of(status: int, headers: Message, *, asked_from: int) -> _Body:
    """What an answer brings to somebody who has `asked_from` bytes already.

    Raises:
        _TransientError: A 5xx, or one of the 4xx that say "not now".
        _StartOverError: The server cannot continue at `asked_from`.
        _RefusedError: Any other answer without the archive.
    """
    content_range = headers.get("Content-Range", "")
    if status == http.HTTPStatus.OK:  # also a server's way to say it knows no ranges
        return _Body(0, _number(headers.get("Content-Length", "")))
    if status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        if match and int(match[1]) == asked_from:
            return _Body(asked_from, _number(match[2]))
        problem = f"Content-Range is {content_range!r}, asked for bytes from {asked_from}"
        raise _StartOverError(problem)
    if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and asked_from:
        raise _StartOverError(f"{_spell(status)}, asked for bytes from {asked_from}")
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or status in _NOT_NOW:
        raise _TransientError(_spell(status))
    raise _RefusedError(_spell(status))


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads; http and https only."""
    try:
        target = urljoin(url, location) if location else ""
    except ValueError:
        target = ""
    if not _is_web(target):
        problem = f"redirects to {public_url(target)!r}, which is no http or https URL"
        raise _RefusedError(problem)
    return target


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]+", text) else None


def _spell(status: int) -> str:
    """A status in the standard's words, not in the server's, which could say anything.

    >>> _spell(503), _spell(599)
    ('HTTP 503 Service Unavailable', 'HTTP 599')
    """
    return f"HTTP {status} {http.client.responses.get(status, '')}".rstrip()


def _trouble(exc: Exception, timeout_s: float) -> _TransientError | _RefusedError:
    """What a failed connection means; without the exception's own words, which may show a URL."""
    wrapped = exc.reason if isinstance(exc, URLError) else None
    reason = wrapped if isinstance(wrapped, Exception) else exc
    if isinstance(reason, TimeoutError):
        return _TransientError(f"nothing came for {timeout_s:g} s")
    text = (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__
    # A certificate that fails to verify is a ValueError, too.
    is_lasting = isinstance(reason, ValueError | http.client.InvalidURL)
    return _RefusedError(text) if is_lasting else _TransientError(text)


def _pause_s(num_failed: int, backoff_s: float) -> float:
    """Pause after the n-th failed request in a row, n counted from 1.

    >>> [_pause_s(n, 1.0) for n in (1, 2, 3, 9)]
    [1.0, 2.0, 4.0, 60.0]
    """
    return float(min(backoff_s * 2 ** (num_failed - 1), _LONGEST_PAUSE_S))


def _digest_problem(archive: Archive, md5: str, kept: Path) -> str:
    explanation = archive.explanation_of(md5)
    why = f" ({explanation})" if explanation else ""
    return f"md5 {md5}{why}, expected {archive.md5}; the file is kept as {kept}"


def _request(url: str, *, start: int) -> urllib.request.Request:
    """Ask for a URL from a byte on; user and password, which urllib cannot read, in a header."""
    parts = urlsplit(url)
    bare = parts._replace(
        netloc=parts.netloc.rpartition("@")[2],
        path=quote(parts.path, safe=string.punctuation),  # what is quoted already stays so
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
    """The web and nothing else: `urlopen` knows file:, ftp: and data:, and redirects to ftp: too.

    Every status comes back as an answer, none as an exception: `_body_of` judges them.
    """
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler())
    opener.add_handler(urllib.request.HTTPHandler())
    opener.add_handler(urllib.request.HTTPSHandler())
    return opener


def part_of(target: Path) -> Path:
    """Where the bytes of an archive are kept until they are all there."""
    return target.with_name(f"{target.name}.part")


def _is_right(archive: Archive, target: Path, on_check: Callable[[int, int], None] | None) -> bool:
    """Whether the archive is there already; moves a wrong file of its name out of the way."""
    with _on_disk(target):
        try:
            with target.open("rb", buffering=0) as file:
                md5 = _hashed(file, on_check).hexdigest()
        except FileNotFoundError:
            return False
        if md5 == archive.md5:
            return True
        kept = _set_aside(target, target.name, md5)
    logger.warning("%s: %s", target, _digest_problem(archive, md5, kept))
    return False


def _set_aside(path: Path, name: str, md5: str) -> Path:
    return path.replace(path.with_name(f"{name}.wrong-{md5[:8]}"))


def _hashed(file: FileIO, on_check: Callable[[int, int], None] | None) -> hashlib._Hash:
    """The md5 of a file from its start; leaves it at its end."""
    found, total, done = _new_md5(), os.fstat(file.fileno()).st_size, 0
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    while num_bytes := file.readinto(buffer):
        found.update(buffer[:num_bytes])
        done += num_bytes
        if on_check is not None:
            on_check(done, total)
    return found


def _new_md5() -> hashlib._Hash:
    """The hosts' archives are known by md5; against accidents it is as good as any."""
    return hashlib.md5(usedforsecurity=False)


def _open_locked(path: Path) -> FileIO:
    """Open for appending, as the only process: two would hash their own bytes, and mix both.

    The lock dies with its process, so that a killed one leaves nothing to clean up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            hint = "wait for it, then try again"
            raise ObjectBusy(str(path), "another process is downloading it", hint) from None
        except OSError:
            logger.info("%s: this file system has no locks", path)
        if _is_at(path, file):
            file.seek(0)
            return file
        file.close()  # renamed by the process that held the lock: not ours to append to


def _is_at(path: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except ObjectBusy:  # an OSError, too
        raise
    except OSError as exc:
        raise StoreError(str(path), f"disk trouble: {exc.strerror or exc}") from exc
