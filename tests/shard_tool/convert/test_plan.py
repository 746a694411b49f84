"""The pure core of conversion, against slow and obvious references."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shard_tool.convert.duplicates import _of_shared_size
from shard_tool.convert.plan import ConversionPlan, plan_conversion
from shard_tool.format.tar import BLOCK, member_block
from shard_tool.sources.archive import SourceFiles
from shard_tool.sources.forward_reader import ForwardReader
from shard_tool.sources.voc.devkit import Devkit
from shard_tool.sources.voc.file_table import FileTable, FileTableBuilder
from shard_tool.sources.voc.imagesets import parse_ids, sorted_ids
from shard_tool.sources.voc.record import jpeg_size
from tests.kit.datasets.voc_tree import jpeg

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=("Cs",)),
    min_size=1,
    max_size=12,
)


@given(st.lists(st.tuples(NAMES, st.integers(0, 2**40), st.integers(0, 2**40)), max_size=40), NAMES)
def test_table_of_files_finds_what_a_dictionary_finds(
    files: list[tuple[str, int, int]], other: str
) -> None:
    builder, expected = FileTableBuilder(), {}
    for name, offset, size in files:
        builder.add("VOC", "JPEGImages", name.encode(), offset, size)
        expected[name] = (offset, size, None)  # of two with one name the later
    table = builder.by_inner().get("VOC", FileTable({}))
    for name in [*expected, other]:
        assert table.find("JPEGImages", name.encode()) == expected.get(name)


def plan_of(sizes: list[int], shard_bytes: int, seed: int = 0) -> ConversionPlan:
    """A plan of pictures of these sizes; nothing of them exists."""
    builder = FileTableBuilder()
    for number, size in enumerate(sizes):
        builder.add("VOC2012", "JPEGImages", b"%06d" % number, 0, size)
        builder.add("VOC2012", "Annotations", b"%06d" % number, 0, 100)
    ids = b"".join(b"%06d\n" % number for number in range(len(sizes)))
    builder.add("VOC2012", "ImageSets/Main", b"train", 0, len(ids))

    class Listed(Devkit):
        def read(self, span: object) -> bytes:
            return ids

    source = SourceFiles("/nowhere", "VOC2012", is_archive=False)
    devkit = Listed(source, builder.by_inner()["VOC2012"])
    return plan_conversion(
        [devkit], task="detection", splits=["train"], shard_bytes=shard_bytes, seed=seed
    )


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), st.integers(1, 12_000))
def test_shards_are_cut_before_the_record_that_would_pass_their_size(
    sizes: list[int], shard_bytes: int
) -> None:
    plan = plan_of(sizes, shard_bytes)
    tasks = [plan.shard_task(number) for number in range(plan.num_shards)]
    order = [record for task in tasks for record in task.records]
    assert sorted(record.key for record in order) == [f"{i:06d}" for i in range(len(sizes))]
    expected, filled = [0], 0  # records of each shard
    for record in order:
        size = sum(BLOCK + -(-span.size // BLOCK) * BLOCK for span in record.spans)
        if expected[-1] and filled + size > shard_bytes:
            expected.append(0)
            filled = 0
        expected[-1] += 1
        filled += size
    assert [len(task.records) for task in tasks] == expected


@given(st.integers(0, 3), st.integers(0, 3))
def test_order_depends_on_the_seed_and_on_no_shard_size(seed: int, other: int) -> None:
    def keys(seed: int, shard_bytes: int) -> list[str]:
        plan = plan_of([700] * 30, shard_bytes, seed)
        return [r.key for n in range(plan.num_shards) for r in plan.shard_task(n).records]

    assert keys(seed, 1) == keys(seed, 10_000) == keys(seed, 1 << 30)
    assert (keys(seed, 5000) == keys(other, 5000)) == (seed == other)


def test_order_in_shards_is_pinned() -> None:
    """Promise 1 over releases: a change of this order changes everybody's bytes."""
    keys = [record.key for record in plan_of([700] * 8, 1 << 30).shard_task(0).records]
    assert keys == PINNED


PINNED = ["000007", "000006", "000001", "000002", "000005", "000000", "000004", "000003"]


@given(st.lists(st.from_regex(r"[0-9A-Za-z_]{1,9}", fullmatch=True)))
def test_sorted_ids_are_the_ids_sorted(ids: list[str]) -> None:
    content = "".join(f"{key}  1\r\n\n" for key in ids).encode()
    expected = sorted(parse_ids(content, place="list"))
    assert [key.decode() for key in sorted_ids(content, place="list").tolist()] == expected


@given(
    st.lists(st.binary(max_size=40), max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12),
)
def test_stream_read_forwards_gives_what_a_file_gives(
    parts: list[bytes], asked: list[tuple[int, int]]
) -> None:
    whole, seen = b"".join(parts), list[bytes]()
    reader = ForwardReader(iter(parts), seen.append)
    for offset, length in sorted(asked):
        assert reader(offset, length) == whole[offset : offset + length]
    reader.drain()
    assert b"".join(seen) == whole
    assert reader.num_bytes == len(whole)


def test_stream_does_not_go_back() -> None:
    reader = ForwardReader(iter([b"abc", b"def", b"ghi"]), lambda _: None)
    assert reader(7, 1) == b"h"
    with pytest.raises(ValueError, match="byte 0 has passed"):
        reader(0, 1)


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


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_size_by_a_jpeg_s_markers_is_pillow_s(mode: str, progressive: bool) -> None:
    buffer = io.BytesIO()
    picture = Image.linear_gradient("L").resize((123, 45)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(buffer, "JPEG", progressive=progressive, exif=exif, comment=b"\xff\xc0" * 9)
    assert jpeg_size(buffer.getvalue()) == (123, 45)


@given(st.integers(0, 700), st.binary(min_size=1, max_size=3))
def test_size_of_a_damaged_jpeg_is_never_another_size(at: int, damage: bytes) -> None:
    """Cut or altered before its first scan it is Pillow's to judge, or keeps its size."""
    content = jpeg((20, 10))
    assert jpeg_size(content[:at]) in (None, (20, 10))
    start = content.index(b"\xff\xc0")
    if not start <= at < start + 10:  # the frame header itself is the size
        altered = content[:at] + damage + content[at + len(damage) :]
        if b"\xff\xc0" not in damage and not set(range(at, at + 3)) & set(range(start, start + 10)):
            assert jpeg_size(altered) in (None, (20, 10))


def test_real_pictures_have_the_size_pillow_says(voc_sample: Path) -> None:
    paths = sorted(voc_sample.glob("VOCdevkit/*/JPEGImages/*.jpg"))
    assert len(paths) > 70
    for path in paths:
        with Image.open(path) as picture:
            assert jpeg_size(path.read_bytes()) == picture.size


def test_plan_of_a_hundred_thousand_records_takes_few_bytes_a_record() -> None:
    """What grows with the records is arrays: here some 100 bytes with all that is transient."""
    num = 100_000
    tracemalloc.start()
    plan = plan_of([20_000] * num, 64 << 20)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.num_records == num
    assert held < 120 * num
    assert peak < 300 * num
    assert isinstance(plan.splits[0].keys, np.ndarray)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 3)), max_size=30),
)
def test_pictures_that_may_be_shared_are_those_whose_size_two_sources_have(
    pictures: list[tuple[int, int]],
) -> None:
    sources = np.array([source for source, _ in pictures], np.int16)
    sizes = np.array([size for _, size in pictures], np.int64)
    expected = [
        row
        for row, (source, size) in enumerate(pictures)
        if size >= 0 and any(s != source and other == size for s, other in pictures)
    ]
    assert _of_shared_size(sizes, sources).tolist() == expected
