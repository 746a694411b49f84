"""Uploads in parts that nobody has finished, as the server knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kit.servers.s3 import _client, _place, wait_until_at_rest

if TYPE_CHECKING:
    from tests.kit.servers.s3 import S3


def begin_upload(s3: S3, url: str) -> None:
    """Begin one, as a process that is then killed does."""
    with _client(s3) as client:
        client.create_multipart_upload(**_place(url))


def unfinished_uploads(s3: S3, url: str) -> list[tuple[str, str]]:
    """(key, id) of all below a URL, when the server is at rest."""
    wait_until_at_rest(s3)
    at = _place(f"{url}/")
    with _client(s3) as client:
        found = client.list_multipart_uploads(Bucket=at["Bucket"], Prefix=at["Key"])
    return [(upload["Key"], upload["UploadId"]) for upload in found.get("Uploads", [])]
