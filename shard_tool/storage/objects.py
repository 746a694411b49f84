"""Lists folders, measures and removes objects, and aborts unfinished uploads, with retries.

S3 is called directly and page by page, because s3fs repeats a whole listing, caches listings, and
takes the marker of a folder for an object.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from shard_tool.errors import ObjectMissing, StoreError
from shard_tool.storage.event_loop import coroutine_of, is_s3, protocols, run, together
from shard_tool.storage.failures import answer_of
from shard_tool.storage.retry import Retry, call_s3, call_s3_with_retry, with_retry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_IN_FLIGHT = 16
"""Concurrent requests of one removal."""
_AT_A_TIME = 1000
"""Objects that S3 removes in one request."""
_UNKNOWN = {"NotImplemented", "MethodNotAllowed", "MissingContentMD5", "InvalidRequest", "405"}
"""Codes of stores that do not support a request."""


_VERSIONS = ("ETag", "etag", "LastModified", "Last-Modified", "updated", "last_modified", "created")
"""Names under which file systems give the version of an object."""


class Entry(NamedTuple):
    """Something directly in a folder."""

    name: str
    num_bytes: int | None
    """None for a folder, or if the listing does not tell."""


def list_folder(fs: Any, path: str, place: str, timeout_s: float) -> list[Entry]:
    """List what is directly in a folder, sorted by name; never from a cache.

    Raises:
        ObjectMissing: There is no such folder.
        StoreError: Storage failed until the time was up.
    """

    async def list_all() -> list[Entry]:
        if is_s3(fs):
            return await _list_s3(fs, path, place, timeout_s)
        retry = Retry(place, "listed", timeout_s)
        ls = coroutine_of(fs, "ls")
        found = await with_retry(fs, retry, lambda: ls(path, detail=True, refresh=True))
        return [_entry(info) for info in found]

    return sorted(run(fs, list_all))


def size_of(fs: Any, path: str, place: str, timeout_s: float) -> int:
    """Return the size of an object in bytes.

    Raises:
        ObjectMissing: There is no such object.
        StoreError: Storage failed until the time was up, or does not tell the size.
    """
    retry = Retry(place, "read", timeout_s)

    async def ask() -> int | None:
        if is_s3(fs):
            bucket, key, _ = fs.split_path(path)
            answer = await call_s3(fs, "head_object", {"Bucket": bucket, "Key": key}, retry)
            return int(answer["ContentLength"])
        if "https" in protocols(fs):
            return await _size_on_the_web(fs, path)
        size = (await coroutine_of(fs, "info")(path))["size"]
        return None if size is None else int(size)

    size = run(fs, lambda: with_retry(fs, retry, ask))
    if size is None:
        raise StoreError(place, "the server does not say how long it is")
    return size


def version_of(fs: Any, path: str, place: str, timeout_s: float) -> list[str]:
    """Return what identifies an object's version; empty if storage tells nothing.

    Raises:
        ObjectMissing: There is no such object.
        StoreError: Storage failed until the time was up.
    """
    fresh = {"refresh": True} if is_s3(fs) else {}
    retry = Retry(place, "read", timeout_s)
    info = run(fs, lambda: with_retry(fs, retry, lambda: coroutine_of(fs, "info")(path, **fresh)))
    return [f"{name} {info[name]}" for name in _VERSIONS if info.get(name) is not None]


def remove_objects(fs: Any, paths: Sequence[str], place: str, timeout_s: float) -> None:
    """Remove objects; missing ones are ignored.

    Raises:
        StoreError: Storage failed until the time was up.
    """

    async def remove_all() -> None:
        left = paths
        if is_s3(fs) and len(paths) > 1:
            left = await _remove_in_bulk(fs, paths, place, timeout_s)
        free = asyncio.Semaphore(_IN_FLIGHT)

        async def remove(path: str) -> None:
            async with free:
                await _remove(fs, path, Retry(place, "removed", timeout_s))

        await together([remove(path) for path in left])

    if paths:
        run(fs, remove_all)


def abort_uploads(
    fs: Any, path: str, place: str, timeout_s: float, *, is_ours: Callable[[str], bool]
) -> int:
    """Abort the unfinished multipart uploads of objects directly in a folder.

    Args:
        fs: A file system; only S3 has such uploads.
        path: The folder.
        place: What messages call it.
        timeout_s: Seconds for one request, with all attempts.
        is_ours: Selects the objects by name.

    Returns:
        How many were aborted.
    """
    if not is_s3(fs):
        return 0
    bucket, key, _ = fs.split_path(path)
    prefix = f"{key}/" if key else ""

    async def abort_all() -> int:
        return await abort_uploads_at(
            fs, bucket, prefix, place, timeout_s, is_ours=lambda k: is_ours(k.removeprefix(prefix))
        )

    return run(fs, abort_all)


async def abort_uploads_at(
    fs: Any,
    bucket: str,
    prefix: str,
    place: str,
    timeout_s: float,
    *,
    is_ours: Callable[[str], bool],
) -> int:
    """Abort unfinished uploads of keys that continue a prefix without another slash."""
    uploads = await _list_uploads(fs, bucket, prefix, place, timeout_s)
    ours = [(key, upload_id) for key, upload_id in uploads if is_ours(key)]
    for key, upload_id in ours:
        retry = Retry(place, "removed", timeout_s)
        await abort_upload(fs, bucket, key, upload_id, retry)
    return len(ours)


async def abort_upload(fs: Any, bucket: str, key: str, upload_id: str, retry: Retry) -> None:
    """Abort a multipart upload; one that has ended is ignored."""
    options = {"Bucket": bucket, "Key": key, "UploadId": upload_id}

    async def ask() -> None:
        try:
            await call_s3(fs, "abort_multipart_upload", options, retry)
        except Exception as exc:
            if answer_of(exc)[0] != 404:
                raise

    await with_retry(fs, retry, ask)


def _entry(info: Mapping[str, Any]) -> Entry:
    name = str(info["name"]).rstrip("/").rpartition("/")[2]
    return Entry(name, info.get("size") if info.get("type") == "file" else None)


async def _list_s3(fs: Any, path: str, place: str, timeout_s: float) -> list[Entry]:
    bucket, key, _ = fs.split_path(path)
    prefix = f"{key}/" if key else ""
    options = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
    found: list[Entry] = []
    while True:
        retry = Retry(place, "listed", timeout_s)
        page = await call_s3_with_retry(fs, "list_objects_v2", options, retry)
        objects = [(entry["Key"], entry["Size"]) for entry in page.get("Contents", [])]
        folders = [(entry["Prefix"].rstrip("/"), None) for entry in page.get("CommonPrefixes", [])]
        named = [Entry(at.removeprefix(prefix), size) for at, size in objects + folders]
        found += [entry for entry in named if entry.name]  # the marker of the folder has none
        if not page.get("IsTruncated"):
            return found
        options["ContinuationToken"] = page["NextContinuationToken"]


async def _size_on_the_web(fs: Any, url: str) -> int | None:
    """Get the size by requesting one byte: a signed URL allows GET, not HEAD."""
    options = dict(fs.kwargs)
    headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
    options["headers"] = {**options.get("headers", {}), **headers}
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), **options) as answer:
        told = re.fullmatch(r"bytes .*/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status == 416 and told:  # of an empty object there is no first byte
            return int(told[1])
        fs._raise_not_found_for_status(answer, url)
        if answer.status == 206:
            return int(told[1]) if told else None
        is_plain = answer.headers.get("Content-Encoding", "identity") == "identity"
        return answer.content_length if is_plain else None


async def _remove(fs: Any, path: str, retry: Retry) -> None:
    with suppress(ObjectMissing):
        if is_s3(fs):
            bucket, key, _ = fs.split_path(path)
            await call_s3_with_retry(fs, "delete_object", {"Bucket": bucket, "Key": key}, retry)
        else:
            rm_file = coroutine_of(fs, "rm_file")
            await with_retry(fs, retry, lambda: rm_file(path))


async def _remove_in_bulk(
    fs: Any, paths: Sequence[str], place: str, timeout_s: float
) -> Sequence[str]:
    """Remove objects by bulk requests; returns the paths that are left.

    Each of those is then removed by its own request, whose error says why.
    """
    left: list[str] = []
    for start in range(0, len(paths), _AT_A_TIME):
        asked = paths[start : start + _AT_A_TIME]
        retry = Retry(place, "removed", timeout_s)

        async def ask(asked: Sequence[str] = asked, retry: Retry = retry) -> set[str]:
            keys = [fs.split_path(path)[1] for path in asked]
            delete = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
            options = {"Bucket": fs.split_path(asked[0])[0], "Delete": delete}
            try:
                answer = await call_s3(fs, "delete_objects", options, retry)
            except Exception as exc:
                if answer_of(exc)[1] in _UNKNOWN:
                    return set(keys)
                raise
            return {error["Key"] for error in answer.get("Errors", [])}

        failed = await with_retry(fs, retry, ask)
        left += [path for path in asked if fs.split_path(path)[1] in failed]
    return left


async def _list_uploads(
    fs: Any, bucket: str, prefix: str, place: str, timeout_s: float
) -> list[tuple[str, str]]:
    """Return (key, upload id) of each; none if the store cannot list them."""
    options = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
    found: list[tuple[str, str]] = []
    while True:
        retry = Retry(place, "listed", timeout_s)

        async def ask(retry: Retry = retry) -> Any:
            try:
                return await call_s3(fs, "list_multipart_uploads", options, retry)
            except Exception as exc:
                if answer_of(exc)[1] in _UNKNOWN:
                    return {}
                raise

        page = await with_retry(fs, retry, ask)
        found += [(upload["Key"], upload["UploadId"]) for upload in page.get("Uploads", [])]
        if not page.get("IsTruncated"):
            return found
        options["KeyMarker"] = page["NextKeyMarker"]
        options["UploadIdMarker"] = page.get("NextUploadIdMarker", "")
