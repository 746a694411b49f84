"""`index` refuses unusable options; its command reports what it made, as plain text."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset.index import IndexOptions, index_tars
from shard_tool.errors import OptionError
from tests.kit.datasets.foreign_tars import by_webdataset
from tests.kit.datasets.tars import info, tar_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "action"}, "--task: 'action' is not one of generic, detection, segmentation"),
        ({"on_existing": "ask"}, "--on-existing: 'ask' is not one of fail, resume, overwrite"),
        ({"workers": 0}, "--workers: 0 is below 1"),
        ({"name": ""}, "--name: is empty"),
        ({"split": "a/b"}, "--split: 'a/b' cannot name shards"),
        ({"shards": ()}, "SHARDS: there are none"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        index_tars(IndexOptions(**({"shards": ("a.tar",), "dest": "out"} | options)))
    assert str(caught.value) == message


def test_unknown_engine_is_refused_with_the_options() -> None:
    with pytest.raises(OptionError, match="--engine: 'slurm' is no engine; give 'local'"):
        IndexOptions(shards=("a.tar",), dest="out", engine="slurm")


def test_index_command_reports_what_it_made(
    run_here: Any, shards: list[Path], tmp_path: Path
) -> None:
    status, out, err = run_here(
        "index", tmp_path / "shards/*.tar", tmp_path / "out", "--workers", 1
    )
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("train: 11 samples, 3 shards, ")
    assert lines[1] == "  samples with: jpg 5, txt 11"
    assert lines[2].startswith(f"{tmp_path / 'out'}: done in ")
    arguments = [*shards, tmp_path / "out2", "--split", "val", "--format", "json", "--workers", 1]
    status, out, _ = run_here("index", *arguments)
    document = json.loads(out)
    assert document["splits"]["val"] == {
        "num_shards": 3,
        "num_samples": 11,
        "members": {"jpg": 5, "txt": 11},
    }
    status, out, err = run_here("index", *shards, tmp_path / "out")
    assert (status, out) == (1, "")
    assert err == (
        f"error: {tmp_path / 'out'}: already holds a dataset\n\n"
        "hint: use --on-existing overwrite to replace it, or another DEST\n"
    )


def test_a_tar_cannot_write_to_the_terminal(run_here: Any, tmp_path: Path) -> None:
    """Extensions, keys and classes are printed as text: no escape sequence, no line break."""
    hostile = "x\x1b[31m\nerror\x9b"
    shard = tmp_path / "a.tar"
    shard.write_bytes(tar_of([info(f"a.{hostile}", 3), info("a.[red]", 3)], tarfile.PAX_FORMAT))
    index = ("index", shard, tmp_path / "out", "--workers", 1)
    said = [run_here(*index), run_here("info", tmp_path / "out")]
    json_of = b'{"key": "other\\u001b"}'
    key = "k\x1b[31m"
    bad = by_webdataset(tmp_path / "b\x1b[31m.tar", {key: {"jpg": b"", "json": json_of}})
    said += [run_here("index", bad, tmp_path / "out2", "--task", "detection", "--workers", 1)]
    for status, (_, out, err) in zip((0, 0, 1), said, strict=True):
        assert "\x1b" not in out + err
        assert "\x9b" not in out + err
        assert "\nerror\x9b" not in out + err, status
    assert r"x\x1b[31m\nerror\x9b 1" in said[0][1]
    assert r"x\x1b[31m\nerror\x9b" in said[1][1]
    assert "[red]" in said[1][1]
