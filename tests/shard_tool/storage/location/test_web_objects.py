"""A web server is read only, and a URL with a signature is requested unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import botocore.session
import pytest
from botocore.config import Config

from shard_tool.errors import ObjectMissing, StoreError
from shard_tool.storage.location import Folder, StoredObject
from tests.kit.servers.fault_proxy import Fault, fault_proxy
from tests.kit.servers.http_server import Reply, serve
from tests.kit.servers.published import CONTENT
from tests.kit.servers.s3 import REGION, S3, put
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path


SECRET = "tr0ub4dor"


def test_web_servers_are_read_only() -> None:
    with pytest.raises(StoreError, match=r"https://host/voc/a: cannot be written"):
        Folder(f"https://me:{SECRET}@host/voc").put("a", b"")


def test_a_signed_url_is_requested_unchanged_and_never_shown(
    s3: S3, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is signed for GET: another question is refused."""
    put(s3, f"{bucket}/a b/ä.tar", CONTENT)
    url = signed_url(s3, bucket.removeprefix("s3://"), "a b/ä.tar")
    assert "Signature" in url
    found = StoredObject(url)
    assert found.num_bytes() == len(CONTENT)
    assert found.read_ranges([(3, 9)]) == [CONTENT[3:9]]
    assert b"".join(found.read_parts(0, 9, num_bytes=len(CONTENT))) == CONTENT[:9]
    wrong = StoredObject(url.replace("Signature=", "Signature=0"), timeout_s=2)
    for act in (wrong.num_bytes, lambda: wrong.read_ranges([(0, 1)])):
        with pytest.raises(StoreError, match="access refused") as caught:
            act()
        shown = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {wrong!r}"
        assert "Signature=" not in shown + caplog.text
    assert found.place == url.partition("?")[0]


def signed_url(s3: S3, bucket: str, key: str) -> str:
    client = botocore.session.Session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=s3.endpoint_url,
        aws_access_key_id=s3.key,
        aws_secret_access_key=s3.secret,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    url: str = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, 300)
    client.close()
    return url


def test_a_query_is_requested_unchanged() -> None:
    """What a signature is of may be escaped in more than one way."""
    with serve(b"x", Reply()) as server:
        query = "sig=a%2Fb%3D%3d/&t=%20+/"
        assert StoredObject(f"{server.url}/a.tar?{query}").num_bytes() == 1
        assert Folder(f"{server.url}/voc/?{query}").read("a.tar") == b"x"
    assert [request.path for request in server.requests] == [
        f"/a.tar?{query}",
        f"/voc/a.tar?{query}",
    ]


def test_the_size_of_a_web_object_comes_with_its_first_byte(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    (tmp_path / "empty").write_bytes(b"")
    with web_server(tmp_path) as url, fault_proxy(url) as proxy:
        assert Folder(proxy.url).object("a.tar").num_bytes() == len(CONTENT)
        proxy.inject(Fault("slow-down"), Fault("reset-before-headers"))
        assert Folder(proxy.url).object("a.tar").num_bytes() == len(CONTENT)
        assert proxy.body_bytes < 1_000
        assert Folder(proxy.url).object("empty").num_bytes() == 0
        proxy.inject(Fault("ignore-range"))
        assert Folder(proxy.url).object("a.tar").num_bytes() == len(CONTENT)
        with pytest.raises(ObjectMissing):
            Folder(proxy.url).object("none").num_bytes()
