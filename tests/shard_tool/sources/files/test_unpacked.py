"""Compressed tars: decompressed once into a file that others can read, and that is never left."""

from __future__ import annotations

import bz2
import errno
import gc
import gzip
import logging
import lzma
import multiprocessing.util
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import SourceError, StoreError
from tests.kit.datasets.archives import (
    SOME,
    contents_of,
    read_back,
    scanned,
    tar_with,
    written,
    zip_with,
)
from tests.kit.servers.s3 import S3, put
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TAR = tar_with(SOME)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
MODULES = {"gzip": "gz", "bzip2": "bz2", "xz": "xz"}
kinds = pytest.mark.parametrize("kind", PACKERS)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go; a test leaves none."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    multiprocessing.util.get_temp_dir()  # its sockets need a short path: it keeps the usual folder
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def packed(tmp_path: Path, kind: str = "gzip", content: bytes = TAR) -> Path:
    return written(tmp_path, f"a.tar.{MODULES[kind]}", PACKERS[kind](content))


# Reading --------------------------------------------------------------------------------------


@kinds
def test_a_compressed_tar_is_read_like_a_plain_one(
    tmp_path: Path, temporary: Path, kind: str
) -> None:
    path = packed(tmp_path, kind)
    source, spans, scan = scanned(path)
    assert read_back(source, spans) == SOME
    assert scan.num_bytes == path.stat().st_size
    assert scan.sha256 == source.sha256() == sha256(path.read_bytes()).hexdigest()
    assert source.is_local
    assert source.is_here_only
    assert scanned(written(tmp_path, "a.tar", TAR))[1] == spans
    (temporary_tar,) = temporary.iterdir()
    assert temporary_tar.read_bytes() == TAR
    assert temporary_tar.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("program", ["gzip", "bzip2", "xz"])
def test_what_the_programs_write_is_read(tmp_path: Path, program: str) -> None:
    if shutil.which(program) is None or shutil.which("tar") is None:
        pytest.skip(f"there is no tar or no {program} program")
    for name, content in SOME.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    command = ["tar", f"--use-compress-program={program}", "-cf", "a.packed", "-C", "in"]
    subprocess.run([*command, "VOCdevkit"], cwd=tmp_path, check=True)
    source, spans, _ = scanned(tmp_path / "a.packed")
    assert read_back(source, [span for span in spans if not span.name.endswith("/")]) == SOME


@kinds
def test_a_tar_in_several_pieces_of_compressed_data_is_read(tmp_path: Path, kind: str) -> None:
    """As pigz, pbzip2 and `cat a.gz b.gz` write it."""
    pack = PACKERS[kind]
    content = b"".join(pack(TAR[at : at + 1000]) for at in range(0, len(TAR), 1000))
    path = written(tmp_path, "a.tar.packed", content)
    assert contents_of(path) == SOME
    assert scanned(path)[2].sha256 == sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["bzip2", "xz"])
def test_what_follows_the_compressed_data_is_hashed_too(tmp_path: Path, kind: str) -> None:
    path = packed(tmp_path, kind)
    path.write_bytes(path.read_bytes() + b"other" * 1_000_000)
    _, _, scan = scanned(path)
    assert scan.sha256 == sha256(path.read_bytes()).hexdigest()


@kinds
def test_a_compressed_tar_on_the_web_is_read_once(tmp_path: Path, kind: str) -> None:
    path, seen = packed(tmp_path, kind), list[tuple[int, int]]()
    with web_server(tmp_path) as url:
        source, spans, scan = scanned(
            f"{url}/{path.name}?token=s3cr3t", on_progress=lambda *at: seen.append(at)
        )
    assert read_back(source, spans) == SOME  # after the server has gone
    assert scan.sha256 == sha256(path.read_bytes()).hexdigest()
    assert scan.num_bytes == path.stat().st_size
    assert seen[-1] == (scan.num_bytes, scan.num_bytes)
    assert source.is_local
    assert source.is_here_only


@pytest.mark.slow
def test_a_compressed_tar_in_a_bucket_is_read(bucket: str, s3: S3) -> None:
    put(s3, f"{bucket}/a.tgz", gzip.compress(TAR))
    assert contents_of(f"{bucket}/a.tgz", s3.storage_options) == SOME


def test_the_user_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = packed(tmp_path)
    contents_of(path)
    first, second = caplog.messages
    size = path.stat().st_size
    assert first.startswith(
        f"{path}: decompressing {size} bytes (gzip) into {tempfile.gettempdir()}"
    )
    assert second == f"{path}: decompressed to {len(TAR)} bytes"


# The temporary file ---------------------------------------------------------------------------


@pytest.mark.slow
def test_other_processes_read_it_and_do_not_remove_it(tmp_path: Path, temporary: Path) -> None:
    source, spans, scan = scanned(packed(tmp_path))
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    del copy
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        assert [*pool.map(source.read, spans)] == [SOME[span.name] for span in spans]
    child = os.fork()  # a child that drops its copy, and ends
    if not child:
        del source, scan
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert len([*temporary.glob("shard-tool-*")]) == 1  # beside what `multiprocessing` leaves


def test_it_is_removed_with_the_last_value_that_needs_it(tmp_path: Path, temporary: Path) -> None:
    source, spans, scan = scanned(packed(tmp_path))
    del scan
    assert read_back(source, spans) == SOME
    assert [*temporary.iterdir()]
    del source
    gc.collect()
    assert not [*temporary.iterdir()]


PROGRAM = """
import os, signal, sys, tempfile
from tests.kit.datasets.archives import scanned
tempfile.tempdir = sys.argv[2]
source, spans, scan = scanned(sys.argv[1])
if sys.argv[3] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_process_that_ends_removes_it_and_what_a_killed_one_left_goes_next_time(
    tmp_path: Path, temporary: Path
) -> None:
    path = packed(tmp_path)
    mine, spans, _ = scanned(path)
    (my_tar,) = temporary.iterdir()
    other = written(temporary, "shard-tool-unpacked-notes.txt", b"another's")
    arguments = [sys.executable, "-c", PROGRAM, str(path), str(temporary)]
    subprocess.run([*arguments, "ended"], check=True)
    assert {*temporary.iterdir()} == {my_tar, other}
    assert subprocess.run([*arguments, "killed"], check=False).returncode == -9
    assert len([*temporary.iterdir()]) == 3
    kept = scanned(path)  # sweeps
    assert len([*temporary.iterdir()]) == 3  # mine, the new one, another's
    assert my_tar.exists()
    assert read_back(mine, spans) == read_back(kept[0], kept[1]) == SOME


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, temporary: Path) -> None:
    victim = written(tmp_path, "victim.tar", TAR)
    link = temporary / "shard-tool-unpacked-link.tar"
    link.symlink_to(victim)
    contents_of(packed(tmp_path))
    assert link.is_symlink()
    assert victim.exists()


def test_a_temporary_file_that_is_gone_is_named(tmp_path: Path, temporary: Path) -> None:
    source, spans, _ = scanned(packed(tmp_path))
    (temporary_tar,) = temporary.iterdir()
    temporary_tar.unlink()
    with pytest.raises(SourceError) as caught:
        read_back(source, spans)
    assert str(caught.value) == (
        f"{tmp_path}/a.tar.gz (decompressed into {temporary_tar}): cannot be read: "
        "No such file or directory"
    )


# Disks ----------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 0, 100))
    with pytest.raises(StoreError) as caught:
        scanned(path)
    assert str(caught.value) == (
        f"{path}: must be decompressed into {temporary}: 100 bytes free, it has "
        f"{path.stat().st_size}; set TMPDIR to a folder on a larger disk, or decompress the "
        "archive and give the tar"
    )
    assert not [*temporary.iterdir()]


def test_a_disk_that_fills_up_is_named_and_nothing_is_left(tmp_path: Path, temporary: Path) -> None:
    path = packed(tmp_path, content=tar_with({"a.jpg": bytes(5 << 20)}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, before[1]))
    try:
        with pytest.raises(StoreError) as caught:
            scanned(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    text = str(caught.value)
    problem = f"{path}: cannot be decompressed into {temporary}: {os.strerror(errno.EFBIG)} after "
    assert text.startswith(f"{problem}{3 << 20} bytes (")
    assert " bytes free); set TMPDIR to a folder on a larger disk" in text
    assert not [*temporary.iterdir()]


# Damage ---------------------------------------------------------------------------------------


@kinds
def test_a_cut_archive_is_an_error_wherever_it_is_cut(
    tmp_path: Path, temporary: Path, kind: str
) -> None:
    content = PACKERS[kind](TAR)
    for cut in range(20, len(content), 97):
        path = written(tmp_path, "a.tar.packed", content[:cut])
        with pytest.raises(SourceError) as caught:
            scanned(path)
        hint = "download or copy the archive again"
        assert str(caught.value) == f"{path}: its {kind} data ends too early; {hint}"
    assert not [*temporary.iterdir()]


@kinds
def test_damaged_data_is_an_error(tmp_path: Path, temporary: Path, kind: str) -> None:
    content = bytearray(PACKERS[kind](TAR))
    for at in range(10 if kind == "gzip" else 0, len(content), 61):
        content[at] ^= 0x10
        path = written(tmp_path, "a.tar.packed", bytes(content))
        with pytest.raises(SourceError, match=r"packed: (its|the header|cut short)"):
            scanned(path)
        content[at] ^= 0x10
    assert not [*temporary.iterdir()]


def test_a_cut_archive_on_the_web_is_an_error(tmp_path: Path) -> None:
    written(tmp_path, "a.tgz", gzip.compress(TAR)[:-9])
    with web_server(tmp_path) as url, pytest.raises(SourceError, match=r"a\.tgz: its gzip data e"):
        scanned(f"{url}/a.tgz")


@pytest.mark.parametrize(
    "content", [b"one picture", b"x" * 9999, zip_with(SOME)], ids=["short", "long", "zip"]
)
def test_compressed_data_that_holds_no_tar_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = packed(tmp_path, content=content)
    with pytest.raises(SourceError) as caught:
        scanned(path)
    assert str(caught.value) == (
        f"{path}: its gzip data holds no tar; give a compressed tar, or extract it and give the "
        "folder"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cut short: no end-of-archive marker in its 0 bytes"),
        (TAR[:2000], "cut short inside the header at byte 1536"),
        (TAR.replace(b"a.jpg", b"../..", 1), "the header at byte 1536 has checksum"),
    ],
    ids=["empty", "cut", "damaged"],
)
def test_a_bad_tar_inside_is_an_error(
    tmp_path: Path, temporary: Path, content: bytes, problem: str
) -> None:
    path = packed(tmp_path, content=content)
    with pytest.raises(SourceError) as caught:
        scanned(path)
    assert caught.value.place == str(path)
    assert caught.value.problem.startswith(problem)
    assert not [*temporary.iterdir()]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python reads zstd")
def test_what_this_python_cannot_decompress_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tar.zst", b"\x28\xb5\x2f\xfd" + bytes(99))
    with pytest.raises(SourceError) as caught:
        scanned(path)
    assert str(caught.value) == (
        f"{path}: is compressed (zstd), which this Python cannot read; decompress it and give the "
        "tar"
    )


def test_an_archive_that_changes_is_an_error(tmp_path: Path) -> None:
    path = packed(tmp_path)
    source, _, _ = scanned(path)
    source.check_unchanged()
    with pytest.raises(SourceError, match="was changed while it was read"):
        scanned(path, on_progress=lambda *_: os.utime(path, (1, 1)))
    with pytest.raises(SourceError, match="was changed or replaced since it was scanned"):
        source.check_unchanged()


@pytest.mark.slow
def test_a_bomb_is_not_held_in_memory(tmp_path: Path) -> None:
    """Compressed a thousandfold: one block of input makes a gigabyte."""
    big = zlib.compressobj(9, zlib.DEFLATED, 31)
    content = big.compress(tar_with({"a.jpg": bytes(64 << 20)})) + big.flush()
    path = written(tmp_path, "a.tgz", content)
    assert len(content) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, spans, _ = scanned(path)
    assert spans[0].size == 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000
