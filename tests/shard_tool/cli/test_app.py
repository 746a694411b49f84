"""The command line as people and scripts use it: the real entry point in its own process."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from shard_tool.format.sample import VOC_CLASSES
from shard_tool.release import RELEASE
from tests.kit.datasets.converted import converted, files_of, manifest_of
from tests.kit.datasets.voc_tree import Picture, annotation, jpeg, pictures, voc_tree, write
from tests.kit.processes.shard_tool_process import SHARD_TOOL, shard_tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[str | int | None, str, str]]

COMMANDS = (
    *("convert", "verify", "info", "download", "copy", "index", "export"),
    *("plan", "bench", "preview"),
)
SIZE = r"\d+(\.\d)? (B|KiB|MiB)"


def counted(name: str) -> str:
    """A class of the tree as a conversion lists it."""
    return f"{name} 6" if name in ("cat", "dog") else name


def succeeds(*arguments: object) -> str:
    """Run a command that must succeed and print nothing to stderr; return its stdout."""
    done = shard_tool(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny devkit with two splits; tests only read it."""
    folder = tmp_path_factory.mktemp("cli")
    return voc_tree(folder, [*pictures(4), *pictures(2, split="val", first=5)])


@pytest.fixture(scope="module")
def dataset(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted devkit; tests only read it."""
    dest = tmp_path_factory.mktemp("dataset") / "voc"
    converted(tree, dest)
    return dest


# Help and version -----------------------------------------------------------------------------


@pytest.mark.slow
def test_help_and_info_import_no_torch(dataset: Path) -> None:
    """Nor webdataset, Lightning or s3fs, each of which takes seconds to import."""
    heavy = "torch|torchvision|webdataset|pytorch_lightning|lightning|s3fs|botocore|datamodules"
    for arguments in (["--help"], ["info", str(dataset)]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", SHARD_TOOL, *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        assert re.search(r"\| +shard_tool\.cli$", done.stderr, re.MULTILINE)
        assert not re.findall(rf"\| +({heavy})$", done.stderr, re.MULTILINE)


@pytest.mark.slow
def test_help_lists_every_command_and_each_has_its_own_help(run_here: Run) -> None:
    overview = succeeds("--help")
    listed = re.findall(r"^  (\w+)  +[A-Z]", overview.partition("Commands:")[2], re.MULTILINE)
    assert tuple(listed) == COMMANDS
    assert "..." not in overview.partition("Commands:")[2], "a summary too long for 80 columns"
    for command in COMMANDS:
        status, text, _ = run_here(command, "-h")
        assert status == 0
        assert text.startswith(f"Usage: shard-tool {command} [OPTIONS] ")
        options = re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, re.MULTILINE)
        assert {"--format", "--help"} <= set(options)
        described = re.findall(r"^  (?:-h, )?--[a-z-]+.*?\s{2,}[^\s-]", text, re.MULTILINE)
        assert len(described) == len(options), "an option without help"


def test_no_arguments_show_the_help_and_exit_2(run_here: Run) -> None:
    _, text, _ = run_here("--help")
    assert run_here() == (2, "", text)


@pytest.mark.slow
def test_version_is_the_release() -> None:
    assert succeeds("--version") == f"shard-tool {RELEASE}\n"


# Results --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_convert_prints_its_result_and_makes_the_same_bytes_as_the_library(
    tree: Path, dataset: Path, tmp_path: Path
) -> None:
    lines = succeeds("convert", tree, tmp_path / "voc", "--workers", 2).splitlines()
    classes, boxes, train, val, done = lines
    assert classes == f"20 classes: {', '.join(map(counted, VOC_CLASSES))}"
    assert boxes == (
        "boxes: devkit (counted from 1 with both corners inside, as VOC's devkit does), since the "
        "classes are VOC's; of 12 boxes none have a 0, none have fractions"
    )
    assert re.fullmatch(rf"train: 4 samples, 1 shards, {SIZE}", train)
    assert re.fullmatch(rf"val: 2 samples, 1 shards, {SIZE}", val)
    assert re.fullmatch(rf"{tmp_path}/voc: done in \d+\.\d s", done)
    assert files_of(tmp_path / "voc") == files_of(dataset)


@pytest.mark.slow
def test_convert_takes_every_option_and_gives_json(
    tree: Path, tmp_path: Path, run_here: Run
) -> None:
    bad = Picture(key="000009", objects=(("cat", (1, 1, 23, 3)),))
    copy = shutil.copytree(tree, tmp_path / "VOC2012")
    write(copy / "JPEGImages/000009.jpg", jpeg((20, 10)))
    write(copy / "Annotations/000009.xml", annotation(bad))
    write(copy / "ImageSets/Main/mine.txt", b"000001\n000009\n000005\n")
    done = shard_tool(
        *("convert", copy, tmp_path / "voc", "--task", "detection", "--split", "mine"),
        *("--name", "odd", "--shard-size", "2.5KB", "--workers", 1, "--seed", 3),
        *("--on-bad-record", "skip", "--max-bad-records", 1, "--format", "json"),
        *("--source-format", "voc", "--classes", "dog,cat,tiger", "--rename", "cat=tiger"),
        *("--other-classes", "drop", "--boxes", "corners", "--bad-boxes", "fail", "--exif", "auto"),
        *("--size-mismatch", "ignore", "--unlabelled", "fail"),
    )
    listed = tmp_path / "voc/bad_records.jsonl"
    assert done.stderr.splitlines() == [
        f"1 bad records skipped; listed in {listed}",
        "bad-record-skipped 1: a bad record was skipped (--on-bad-record skip) (such as "
        "Annotations/000009.xml: none of its 1 objects can be read: object 1 'tiger': xmax 23 is "
        "outside width 20)",
        "renamed 2: an object's class was renamed (--rename) (such as cat to tiger)",
    ]
    assert done.returncode == 0
    document = json.loads(done.stdout)
    manifest = manifest_of(tmp_path / "voc")
    assert document.pop("seconds") >= 0
    assert document == {
        "dest": str(tmp_path / "voc"),
        "fingerprint": manifest["fingerprint"],
        "num_bad_records": 1,
        "num_duplicates": 0,
        "num_kept_shards": 0,
        "splits": {"mine": {"num_shards": 2, "num_samples": 2}},
        "classes": ["dog", "cat", "tiger"],
        "boxes": "corners",
        "report": manifest["report"],
    }
    assert manifest["name"] == "odd"
    assert manifest["options"] == {
        "shard_bytes": 2500,
        "seed": 3,
        "on_bad_record": "skip",
        "size_mismatch": "ignore",
        "unlabelled": "fail",
        "boxes": "corners",
        "rename": {"cat": "tiger"},
        "other_classes": "drop",
    }
    again = ("convert", tree, tmp_path / "voc", "--on-existing", "overwrite", "--workers", 1)
    assert run_here(*again)[1].splitlines()[2].startswith("train: 4 samples")


@pytest.mark.slow
def test_verify_says_ok_in_text_and_json(dataset: Path, run_here: Run) -> None:
    text = succeeds("verify", dataset, "--decode", "--workers", 1)
    assert re.fullmatch(rf"{dataset}: ok: 6 samples, 2 shards, {SIZE}\n", text)
    status, text, _ = run_here("verify", dataset, "--format", "json", "--workers", 1)
    document = json.loads(text)
    assert status == 0
    assert document.pop("seconds") >= 0
    assert document == {
        "ok": True,
        "problems": [],
        "num_samples": 6,
        "num_bytes": sum(path.stat().st_size for path in dataset.glob("*.tar")),
        "fingerprint": manifest_of(dataset)["fingerprint"],
    }


@pytest.mark.slow
def test_verify_lists_problems_on_stdout_and_exits_1(
    dataset: Path, tmp_path: Path, run_here: Run
) -> None:
    copy = shutil.copytree(dataset, tmp_path / "voc")
    (copy / "val-000000.tar").unlink()
    problem = f"{copy}/val-000000.tar: there is no such object"
    done = shard_tool("verify", copy, "--workers", 1)
    assert (done.returncode, done.stderr) == (1, "")
    first, last = done.stdout.splitlines()
    assert first == problem
    assert re.fullmatch(rf"{copy}: 1 problems: 4 samples, 2 shards, {SIZE}", last)
    status, text, _ = run_here("verify", copy, "--format", "json", "--workers", 1)
    document = json.loads(text)
    assert (status, document["ok"], document["problems"]) == (1, False, [problem])


@pytest.mark.slow
def test_info_shows_splits_and_classes(dataset: Path) -> None:
    manifest = manifest_of(dataset)
    lines = [line.split() for line in succeeds("info", dataset).splitlines()]
    num_bytes = {name: f"{split['num_bytes']:,}" for name, split in manifest["splits"].items()}
    assert lines[:5] == [
        ["voc2012:", "detection,", "6", "samples"],
        ["fingerprint", manifest["fingerprint"]],
        ["split", "shards", "samples", "bytes", "objects", "difficult"],
        ["train", "1", "4", num_bytes["train"], "8", "4"],
        ["val", "1", "2", num_bytes["val"], "4", "2"],
    ]
    assert ["cat", "8", "4", "(0)", "2", "(0)"] in lines
    assert ["dog", "12", "4", "(4)", "2", "(2)"] in lines


def test_info_as_json_is_the_manifest(dataset: Path, run_here: Run) -> None:
    text = (dataset / "manifest.json").read_text()
    assert run_here("info", dataset, "--format", "json") == (0, text, "")


# Failures -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_failure_is_one_line_and_a_hint_on_stderr(dataset: Path, tree: Path) -> None:
    done = shard_tool("convert", tree, dataset)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"error: {dataset}: already holds a dataset\n\n"
        "hint: use --on-existing overwrite to replace it, or another DEST\n",
    )


@pytest.mark.slow
def test_failure_on_a_record_names_file_object_and_values(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path, [Picture(key="000001", objects=(("cat", (1, 1, 22, 9)),))])
    done = shard_tool("convert", tree, tmp_path / "voc", "--workers", 2)  # through a worker
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "the first problem is below; --dry-run shows all of them at once\n"
        f"error: {tree}/Annotations/000001.xml: object 1 'cat': xmax 22 is outside width 20\n\n"
        "hint: correct the file, or convert with --bad-boxes clip or drop, or with --on-bad-record "
        "skip\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--shard-size", "big"),
            "--shard-size: 'big' is not a size\n\nhint: write 64MiB or 100MB",
        ),
        (("--storage-option", "secret"), "--storage-option: 'secret' is not KEY=VALUE"),
        (("--storage-option", "=x"), "--storage-option: '' is not KEY=VALUE"),
        (("--workers", "0"), "--workers: 0 is below 1"),
        (("--split", "a/b"), "--split: 'a/b' cannot name a list and its shards"),
    ],
)
def test_option_that_cannot_be_used_exits_2(
    tree: Path, tmp_path: Path, run_here: Run, arguments: tuple[str, ...], message: str
) -> None:
    found = run_here("convert", tree, tmp_path / "voc", *arguments)
    assert found == (2, "", f"error: {message}\n")
    assert not (tmp_path / "voc").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("convert",), "SOURCE"),
        (("nosuch",), "nosuch"),
        (("info", "--nosuch", "x"), "--nosuch"),
        (("convert", "a", "b", "--task", "pose"), "--task"),
        (("verify", "x", "--workers", "many"), "--workers"),
    ],
)
def test_usage_error_exits_2_and_shows_the_usage(
    run_here: Run, arguments: tuple[str, ...], named: str
) -> None:
    status, out, message = run_here(*arguments)
    assert (status, out) == (2, "")
    assert "Usage: shard-tool" in message
    assert named in message


def test_storage_options_reach_the_storage(tree: Path, tmp_path: Path, run_here: Run) -> None:
    url = f"file://{tmp_path}/voc"
    status, shown, _ = run_here(
        "convert", tree, url, "--storage-option", "auto_mkdir=1", "--workers", 1
    )
    assert status == 0
    assert f"{url}: done" in shown
    assert (tmp_path / "voc/manifest.json").exists()


def test_unknown_storage_shows_no_secret(tree: Path, run_here: Run) -> None:
    url = "nosuch://me:pass@host/voc?sig=abc"
    status, _, message = run_here("convert", tree, url, "--storage-option", "k=key")
    assert status == 1
    assert message.startswith("error: nosuch://host/voc: cannot be opened: ")
    assert not re.search("pass|sig|abc|=key", message)
