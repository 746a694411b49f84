"""Shards are written as webdataset writes them, any tar is read, and no loss goes unnoticed."""

from __future__ import annotations

import io
import itertools
import re
import struct
import tarfile
import zlib
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext
from webdataset.writer import TarWriter

from shard_tool.errors import ShardError
from shard_tool.format.tar import (
    BLOCK,
    ShardIndex,
    copy_members,
    member_block,
    padded,
    read_at_of,
    sample_starts,
    split_name,
    walk,
)
from tests.kit.datasets.tars import (
    END,
    TWO,
    Records,
    info,
    members_of,
    patched,
    tar_of,
    webdataset_samples,
    written,
)

NAMES = st.text("abcxyzABC0123456789_-@", min_size=1, max_size=12)
EXTENSIONS = st.sampled_from(["jpg", "json", "class.png", "object.png", "a.b.c", "0"])
SIZES = st.sampled_from([0, 1, 511, 512, 513, 1500])
CONTENTS = st.builds(lambda size, byte: bytes([byte]) * size, SIZES, st.integers(0, 255))
RECORDS = st.dictionaries(
    NAMES, st.dictionaries(EXTENSIONS, CONTENTS, min_size=1, max_size=4), max_size=5
)
LONG = "folder/" * 20 + "000005.jpg"
LINKED = info("c.jpg", type_=tarfile.SYMTYPE)
LINKED.linkname = "a.jpg"


# Writing --------------------------------------------------------------------------------------


@given(RECORDS)
@settings(max_examples=50)
def test_bytes_are_those_of_webdatasets_writer_with_mtime_zero(records: Records) -> None:
    file = io.BytesIO()
    with TarWriter(file, encoder=False, mtime=0) as writer:
        for key, members in records.items():
            writer.write({"__key__": key} | members)
    assert written(records)[0] == file.getvalue()


@pytest.mark.slow
@given(RECORDS)
@settings(max_examples=50)
def test_records_come_back_from_our_walk_from_tarfile_and_from_webdataset(records: Records) -> None:
    content, _ = written(records)
    by_walk: Records = {}
    for member in members_of(content):
        key, extension = split_name(member.name) or ("", "")
        by_walk.setdefault(key, {})[extension] = content[member.offset :][: member.size]
    by_tarfile: Records = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for item in tar:
            key, _, extension = item.name.partition(".")
            file = tar.extractfile(item)
            assert file is not None
            by_tarfile.setdefault(key, {})[extension] = file.read()
    assert by_walk == by_tarfile == dict(webdataset_samples(content)) == records
    assert list(by_walk) == list(records)


@given(RECORDS)
@settings(max_examples=50)
def test_writer_reports_what_it_wrote(records: Records) -> None:
    content, result = written(records)
    assert result.num_samples == len(records)
    assert result.num_bytes == len(content)
    assert len(content) % 10_240 == 0
    assert result.sha256 == sha256(content).hexdigest()
    starts = result.index.starts.tolist()
    for start, stop, crc in zip(starts[:-1], starts[1:], result.index.crcs.tolist(), strict=True):
        assert crc == zlib.crc32(content[start:stop])
    assert content[starts[-1] :] == bytes(len(content) - starts[-1])


def test_headers_hold_nothing_of_this_machine_or_time() -> None:
    with tarfile.open(fileobj=io.BytesIO(written(TWO)[0])) as tar:
        for item in tar:
            assert (item.mtime, item.mode, item.type) == (0, 0o444, tarfile.REGTYPE)
            assert (item.uid, item.gid, item.uname, item.gname) == (0, 0, "bigdata", "bigdata")
            assert not item.pax_headers


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60),
    st.binary(max_size=1500),
)
def test_tar_header_is_the_standard_library_s(name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = len(content), 0o444, "bigdata", "bigdata"
    if len(name.encode()) <= 100:
        expected = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
        assert member_block(name, content)[:BLOCK] == expected


# Reading other writers' tars ------------------------------------------------------------------


OTHERS = {
    "ustar": (tarfile.USTAR_FORMAT, [info("a.jpg", 700), info(LONG[-90:], 3)]),
    "ustar prefix": (tarfile.USTAR_FORMAT, [info(LONG, 700), info("a.jpg", 1)]),
    "GNU long name": (tarfile.GNU_FORMAT, [info("x" * 600 + ".jpg", 700), info("b.jpg", 5)]),
    "PAX long name": (tarfile.PAX_FORMAT, [info("x" * 600 + ".jpg", 700), info("b.jpg", 5)]),
    "PAX letters": (tarfile.PAX_FORMAT, [info("gr\u00fcn/\u732b.jpg", 9), info("b.jpg", 5)]),
    "PAX size": (tarfile.PAX_FORMAT, [info("a.jpg", 700, pax={"size": "700"}), info("b.jpg", 5)]),
    "PAX mtime": (
        tarfile.PAX_FORMAT,
        [info("a.jpg", 700, pax={"mtime": "1.25"}), info("b.jpg", 5)],
    ),
    "folders and links": (
        tarfile.USTAR_FORMAT,
        [info("d", type_=tarfile.DIRTYPE), info("d/a.jpg", 9), LINKED, info("e.jpg")],
    ),
    "GNU link": (tarfile.GNU_FORMAT, [info("a.jpg", 5), LINKED, info("e.jpg", 600)]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_members_are_found_where_tarfile_finds_them(kind: str) -> None:
    format_, members = OTHERS[kind]
    content = tar_of(members, format_)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(m.name, m.offset, m.offset_data, m.size, m.isreg()) for m in tar]
    found = [
        (m.name.rstrip("/"), m.start, m.offset, m.size, m.is_file) for m in members_of(content)
    ]
    assert found == expected
    assert len(found) == len(members)


def test_pax_header_for_the_whole_tar_is_no_member() -> None:
    content = tarfile.TarInfo.create_pax_global_header({"comment": "git"}) + tar_of([info("a.jpg")])
    assert [(m.name, m.offset) for m in members_of(content)] == [("a.jpg", 1536)]


def test_size_in_base_256_is_read() -> None:
    size = b"\x80" + (700).to_bytes(11, "big")
    content = patched(tar_of([info("a.jpg", 700), info("b.jpg", 5)]), 124, size)
    assert [(m.name, m.size) for m in members_of(content)] == [("a.jpg", 700), ("b.jpg", 5)]


def test_old_tar_without_the_ustar_mark_is_read() -> None:
    content = patched(tar_of([info("a.jpg", 7)]), 257, bytes(8) + b"root")
    assert [(m.name, m.size) for m in members_of(patched(content, 156, b"\0"))] == [("a.jpg", 7)]
    assert members_of(patched(content, 156, b"\0"))[0].is_file


# What is cut or damaged -----------------------------------------------------------------------


CUTTABLE = {
    "ours": written(TWO)[0],
    **{kind: tar_of(members, format_) for kind, (format_, members) in OTHERS.items()},
}


@pytest.mark.parametrize("kind", CUTTABLE)
def test_tar_cut_at_any_byte_before_its_end_marker_is_an_error(kind: str) -> None:
    """webdataset and tarfile take a tar that ends inside a header for a shorter one."""
    content = CUTTABLE[kind]
    members = members_of(content)
    end = members[-1].offset + padded(members[-1].size)
    for cut in range(end + 512):
        with pytest.raises(ShardError, match=r"cut short|PAX header at byte \d+ is damaged"):
            members_of(content[:cut])
    for cut in (end + 512, end + 513, end + 1024, len(content)):
        assert members_of(content[:cut]) == members


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        pytest.param(0, "cut short: no end-of-archive marker in its 0 bytes", id="nothing left"),
        pytest.param(1, "cut short inside the header at byte 0 (1 bytes)", id="first header"),
        pytest.param(
            612, "cut short inside the header at byte 512 (612 bytes)", id="header of the second"
        ),
        pytest.param(
            1100,
            "cut short: member '000005.jpg' needs 1792 bytes, there are 1100",
            id="content",
        ),
        pytest.param(
            1800, "cut short: no end-of-archive marker in its 1800 bytes", id="padding of a member"
        ),
        pytest.param(
            2048, "cut short: no end-of-archive marker in its 2048 bytes", id="between members"
        ),
        pytest.param(
            5200, "cut short inside the header at byte 5120 (5200 bytes)", id="end marker"
        ),
    ],
)
def test_cut_is_named(cut: int, message: str) -> None:
    content, result = written(TWO)
    assert result.index.starts.tolist() == [0, 3072, 5120]
    with pytest.raises(ShardError) as caught:
        members_of(content[:cut])
    assert str(caught.value) == f"a.tar: {message}"


def test_any_flipped_byte_of_a_header_is_an_error() -> None:
    content, _ = written(TWO)
    for at in range(3072, 3072 + 512):
        damaged = bytearray(content)
        damaged[at] ^= 0x01
        with pytest.raises(ShardError, match=r"^a.tar: the header at byte 3072 "):
            members_of(bytes(damaged))
    damaged = bytearray(content)
    damaged[3072] ^= 0x01  # the first letter of a name
    with pytest.raises(ShardError) as caught:
        members_of(bytes(damaged))
    problem = r"a\.tar: the header at byte 3072 has checksum (\d+), its bytes give (\d+)"
    match = re.fullmatch(problem, str(caught.value))
    assert match
    assert int(match[2]) - int(match[1]) == 1  # '3' for '2'
    assert [m.name for m in members_of(bytes(damaged), check=False)][3] == "3008_000001.jpg"


HOSTILE = tar_of([info("a.jpg", 700), info("b.jpg", 5)])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(patched(HOSTILE, 124, b"-0000001000\0"), id="size below zero"),
        pytest.param(patched(HOSTILE, 124, b"0o000000012\0"), id="size in Python's octal"),
        pytest.param(patched(HOSTILE, 124, b"\xff" * 12), id="base-256 size below zero"),
        pytest.param(patched(HOSTILE, 124, b"77777777777\0"), id="size beyond the file"),
        *(
            pytest.param(
                tar_of([info("a.jpg", pax={"size": size}), info("b.jpg", 5)], tarfile.PAX_FORMAT),
                id=f"PAX size {size[:9]}",
            )
            for size in ("-1024", "-512", "1e3", "ten", "1_0", "9" * 5000)
        ),
        pytest.param(
            tar_of([info("x" * 600 + ".jpg", 5)], tarfile.PAX_FORMAT).replace(
                b"614 path", b"9" * 8
            ),
            id="PAX record beyond its header",
        ),
        pytest.param(
            tar_of([info("x" * 6000 + ".jpg", 5)], tarfile.PAX_FORMAT).replace(
                b"6015 path=" + b"x" * 5000, b"9" * 5009 + b" "
            ),
            id="PAX record of an endless length",
        ),
        pytest.param(
            patched(tar_of([info("x" * 600, 5)], tarfile.GNU_FORMAT), 124, b"77777777777\0"),
            id="GNU long name of gigabytes",
        ),
    ],
)
def test_impossible_sizes_are_errors(content: bytes) -> None:
    with pytest.raises(ShardError):
        members_of(content)


# Samples and the index ------------------------------------------------------------------------


@given(st.text("ab./_-\u00e9", max_size=8))
@example("a/.b")
@example("/.b")
@example("a.b/c")
@example("a.b/c.d.e")
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    expected = base_plus_ext(name)
    assert split_name(name) == (None if expected == (None, None) else expected)


@given(st.lists(st.sampled_from(["a.x", "a.y", "b.x", "b.x.y", "b/a.x", "b", ".x", "b/"])))
def test_members_are_grouped_as_webdataset_groups_them(names: list[str]) -> None:
    types = {True: tarfile.DIRTYPE, False: tarfile.REGTYPE}
    content = tar_of([info(name.rstrip("/"), type_=types[name[-1] == "/"]) for name in names])
    try:
        expected = [key for key, _ in webdataset_samples(content)]
    except ValueError:  # the same name twice in a sample, which webdataset refuses
        return
    starts, keys = sample_starts(members_of(content))
    assert keys == expected
    assert len(starts) == len(keys) + 1
    assert starts == sorted(starts)


@given(RECORDS)
@settings(max_examples=50)
def test_index_made_of_a_shard_is_the_one_written_with_it(records: Records) -> None:
    content, result = written(records)
    made = ShardIndex.from_shard(read_at_of(content), len(content), place="a.tar")
    assert made.to_bytes() == result.index.to_bytes()
    read = ShardIndex.from_bytes(made.to_bytes(), place="a.idx", shard_bytes=len(content))
    assert len(read) == len(records)
    np.testing.assert_array_equal(read.starts, result.index.starts, strict=True)
    np.testing.assert_array_equal(read.crcs, result.index.crcs, strict=True)


def test_index_is_little_endian_starts_then_crcs() -> None:
    content, result = written(TWO)
    crcs = zlib.crc32(content[:3072]), zlib.crc32(content[3072:5120])
    assert result.index.to_bytes() == struct.pack("<3Q2I", 0, 3072, 5120, *crcs)


def test_index_of_another_writers_tar_starts_samples_at_their_long_name_headers() -> None:
    members = [info("d", type_=tarfile.DIRTYPE), info("d/" + "x" * 200 + ".jpg", 5), info("b.jpg")]
    content = tar_of(members, tarfile.GNU_FORMAT)
    index = ShardIndex.from_shard(read_at_of(content), len(content), place="a.tar")
    assert index.starts.tolist() == [512, 512 + 4 * 512, 512 + 5 * 512]
    start, stop, _ = index.starts.tolist()
    cut_out = members_of(content[start:stop], whole=False)
    assert [(m.name, m.size) for m in cut_out] == [("d/" + "x" * 200 + ".jpg", 5)]


def test_one_sample_is_walked_without_the_end_marker() -> None:
    content, _ = written(TWO)
    found = list(walk(read_at_of(content), 3072, 5120, place="a.tar", whole=False))
    assert [m.name for m in found] == ["2008_000001.jpg", "2008_000001.json"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "0 bytes are no index (8 + 12 per sample)"),
        (bytes(19), "19 bytes are no index (8 + 12 per sample)"),
        (struct.pack("<2QI", 0, 0, 1), "its offsets do not fit a shard of 10240 bytes"),
        (struct.pack("<2QI", 512, 0, 1), "its offsets do not fit a shard of 10240 bytes"),
        (struct.pack("<2QI", 0, 511, 1), "its offsets do not fit a shard of 10240 bytes"),
        (struct.pack("<2QI", 0, 10752, 1), "its offsets do not fit a shard of 10240 bytes"),
    ],
)
def test_impossible_index_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(ShardError) as caught:
        ShardIndex.from_bytes(content, place="a.tar.idx", shard_bytes=10_240)
    assert str(caught.value) == f"a.tar.idx: {problem}"


def test_end_marker_is_two_blocks_at_least() -> None:
    fitting = {"a": {"jpg": bytes(10_240 - 512 - len(END))}}
    assert len(written(fitting)[0]) == 10_240
    assert len(written({"a": {"jpg": fitting["a"]["jpg"] + b"x"}})[0]) == 20_480


# One sample -----------------------------------------------------------------------------------


ODD_MEMBERS = [
    pytest.param([info("a/b.jpg", 700), info("a/b.json", 3)], tarfile.USTAR_FORMAT, id="folder"),
    pytest.param([info(LONG, 5)], tarfile.USTAR_FORMAT, id="prefix"),
    pytest.param([info(LONG * 3, 5)], tarfile.GNU_FORMAT, id="gnu"),
    pytest.param([info("a.jpg", 5, pax={"x": "y"})], tarfile.PAX_FORMAT, id="pax"),
    pytest.param([info("k" * 96 + ".jpg", 5)], tarfile.USTAR_FORMAT, id="100 bytes"),
    pytest.param([info("a.jpg", 5), info("README", 9)], tarfile.USTAR_FORMAT, id="no dot"),
    pytest.param([info("a.jpg", 5), LINKED], tarfile.USTAR_FORMAT, id="link"),
    pytest.param([info("a.", 5), info("a.jpg", 0)], tarfile.USTAR_FORMAT, id="empty extension"),
    pytest.param([info("a\udcff.jpg", 5)], tarfile.GNU_FORMAT, id="not UTF-8"),
]


@pytest.mark.parametrize(("members", "format_"), ODD_MEMBERS)
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_sample_of_any_tar_has_the_members_the_walk_finds(
    members: list[tarfile.TarInfo], format_: int, kind: type
) -> None:
    tar = tar_of(members, format_)
    stop = sample_starts(members_of(tar))[0][-1]
    found: dict[str, Any] = {}
    key = copy_members(kind(tar), 0, stop, found, place="a.tar")
    walked = [m for m in members_of(tar) if m.is_file and split_name(m.name)]
    expected = {split_name(m.name)[1]: tar[m.offset : m.offset + m.size] for m in walked}  # type: ignore[index]
    assert {name: bytes(content) for name, content in found.items()} == expected
    assert key == split_name(walked[-1].name)[0]  # type: ignore[index]


@given(RECORDS.filter(bool))
@settings(max_examples=50)
def test_samples_read_back_as_they_were_written(records: Records) -> None:
    content, result = written(records)
    starts = result.index.starts.tolist()
    read: Records = {}
    for start, stop in itertools.pairwise(starts):
        members: dict[str, bytes] = {}
        read[copy_members(content, start, stop, members, place="a.tar")] = members
    assert read == records


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(124, b"00000000080", id="an 8 in the size"),
        pytest.param(124, b"0000_000010", id="an underscore in the size"),
        pytest.param(124, b"00000777777", id="longer than its sample"),
    ],
)
def test_a_damaged_header_of_a_sample_is_an_error(at: int, value: bytes) -> None:
    tar = patched(tar_of([info("a.jpg", 700)]), at, value)
    with pytest.raises(ShardError, match=r"a\.tar"):
        copy_members(tar, 0, 1536, {}, place="a.tar")
    with pytest.raises(ShardError, match=r"a\.tar"):
        copy_members(tar, 0, 300, {}, place="a.tar")
