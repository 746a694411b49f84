"""Keys of up to 255 bytes: PAX headers that everybody reads, and that belong to their sample."""

from __future__ import annotations

import io
import itertools
import tarfile
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from webdataset.writer import TarWriter

from shard_tool.errors import ShardError
from shard_tool.format.tar import (
    BLOCK,
    MAX_KEY_BYTES,
    ShardIndex,
    ShardWriter,
    copy_members,
    member_block,
    read_at_of,
    sample_starts,
)
from tests.kit.datasets.tars import TWO, Records, members_of, webdataset_samples, written

LETTERS = st.sampled_from(["a", "-", "%2E", "\u00e9", "\u732b", "/"])
KEYS = (
    st.tuples(st.text("abc", min_size=1, max_size=5), st.lists(LETTERS, max_size=120))
    .map(lambda drawn: f"{drawn[0]}{''.join(drawn[1])}z")
    .filter(lambda key: len(key.encode()) <= MAX_KEY_BYTES and "//" not in key)
)
RECORDS = st.dictionaries(
    KEYS,
    st.dictionaries(
        st.sampled_from(["jpg", "json", "class.png"]), st.binary(max_size=9), min_size=1
    ),
    min_size=1,
    max_size=4,
)
LONGEST = "k" * MAX_KEY_BYTES
MIXED: Records = {
    "short": TWO["000005"],
    LONGEST: TWO["000005"],
    "short-2": TWO["2008_000001"],
    "\u732b" * 85: TWO["2008_000001"],
    "k" * 95: {"jpg": b"1", "json": b"2", "class.png": b"3"},  # the last of its names alone is long
}


@pytest.mark.slow
@given(RECORDS)
@example(MIXED)
@settings(max_examples=100)
def test_samples_with_long_names_come_back_from_every_reader(records: Records) -> None:
    content, result = written(records)
    assert content == written(records)[0]
    assert dict(webdataset_samples(content)) == records
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        names = [item.name for item in tar]
    assert names == [f"{key}.{name}" for key in records for name in sorted(records[key])]
    assert names == [member.name for member in members_of(content)]
    starts, keys = sample_starts(members_of(content))
    assert keys == list(records)
    assert starts == result.index.starts.tolist()
    made = ShardIndex.from_shard(read_at_of(content), len(content), place="a.tar")
    assert made.to_bytes() == result.index.to_bytes()
    read: Records = {}
    for start, stop in itertools.pairwise(starts):
        members: dict[str, bytes] = {}
        read[copy_members(content, start, stop, members, place="a.tar")] = members
        assert members_of(content[start:stop], whole=False)[0].start == 0
    assert read == records
    assert [zlib.crc32(content[a:b]) for a, b in itertools.pairwise(starts)] == [*result.index.crcs]


@given(st.lists(st.text("ab/", min_size=90, max_size=120).map(lambda key: f"a{key}z"), max_size=4))
@settings(max_examples=30)
def test_bytes_with_long_names_are_those_of_webdatasets_writer(keys: list[str]) -> None:
    records = {key: {"json": b"{}", "jpg": b"x" * 600} for key in keys}
    file = io.BytesIO()
    with TarWriter(file, encoder=False, mtime=0) as writer:
        for key, members in records.items():
            writer.write({"__key__": key} | members)
    assert written(records)[0] == file.getvalue()


def test_a_name_of_100_bytes_has_one_header_and_a_longer_one_a_pax_header_in_utf_8() -> None:
    assert len(member_block("k" * 96 + ".jpg", b"x")) == 2 * BLOCK
    block = member_block("\u732b" * 33 + ".jpg", b"x")
    assert len(block) == 4 * BLOCK
    assert block[156:157] == b"x"
    assert block[136:148] == b"0" * 11 + b"\0"  # no time
    assert block[BLOCK:].startswith(b"113 path=" + ("\u732b" * 33).encode() + b".jpg\n\0")


def test_a_key_of_more_than_255_bytes_is_refused() -> None:
    writer = ShardWriter(io.BytesIO())
    writer.write(LONGEST, {"jpg": b""})
    with pytest.raises(ShardError, match=r"k: the key has 256 bytes \(most: 255\)"):
        writer.write(LONGEST + "k", {"jpg": b""})
    assert writer.num_samples == 1
