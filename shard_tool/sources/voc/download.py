"""Downloads official archives over HTTP: resumes after cuts, tries mirrors, verifies the MD5.

Bytes stream into ``<name>.part``, which is renamed to ``<name>`` once its MD5 is the published one.
Another process or another mirror can continue an unfinished part. A complete file with a wrong MD5
is renamed, so that people can inspect it. `http_range` makes the requests and `partial_file` owns
the file; this module chooses the next URL and judges the result.

Not `storage.ranges`: it needs the file's size and a server with ranges, which these hosts do not
promise. Not pooch or requests: they neither resume nor change to a mirror halfway. If-Range is not
sent, since ETags differ between mirrors; the MD5 judges the whole.
"""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shard_tool.errors import OptionError, StoreError
from shard_tool.sources.files.http_range import (
    RefusedError,
    StartOverError,
    TransientError,
    is_web,
    open_body,
)
from shard_tool.sources.files.partial_file import PartialFile, disk_errors_named, md5_of, move_aside
from shard_tool.sources.voc.official import OFFICIAL_HOSTS
from shard_tool.storage.location import public_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from shard_tool.sources.files.http_range import Body
    from shard_tool.sources.voc.official import Archive

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20
_PROGRESS_BYTES = 1 << 20
"""An attempt that brings this many new bytes does not count as failed."""
_LONGEST_PAUSE_S = 60.0


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
    """Make sure that an official archive is in a folder, complete and with the right MD5.

    An existing file is hashed each time, which takes a few seconds; if its MD5 is right, nothing is
    requested, else it is renamed. A ``.part`` of a killed process is continued.

    Args:
        archive: The archive.
        folder: Folder for the file; created if missing.
        mirrors: http or https URLs to try before the official hosts, in order. Each is the URL of
            the archive, or of a folder that holds it, with or without ``voc<year>/`` between. The
            URL of another archive is skipped, so one list serves all archives. User, password and
            query may be secret: messages do not show them.
        on_progress: Called with (bytes so far, all bytes or None) for every answer and every
            block. Bytes of earlier runs count; the number falls if a download starts over.
        on_check: Called with (bytes, all bytes) while an existing file is hashed.
        timeout_s: Longest wait for a connection or for the next bytes.
        attempts: Failed requests in a row before the next mirror is tried. A request that brings
            at least 1 MiB of new bytes does not count. A final answer (404, the length of another
            file, a wrong MD5) is not repeated.
        backoff_s: Pause after the first failed request; doubles each time, up to 60 s.

    Returns:
        The file, ``folder/<official name>``.

    Raises:
        OptionError: A mirror is not an http or https URL, or a number is not positive.
        ObjectBusy: Another process is downloading it.
        StoreError: No mirror had the right file (says what each answered, and where wrong files
            are), or the disk is full or cannot be written.
    """
    _check_options(timeout_s=timeout_s, attempts=attempts, backoff_s=backoff_s)
    sources = sources_of(archive, mirrors)
    target = folder / archive.file
    if _is_right(archive, target, on_check):
        return target
    with closing(PartialFile(target, on_check)) as part:
        # Again, under the lock: another process may have finished it meanwhile.
        if not _is_right(archive, target, on_check):
            download = _Download(archive, part, on_progress, timeout_s, attempts, backoff_s)
            download.run(sources)
            part.publish()
    return target


def sources_of(archive: Archive, mirrors: Sequence[str]) -> list[tuple[str, ...]]:
    """List the URLs of an archive: those at each mirror in order, then at the official hosts.

    Returns:
        For each mirror or host the possible URLs, most likely first; an empty tuple for a mirror
        that is the URL of another archive.

    Raises:
        OptionError: A mirror is not an http or https URL.
    """
    sources = [_urls_of(base, archive) for base in mirrors]
    return sources + [(host + archive.url_path,) for host in OFFICIAL_HOSTS]


@dataclass(slots=True)
class _Download:
    """One download: asks URL after URL until the part is complete and right."""

    archive: Archive
    part: PartialFile
    on_progress: Callable[[int, int | None], None] | None
    timeout_s: float
    attempts: int
    backoff_s: float
    num_requests: int = 0

    def run(self, sources: Sequence[Sequence[str]]) -> None:
        """Fill the part with the right bytes.

        Args:
            sources: As `sources_of` returns them.

        Raises:
            StoreError: No URL had the archive.
        """
        if self.part.md5 == self.archive.md5:
            return None  # a process was killed between the last byte and the rename
        if self.archive.num_bytes is not None and self.part.size >= self.archive.num_bytes:
            self.part.restart()
        self._check_space(self.archive.num_bytes)
        failures: list[str] = []
        last: Exception | None = None
        for urls in sources:
            for url in urls:
                try:
                    return self._fetch(url)
                except (TransientError, RefusedError) as exc:
                    last = exc
                    failures.append(f"{public_url(url)}: {exc}")
                if isinstance(last, TransientError):
                    break  # the mirror is down: do not try its other URLs
        raise self._failure(failures) from last

    def _fetch(self, url: str) -> None:
        """Request one URL, and repeat as long as that may help."""
        num_failed, furthest = 0, self.part.size
        while True:
            try:
                return self._attempt(url)
            except TransientError as exc:
                if isinstance(exc, StartOverError):
                    self.part.restart()
                has_progressed = self.part.size - furthest >= _PROGRESS_BYTES
                num_failed = 0 if has_progressed else num_failed + 1
                furthest = max(furthest, self.part.size)
                if num_failed >= self.attempts:
                    raise
                pause_s = _pause_s(max(num_failed, 1), self.backoff_s)
                logger.info("%s: %s; next attempt in %g s", public_url(url), exc, pause_s)
                time.sleep(pause_s)

    def _attempt(self, url: str) -> None:
        """Make one request for the missing bytes and check the MD5."""
        self.num_requests += 1
        with open_body(url, start=self.part.size, timeout_s=self.timeout_s) as body:
            total = body.total if body.total is not None else self.archive.num_bytes
            if self.archive.num_bytes not in (None, total):
                problem = f"has {total} bytes there, the archive has {self.archive.num_bytes}"
                raise RefusedError(problem)
            if body.start == 0:
                self.part.restart()
            self._check_space(total)
            self._report_progress(total)
            self._receive(body, total)
        self._check_digest(is_continued=body.start > 0)

    def _receive(self, body: Body, total: int | None) -> None:
        part = self.part
        while total is None or part.size < total:
            wanted = _BLOCK_BYTES if total is None else min(_BLOCK_BYTES, total - part.size)
            if not (block := body.read(wanted)):
                break
            part.append(block)
            self._report_progress(total)
        if total is not None and part.size < total:
            raise TransientError(f"the answer ended after {part.size} of {total} bytes")

    def _report_progress(self, total: int | None) -> None:
        if self.on_progress is not None:
            self.on_progress(self.part.size, total)

    def _check_space(self, total: int | None) -> None:
        if total is None:
            return
        folder = self.part.path.parent
        free, needed = shutil.disk_usage(folder).free, total - self.part.size
        if needed > free:
            problem = f"{free} bytes free, {self.archive.file} needs {needed} more"
            raise StoreError(str(folder), problem, "free some space or choose another folder")

    def _check_digest(self, *, is_continued: bool) -> None:
        md5 = self.part.md5
        if md5 == self.archive.md5:
            return
        explanation = self.archive.explanation_of(md5)
        if is_continued and explanation is None:  # two servers may have sent different files
            raise StartOverError(f"md5 {md5} after resuming, expected {self.archive.md5}")
        kept = self.part.set_aside(md5)
        raise RefusedError(_digest_problem(self.archive, md5, kept))

    def _failure(self, failures: list[str]) -> StoreError:
        place = str(self.part.target)
        plural = "" if self.num_requests == 1 else "s"
        problem = f"not downloaded after {self.num_requests} attempt{plural}: {'; '.join(failures)}"
        hint = "try again later or give another mirror"
        if self.part.size:
            hint += f" (the first {self.part.size} bytes are kept in {self.part.path.name})"
        return StoreError(place, problem, hint)


def _check_options(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise OptionError(name, f"is {value!r}, expected a number above 0")


def _urls_of(base: str, archive: Archive) -> tuple[str, ...]:
    """List the possible URLs of an archive at a mirror, most likely first.

    >>> from shard_tool.sources.voc.official import archives_of
    >>> (archive,) = archives_of("2012")
    >>> _urls_of("https://m/voc/VOCtrainval_11-May-2012.tar?key=1", archive)
    ('https://m/voc/VOCtrainval_11-May-2012.tar?key=1',)
    >>> _urls_of("https://m/voc/VOCtrainval_06-Nov-2007.tar", archive)
    ()
    """
    if not is_web(base):
        raise OptionError(f"mirror {public_url(base)!r}", "is not an http or https URL")
    parts = urlsplit(base)
    if parts.path.endswith(".tar"):
        return (base,) if parts.path.endswith(f"/{archive.file}") else ()
    folder = parts.path.rstrip("/")
    paths = [f"{folder}/{archive.url_path}", f"{folder}/{archive.file}"]
    return tuple(parts._replace(path=path).geturl() for path in paths)


def _pause_s(num_failed: int, backoff_s: float) -> float:
    """Seconds to wait after the n-th failed request in a row; n counts from 1.

    >>> [_pause_s(n, 1.0) for n in (1, 2, 3, 9)]
    [1.0, 2.0, 4.0, 60.0]
    """
    return float(min(backoff_s * 2 ** (num_failed - 1), _LONGEST_PAUSE_S))


def _digest_problem(archive: Archive, md5: str, kept: Path) -> str:
    explanation = archive.explanation_of(md5)
    why = f" ({explanation})" if explanation else ""
    return f"md5 {md5}{why}, expected {archive.md5}; the file is kept as {kept}"


def _is_right(archive: Archive, target: Path, on_check: Callable[[int, int], None] | None) -> bool:
    """Whether the right archive is already there; renames a wrong file of its name."""
    with disk_errors_named(target):
        try:
            with target.open("rb", buffering=0) as file:
                md5 = md5_of(file, on_check).hexdigest()
        except FileNotFoundError:
            return False
        if md5 == archive.md5:
            return True
        kept = move_aside(target, target.name, md5)
    logger.warning("%s: %s", target, _digest_problem(archive, md5, kept))
    return False
