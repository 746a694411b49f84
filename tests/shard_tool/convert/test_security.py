"""Promise 8: hostile sources are refused by name, and secrets are shown to nobody."""

from __future__ import annotations

import io
import re
import struct
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.cli.options import resuming_command
from shard_tool.errors import AnnotationError, DataError, SourceError
from shard_tool.sources.keys import id_of
from tests.kit.datasets.converted import converted, files_of, samples_of
from tests.kit.datasets.voc_tree import Picture, jpeg, mask, pictures, voc_tar, voc_tree, write
from tests.kit.processes.shard_tool_process import shard_tool, warm_shard_tool
from tests.kit.servers.s3 import objects, put
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.servers.s3 import S3

WAY_OUT = "get the archive from another place, or extract what you trust and give the folder"
LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">'
    + b"".join(
        b'<!ENTITY lol%d "%s">' % (n, b"&lol%s;" % (str(n - 1).encode() if n else b"") * 10)
        for n in range(1, 9)
    )
    + b"]><annotation><object><name>&lol8;</name></object></annotation>"
)
FILE = (
    b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    b"<annotation><folder>&x;</folder></annotation>"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return voc_tree(tmp_path / "in", pictures(3))


def with_member(tree: Path, path: Path, member: tarfile.TarInfo, content: bytes = b"") -> Path:
    voc_tar(path, tree.parents[1])
    member.size = len(content)
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(content))
    return path


def named(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (named("../../etc/cron.d/x"), "leads out of the archive"),
        (named("VOCdevkit/VOC2012/JPEGImages/../../../x.jpg"), "leads out of the archive"),
        (named("/etc/passwd"), "leads out of the archive"),
        (
            named("VOCdevkit/VOC2012/JPEGImages/000009.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            "is a symbolic link, not a file",
        ),
        (
            named("VOCdevkit/VOC2012/Annotations/000009.xml", tarfile.LNKTYPE, "../x"),
            "is a hard link, not a file",
        ),
        (
            named("VOCdevkit/VOC2012/JPEGImages/null.jpg", tarfile.CHRTYPE),
            "is a device, not a file",
        ),
        (named("VOCdevkit/fifo", tarfile.FIFOTYPE), "is a pipe, not a file"),
        (
            named("VOCdevkit/VOC2012/JPEGImages/a\nb.jpg"),
            "has an unprintable name (control characters, or not UTF-8)",
        ),
        (
            named("VOCdevkit/VOC2012/JPEGImages/\udce9t\udce9.jpg"),
            "has an unprintable name (control characters, or not UTF-8)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value.name),
)
def test_promise_8_harmful_member_of_an_archive_is_refused_by_name(
    tree: Path, tmp_path: Path, member: tarfile.TarInfo, problem: str
) -> None:
    archive = with_member(tree, tmp_path / "voc.tar", member)
    with pytest.raises(SourceError) as caught:
        converted(archive, tmp_path / "out")
    assert str(caught.value) == f"{archive}: member {member.name!r} {problem}; {WAY_OUT}"
    assert not (tmp_path / "out").exists()
    ours = {"in", "voc.tar"}
    assert {path.name for path in tmp_path.iterdir()} == ours, "something was extracted"


def test_promise_8_the_same_holds_for_a_remote_archive(tree: Path, tmp_path: Path) -> None:
    with_member(tree, tmp_path / "web.tar", named("../x"))
    with web_server(tmp_path) as url, pytest.raises(SourceError) as caught:
        converted(f"{url}/web.tar?sig=s3cr3t", tmp_path / "out")  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{url}/web.tar: member '../x' leads out")


def test_promise_8_name_of_absurd_length_is_refused(tree: Path, tmp_path: Path) -> None:
    name = f"VOCdevkit/VOC2012/JPEGImages/{'a' * 70_000}.jpg"
    archive = with_member(tree, tmp_path / "voc.tar", named(name))
    with pytest.raises(SourceError, match=r"has a name of 70004 bytes \(most: 255\)"):
        converted(archive, tmp_path / "out")


@pytest.mark.parametrize("content", [LAUGHS, FILE], ids=["billion laughs", "external entity"])
@pytest.mark.parametrize("as_archive", [False, True])
def test_promise_8_entities_in_an_annotation_are_refused_by_name(
    tree: Path, tmp_path: Path, content: bytes, as_archive: bool
) -> None:
    write(tree / "Annotations/000002.xml", content)
    source = voc_tar(tmp_path / "voc.tar", tree.parents[1]) if as_archive else tree
    with pytest.raises(AnnotationError) as caught:
        converted(source, tmp_path / "out")
    place = f"{source}:VOCdevkit/VOC2012" if as_archive else str(tree)
    message = f"{place}/Annotations/000002.xml: refused for safety: "
    assert str(caught.value).startswith(message)


def huge(content: bytes, size: int, marker: bytes) -> bytes:
    """A JPEG whose header claims `size` x `size` pixels."""
    at = content.index(marker) + 5
    return content[:at] + struct.pack(">HH", size, size) + content[at + 4 :]


def test_promise_8_files_of_absurd_size_are_refused_by_name(tree: Path, tmp_path: Path) -> None:
    picture, annotation = tree / "JPEGImages/000001.jpg", tree / "Annotations/000003.xml"
    original = picture.read_bytes()
    for side in (60_000, 9_500):
        picture.write_bytes(huge(original, side, b"\xff\xc0"))
        with pytest.raises(DataError) as caught:
            converted(tree, tmp_path / "out")
        problem = f"is {side} x {side} px, more than 89000000 pixels; make it smaller"
        assert str(caught.value) == f"{picture}: {problem}"
    picture.write_bytes(original)
    with annotation.open("wb") as file:
        file.truncate(1 << 23)  # a hole: nothing is written, and nothing must be read
    with pytest.raises(DataError) as caught:
        converted(tree, tmp_path / "out")
    assert str(caught.value) == f"{annotation}: 8388608 bytes are too many (most: 4194304)"


def test_promise_8_mask_of_absurd_size_is_refused_by_name(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", [Picture(key="000001", has_mask=True)])
    content = bytearray(mask((20, 10)))
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    write(tree / "SegmentationClass/000001.png", bytes(content))
    with pytest.raises(DataError) as caught:
        converted(tree, tmp_path / "out", task="segmentation")
    assert str(caught.value).startswith(f"{tree}/SegmentationClass/000001.png: ")


@pytest.mark.parametrize(
    "name", ["../secret", "../../secret", "{outside}/secret", "a/../../secret", "..\\secret"]
)
def test_promise_8_id_that_leads_out_of_the_source_opens_nothing(
    tree: Path, tmp_path: Path, name: str
) -> None:
    """A picture lies there with its annotation; but only what the scan found can be named."""
    for folder in (tree.parent, tmp_path / "outside"):
        write(folder / "secret.jpg", jpeg((20, 10)))
        write(folder / "secret.xml", (tree / "Annotations/000001.xml").read_bytes())
    name = name.format(outside=tmp_path / "outside")
    with (tree / "ImageSets/Main/train.txt").open("a") as file:
        file.write(f"{name}\n")
    missing = re.escape(f"{tree}/JPEGImages/{name}.jpg: is missing: there is no such file")
    with pytest.raises(DataError, match=missing):
        converted(tree, tmp_path / "out", shard_bytes=1)


@pytest.mark.parametrize("name", ["2008.000001", "a\\b", "\x7f", "a..", "a/b", "__a__"])
def test_promise_8_no_name_of_a_picture_becomes_a_member_that_leads_elsewhere(
    tree: Path, tmp_path: Path, name: str
) -> None:
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        path = tree / f"{folder}/{name}{suffix}"
        path.parent.mkdir(exist_ok=True)
        (tree / f"{folder}/000001{suffix}").rename(path)
    write(tree / "ImageSets/Main/train.txt", f"{name}\n".encode())
    converted(tree, tmp_path / "out")
    ((key, parts),) = samples_of(tmp_path / "out", "train").items()
    assert parts.keys() == {"jpg", "json"}
    assert id_of(key) == name
    assert re.fullmatch(r"[\w%]+(/[\w%]+)*", key)
    assert not key.startswith("__")


@pytest.mark.slow
def test_promise_8_deep_annotation_neither_hangs_nor_crashes(tree: Path, tmp_path: Path) -> None:
    depth = 400_000
    write(tree / "Annotations/000002.xml", b"<annotation>" + b"<a>" * depth)
    done = shard_tool("convert", tree, tmp_path / "out", "--workers", 1)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tree}/Annotations/000002.xml: ")


# Secrets --------------------------------------------------------------------------------------

SECRETS = ("t0ps3cret", "s1gnature", "pa55word")


def shows_a_secret(*texts: str | bytes) -> list[str]:
    joined = b"\n".join(text.encode() if isinstance(text, str) else text for text in texts)
    return [secret for secret in SECRETS if secret.encode() in joined]


@pytest.mark.slow
def test_promise_8_no_secret_in_anything_written_or_said(
    tree: Path, tmp_path: Path, s3: S3, bucket: str
) -> None:
    """After success, failure, a refusal, and in the journal of an interrupted run."""
    (tmp_path / "web").mkdir()
    archive = voc_tar(tmp_path / "web/voc.tar", tmp_path / "in")
    put(s3, f"{bucket}/voc.tar", archive.read_bytes())
    said: list[str | bytes] = []

    def run(*arguments: object) -> int:
        done = warm_shard_tool(*arguments)
        said.extend([done.stdout, done.stderr])
        return done.returncode

    options = [
        word
        for key, value in s3.storage_options.items()
        for word in ("--storage-option", f"{key}={value}")
    ]
    wrong = ["--storage-option", "secret=t0ps3cret", "--storage-option", "key=me"]
    wrong += ["--storage-option", f"endpoint_url={s3.endpoint_url}"]
    with web_server(tmp_path / "web") as url:
        signed = f"{url}/voc.tar?X-Amz-Signature=s1gnature"
        with_password = signed.replace("://", "://me:pa55word@")
        assert run("convert", signed, tmp_path / "out", "--workers", 2) == 0
        assert run("convert", signed, tmp_path / "out", "--on-existing", "resume") == 0
        assert run("convert", signed, tmp_path / "dry", "--dry-run") == 0
        assert run("convert", signed.replace("voc.tar", "no.tar"), tmp_path / "no") == 1
        assert run("convert", with_password, tmp_path / "pw", "--workers", 1) in (0, 1)
        assert run("convert", signed, f"{bucket}/out", *options, "--workers", 2) == 0
        assert run("convert", signed, f"{bucket}/no", *wrong, "--workers", 1) == 1
        assert run("convert", f"{bucket}/voc.tar", tmp_path / "no2", *wrong) == 1
        assert run("convert", signed, f"s3://me:pa55word@{bucket[5:]}/x", *wrong) == 1
    written: list[Any] = [*files_of(tmp_path / "out").values(), *objects(s3, bucket).values()]
    assert len(written) > 5
    assert not shows_a_secret(*said, *written)
    for secret in (s3.secret,):
        assert not any(secret.encode() in content for content in written)
        assert not any(secret in (t if isinstance(t, str) else t.decode()) for t in said)


def test_promise_8_resuming_command_shows_no_secret(tree: Path, tmp_path: Path) -> None:
    shown = resuming_command(
        [
            *("shard-tool", "convert", "https://me:pa55word@h/voc.tar?sig=s1gnature", "s3://b/x"),
            *("--storage-option", "secret=t0ps3cret", "--on-existing=overwrite", "--workers", "2"),
        ]
    )
    assert shown == (
        "shard-tool convert https://h/voc.tar?… s3://b/x --storage-option secret=… --workers 2 "
        "--on-existing resume"
    )


def test_pictures_of_the_kit_have_the_marker_this_file_looks_for() -> None:
    assert b"\xff\xc0" in jpeg((20, 10))
