"""Faults that pass are retried, and all parts of a download are of one version."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from shard_tool.storage.ranges import ObjectReplacedError
from tests.kit.servers.fault_proxy import Fault
from tests.kit.servers.ranged_object import (
    BREAKS,
    CONTENT,
    IN_BODIES,
    NAME,
    PART,
    WRONG,
    Store,
    patient_with,
    read_in_parts,
    read_part,
)

if TYPE_CHECKING:
    from tests.kit.faults.kinds import Kind, Request


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "at"),
    [
        (kind, at)
        for kind in (*BREAKS, *WRONG)
        for at in ((0.0, 0.5, 1.0) if kind in IN_BODIES else (0.5,))
    ],
)
def test_a_passing_fault_is_retried(store: Store, kind: Kind, at: float) -> None:
    store.proxy.inject(Fault(kind, at=at))
    assert read_part(patient_with(store, kind)) == CONTENT[5_000:9_000]
    assert store.proxy.hits == 1


def test_an_answer_with_another_range_is_retried(on_s3: Store) -> None:
    on_s3.proxy.inject(Fault("wrong-range", times=2))
    assert read_part(on_s3.folder) == CONTENT[5_000:9_000]
    assert on_s3.proxy.hits == 2


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("at", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["cut-fin", "cut-rst", "stall", "short-body", "slow-down"])
def test_a_download_goes_on_from_the_part_that_failed(store: Store, kind: Kind, at: float) -> None:
    third = (2 * PART, 3 * PART)
    store.proxy.inject(Fault(kind, at=at, where=lambda request: request.range == third))
    assert b"".join(read_in_parts(patient_with(store, kind))) == CONTENT
    assert store.proxy.hits == 1
    parts = [(start, start + PART) for start in range(0, len(CONTENT), PART)]
    assert store.ranges_asked == [*parts[:3], third, *parts[3:]]


@pytest.mark.usefixtures("small_parts")
def test_all_parts_of_a_download_are_of_one_version(on_s3: Store) -> None:
    on_s3.proxy.inject(Fault("cut-rst", where=lambda request: (request.range or (0,))[0] > 0))
    assert b"".join(read_in_parts(on_s3.folder)) == CONTENT
    etags = [request.headers.get("if-match") for request in on_s3.proxy.requests]
    assert len(etags) == 6
    assert etags[0] is None
    assert {str(etag).strip('"') for etag in etags[1:]} == {hashlib.md5(CONTENT).hexdigest()}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT[:9_000]], ids=["as long", "shorter"])
def test_an_object_replaced_while_it_is_read_is_noticed(on_s3: Store, other: bytes) -> None:
    def put_another(request: Request) -> None:
        if request.range == (2 * PART, 3 * PART):
            on_s3.put(other)

    on_s3.proxy.on_request = put_another
    with pytest.raises(ObjectReplacedError, match=f"{NAME}: was replaced while it was read"):
        list(read_in_parts(on_s3.folder))
    assert len(on_s3.proxy.requests) == 3  # and is not asked for again: it is another one now


@pytest.mark.usefixtures("small_parts")
def test_the_same_bytes_uploaded_again_are_no_replacement(on_s3: Store) -> None:
    def put_again(request: Request) -> None:
        on_s3.put(CONTENT)

    on_s3.proxy.on_request = put_again
    assert b"".join(read_in_parts(on_s3.folder)) == CONTENT
