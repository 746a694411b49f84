"""Listings, measurements and removals on S3 are whole, few and retried."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from shard_tool.storage import objects as objects_module
from tests.kit.servers.fault_proxy import Fault, FaultProxy
from tests.kit.servers.published import PASSING
from tests.kit.servers.s3 import S3, put
from tests.kit.servers.scripted_s3 import Between, refused

if TYPE_CHECKING:
    from shard_tool.storage.location import Folder
    from tests.kit.faults.kinds import Kind


@pytest.mark.slow
def test_a_listing_of_several_pages_is_whole(on_s3: Folder) -> None:
    for name in ("a", "b", "c", "d/e", "f/g"):
        on_s3.put(name, name.encode())
    by_two = replace(on_s3, options={**on_s3.options, "s3_additional_kwargs": {"MaxKeys": 2}})
    assert by_two.names() == ["a", "b", "c", "d", "f"]
    assert by_two.sizes() == {"a": 1, "b": 1, "c": 1}


def test_a_folder_marker_is_not_listed_as_an_object(s3: S3, on_s3: Folder) -> None:
    put(s3, f"{on_s3.url}/", b"")
    on_s3.put("a", b"")
    assert on_s3.names() == ["a"]


def test_many_objects_are_removed_by_few_requests(
    on_s3: Folder, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "_AT_A_TIME", 2)
    names = ["a", "b", "c", "d&<>", "e é"]
    for name in names:
        on_s3.put(name, b"")
    proxy.reset()
    on_s3.remove_all(names)
    assert on_s3.names() == []
    assert [request.method for request in proxy.requests] == ["POST"] * 3 + ["GET"]


def test_objects_are_removed_one_by_one_if_bulk_removal_is_not_supported(
    on_s3: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = Between("delete_objects", [refused("NotImplemented")], is_done=False)
    monkeypatch.setattr(objects_module, "call_s3", between.call)
    for name in "abc":
        on_s3.put(name, b"")
    on_s3.remove_all(["a", "b", "never"])
    assert on_s3.names() == ["c"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PASSING)
def test_listing_measuring_and_removing_are_retried_after_faults(
    on_s3: Folder, proxy: FaultProxy, kind: Kind
) -> None:
    for name in ("a.tar", "b.tar"):
        on_s3.put(name, b"x")
    proxy.inject(
        *[Fault(kind, method=method, path="bucket") for method in ("GET", "HEAD", "POST", "DELETE")]
    )
    assert on_s3.names() == ["a.tar", "b.tar"]
    assert on_s3.object("a.tar").num_bytes() == 1
    on_s3.remove_all(["a.tar", "b.tar"])
    on_s3.remove("a.tar")
    assert proxy.hits == 4
    assert on_s3.names() == []
