"""One pass over a tar finds the same as a walk over the whole file, however its bytes come."""

from __future__ import annotations

import io
import itertools
import subprocess
import tarfile
import tracemalloc
import zlib
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.writer import TarWriter

from shard_tool.dataset.scan import MAX_EXTENSIONS, ScannedShard, scan_shard
from shard_tool.errors import ShardError
from shard_tool.format.tar import ShardIndex, copy_members, padded, read_at_of
from tests.kit.datasets.foreign_tars import by_gnu_tar
from tests.kit.datasets.tars import TWO, info, members_of, tar_of, webdataset_samples, written

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = ["a.x", "a.y", "A.X", "b.x", "b.x.y", "b/a.x", "b", ".x", "b/", "__m__/a.x", "__m.n__"]
LONG = "folder/" * 20 + "000005.jpg"


def scan(content: bytes, cuts: Sequence[int] = (), **options: Any) -> ScannedShard:
    ends = [0, *sorted({cut % (len(content) + 1) for cut in cuts}), len(content)]
    parts = [content[start:stop] for start, stop in itertools.pairwise(ends)]
    return scan_shard(parts, len(content), place="a.tar", **options)


def refusal(content: bytes, **options: Any) -> str:
    with pytest.raises(ShardError) as caught:
        scan(content, **options)
    return str(caught.value)


def by_webdataset(mtime: float | None) -> bytes:
    file = io.BytesIO()
    with TarWriter(file, encoder=False, mtime=mtime) as writer:
        for key, members in TWO.items():
            writer.write({"__key__": key} | members)
    return file.getvalue()


TARS = {
    "ours": written(TWO)[0],
    "webdataset": by_webdataset(None),
    "prefix": tar_of([info(LONG, 700), info("a.jpg", 1)]),
    "GNU": tar_of([info("x" * 600 + ".jpg", 700), info("b.jpg", 5)], tarfile.GNU_FORMAT),
    "PAX": tar_of([info("x" * 600 + ".jpg", 700), info("b.jpg", 5)], tarfile.PAX_FORMAT),
    "PAX size": tar_of([info("a.jpg", 700, pax={"size": "700"})], tarfile.PAX_FORMAT),
    "folders": tar_of([info("d", type_=tarfile.DIRTYPE), info("d/a.jpg", 9), info("e", 3)]),
}


@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("step", [1, 100, 511, 512, 513, 1 << 20])
def test_scan_agrees_with_a_walk_over_the_file(kind: str, step: int) -> None:
    content = TARS[kind]
    found = scan(content, range(step, len(content), step))
    expected = ShardIndex.from_shard(read_at_of(content), len(content), place="a.tar")
    assert found.index.to_bytes() == expected.to_bytes()
    assert found.sha256 == sha256(content).hexdigest()
    assert found.num_bytes == len(content)


@given(st.lists(st.sampled_from(NAMES)), st.lists(st.integers(0, 20_000), max_size=5))
@settings(max_examples=200)
def test_samples_are_those_webdataset_makes(names: list[str], cuts: list[int]) -> None:
    types = {True: tarfile.DIRTYPE, False: tarfile.REGTYPE}
    content = tar_of(
        [
            info(name.rstrip("/"), size=7 * (name[-1] != "/"), type_=types[name[-1] == "/"])
            for name in names
        ]
    )
    try:
        expected = webdataset_samples(content)
    except ValueError:  # the same extension twice in a sample
        assert "which webdataset refuses" in refusal(content, cuts=cuts)
        return
    seen: list[tuple[str, list[str]]] = []
    found = scan(content, cuts, on_sample=lambda key, names, _: seen.append((key, list(names))))
    assert seen == [(key, list(members)) for key, members in expected]
    read = []
    starts = found.index.starts.tolist()
    for (start, stop), crc in zip(
        itertools.pairwise(starts), found.index.crcs.tolist(), strict=True
    ):
        members: dict[str, bytes] = {}
        key = copy_members(content, start, stop, members, place="a.tar")
        read.append((key, members))
        assert zlib.crc32(content[start:stop]) == crc
    assert read == expected
    keys = [key for key, _ in expected]
    assert found.num_repeated == len(keys) - len(set(keys))
    counts: dict[str, int] = {}
    for name in [name for _, members in expected for name in members]:
        counts[name] = counts.get(name, 0) + 1
    assert found.members == counts
    assert list(found.members or ()) == sorted(counts)


@pytest.mark.parametrize("step", [1, 512, 1 << 20])
def test_zeros_after_the_end_marker_do_not_count_as_more(step: int) -> None:
    content = TARS["ours"]
    for more, has_more in ((b"", False), (bytes(700), False), (bytes(700) + b"x", True)):
        whole = content + more
        assert scan(whole, range(step, len(whole), step)).has_more is has_more
    assert scan(content + TARS["GNU"]).has_more


def test_contents_that_are_asked_for_come_with_their_sample() -> None:
    seen: list[Any] = []
    scan(TARS["ours"], [700], keep=["json"], on_sample=lambda *sample: seen.append(sample[::2]))
    assert seen == [(key, {"json": members["json"]}) for key, members in TWO.items()]


# What is cut, damaged or nothing of the kind --------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", TARS)
def test_tar_cut_at_any_byte_before_its_end_marker_is_an_error(kind: str) -> None:
    content = TARS[kind]
    last = members_of(content)[-1]
    for cut in range(last.offset + padded(last.size) + 512):
        assert any(text in refusal(content[:cut]) for text in ("cut short", "is damaged"))


def test_tar_of_another_length_than_expected_is_an_error() -> None:
    content = TARS["ours"]
    for there, said in ((content[:-100], len(content)), (content + b"x", len(content))):
        with pytest.raises(ShardError, match=r"a\.tar: .*bytes were read, 10240 expected"):
            scan_shard([there], said, place="a.tar")


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_compressed_tar_is_named_with_the_way_out(kind: str, tmp_path: Path) -> None:
    path = by_gnu_tar(tmp_path / "a.tar", {"a.txt": b"x"}, f"--{kind}")
    hint = "decompress it: samples inside a compressed file cannot be found"
    assert refusal(path.read_bytes()) == f"a.tar: is no plain tar but {kind}; {hint}"


@pytest.mark.parametrize("format_", ["gnu", "pax"])
def test_sparse_member_is_refused(format_: str, tmp_path: Path) -> None:
    """webdataset would fill its holes; its bytes are not in the tar."""
    (tmp_path / "a.tar.files").mkdir()
    with (tmp_path / "a.tar.files/a.bin").open("wb") as file:
        file.truncate(1 << 20)
    path = tmp_path / "a.tar"
    command = ["tar", "--create", "--sparse", f"--format={format_}", "--file", str(path), "a.bin"]
    subprocess.run(command, cwd=tmp_path / "a.tar.files", check=True)
    problem = r"is stored with holes \(sparse\); write the tar without --sparse"
    with pytest.raises(ShardError, match=problem):
        scan(path.read_bytes())


def test_header_that_renames_all_members_is_refused() -> None:
    content = tarfile.TarInfo.create_pax_global_header({"path": "b.jpg"}) + tar_of([info("a.jpg")])
    problem = "the PAX header at byte 0 names or sizes all members after it"
    assert refusal(content) == f"a.tar: {problem}"


def test_names_stay_readable_in_messages_whatever_they_hold() -> None:
    twice = [info("a\n\udcff.jpg", 3), info("a\n\udcff.JPG", 3)]
    message = refusal(tar_of(twice, tarfile.GNU_FORMAT))
    expected = r"member 'a\n\udcff.JPG' is the second 'jpg' of its sample, which webdataset refuses"
    assert message == f"a.tar: {expected}; rename it"
    message.encode()


@pytest.mark.parametrize("field", ["__key__", "__url__", "__bad__", "__local_path__"])
def test_extension_webdataset_keeps_for_itself_is_refused(field: str) -> None:
    assert "keeps for itself" in refusal(tar_of([info(f"a.{field}", 3)]))


def test_extension_that_is_not_utf_8_is_counted_with_escapes() -> None:
    found = scan(tar_of([info("a.\udcff", 3)], tarfile.GNU_FORMAT))
    assert found.members == {r"\udcff": 1}


def test_member_whose_content_is_wanted_may_not_be_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard_tool.dataset.scan.MAX_KEPT_BYTES", {"json": 10})
    monkeypatch.setattr("shard_tool.dataset.scan._MAX_PICTURE_BYTES", 20)
    for extension, most in (("json", 10), ("jpg", 20)):
        content = tar_of([info(f"a.{extension}", most + 1)])
        assert scan(content).index.crcs.size == 1
        problem = f"has {most + 1} bytes, more than {most}"
        assert problem in refusal(content, keep=[extension])
        fits = tar_of([info(f"a.{extension}", most)])
        assert scan(fits, keep=[extension]).index.crcs.size == 1


# Memory ---------------------------------------------------------------------------------------


def test_too_many_extensions_are_not_counted() -> None:
    """Keys with a dot, as in 'v1.000017.jpg', would fill the manifest with names."""

    def tar(num: int) -> bytes:
        return written({"v1": {f"{i:06d}.jpg": b"" for i in range(num)}})[0]

    assert len(scan(tar(MAX_EXTENSIONS)).members or ()) == MAX_EXTENSIONS
    assert scan(tar(MAX_EXTENSIONS + 1)).members is None


def test_memory_does_not_grow_with_the_size_of_members() -> None:
    part = bytes(1 << 20)

    def scanned(size: int) -> ScannedShard:
        header = info("a.bin", size).tobuf()
        parts = (header, *itertools.repeat(part, size >> 20), bytes(1024))
        return scan_shard(parts, 512 + size + 1024, place="a.tar")

    scanned(1 << 20)  # the first scan of a process imports modules
    tracemalloc.start()
    try:
        found = scanned(256 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.index) == 1
    assert peak < 1 << 20
