"""Zips are read in place: any member alone, in any order, compared with its CRC-32."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shard_tool.errors import SourceError
from tests.kit.datasets.archives import (
    SOME,
    contents_of,
    counting_server,
    read_back,
    scanned,
    written,
    zip_with,
)
from tests.kit.servers.s3 import S3, put
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path

METHODS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=9)
BODIES = st.binary(max_size=300) | st.builds(
    lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 9), st.integers(0, 9000)
)
MEMBERS = st.dictionaries(NAMES, st.tuples(BODIES, METHODS, st.booleans()), max_size=8)
needs_zip = pytest.mark.skipif(shutil.which("zip") is None, reason="there is no zip program")


@pytest.mark.slow
@given(MEMBERS, st.binary(max_size=60), st.randoms())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_members_read_back_in_any_order(
    tmp_path: Path,
    members: dict[str, tuple[bytes, int, bool]],
    comment: bytes,
    shuffle: random.Random,
) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = comment.replace(b"PK", b"")
        for name, (content, method, is_zip64) in members.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = method
            with archive.open(entry, "w", force_zip64=is_zip64) as writing:
                writing.write(content)
    source, spans, scan = scanned(written(tmp_path, "a.zip", file.getvalue()))
    assert [span.name for span in spans] == list(members)
    assert scan.num_bytes == len(file.getvalue())
    shuffle.shuffle(spans)
    assert [source.read(span) for span in spans] == [members[span.name][0] for span in spans]
    assert read_back(source, spans) == {name: content for name, (content, _, _) in members.items()}


@needs_zip
@pytest.mark.parametrize(
    "options", [["-0"], ["-9"], ["-fz"], ["-fd"], ["-X"], ["-c"]], ids=lambda given: given[0]
)
def test_zips_of_the_zip_program_are_read(tmp_path: Path, options: list[str]) -> None:
    for name, content in SOME.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    command = ["zip", "-r", "-q", *options, "../a.zip", "."]
    subprocess.run(command, cwd=tmp_path / "in", check=True, input=b"comment\n" * 99)
    source, spans, _ = scanned(tmp_path / "a.zip")
    files = [span for span in spans if not span.name.endswith("/")]
    assert len(files) < len(spans)
    assert read_back(source, files) == SOME


@needs_zip
def test_a_zip_written_into_a_pipe_is_read(tmp_path: Path) -> None:
    """Sizes and CRC-32 stand behind each member then, and in the directory."""
    for name in ("a.xml", "b.jpg"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    made = subprocess.run(
        ["zip", "-q", "-", "a.xml", "b.jpg"], cwd=tmp_path, check=True, stdout=subprocess.PIPE
    )
    assert contents_of(written(tmp_path, "a.zip", made.stdout)) == {
        "a.xml": b"a.xml" * 1000,
        "b.jpg": b"b.jpg" * 1000,
    }


def test_a_zip_behind_other_bytes_is_read(tmp_path: Path) -> None:
    """As in an archive that extracts itself: all positions are shifted."""
    content = zip_with({"first.txt": b"1"}) + zip_with(SOME)
    assert contents_of(written(tmp_path, "a.zip", content)) == SOME


def test_a_zip_on_the_web_is_read(tmp_path: Path) -> None:
    written(tmp_path, "a.zip", zip_with(SOME))
    written(tmp_path, "download", zip_with(SOME))  # only its bytes tell
    with web_server(tmp_path) as url:
        assert contents_of(f"{url}/a.zip") == SOME
        assert contents_of(f"{url}/download") == SOME
        source, _, scan = scanned(f"{url}/a.zip?token=s3cr3t")
        assert "s3cr3t" not in f"{source!r} {scan!r}"
        source.check_unchanged()
        written(tmp_path, "a.zip", zip_with({**SOME, "new.txt": b""}))
        with pytest.raises(SourceError, match=r"a\.zip: was changed or replaced since it was scan"):
            source.check_unchanged()


@pytest.mark.slow
def test_a_zip_in_a_bucket_is_read(bucket: str, s3: S3) -> None:
    put(s3, f"{bucket}/a.zip", zip_with(SOME))
    assert contents_of(f"{bucket}/a.zip", s3.storage_options) == SOME


def test_a_small_zip_takes_four_requests_and_one_for_each_member() -> None:
    with counting_server(zip_with(SOME)) as server:
        source, spans, _ = scanned(f"{server.url}/a.zip")
        assert len([line for line in server.seen if line.startswith("GET")]) <= 4
        before = len(server.seen)
        assert read_back(source, spans) == SOME
        assert len(server.seen) == before + len(spans)


@pytest.mark.slow
def test_100_000_members_take_a_few_requests() -> None:
    names = [f"JPEGImages/{number:06d}.jpg" for number in range(100_000)]
    content = zip_with(dict.fromkeys(names, b"x"), zipfile.ZIP_STORED)
    with counting_server(content) as server:
        source, spans, _ = scanned(f"{server.url}/many.zip")
        assert len(server.seen) <= 6
        assert [span.name for span in spans] == names
        assert source.read(spans[77_777]) == b"x"
        assert len(server.seen) <= 7


@pytest.mark.slow
def test_many_processes_read_one_zip_at_a_time(tmp_path: Path) -> None:
    contents = {f"{n}.jpg": random.Random(n).randbytes(n * 50) for n in range(200)}
    source, spans, _ = scanned(written(tmp_path, "a.zip", zip_with(contents)))
    random.Random(0).shuffle(spans)
    with ProcessPoolExecutor(3, mp_context=get_context("forkserver")) as pool:
        assert list(pool.map(source.read, spans, chunksize=9)) == [contents[s.name] for s in spans]
