"""`shard-tool export` says what it wrote, what was lost, and how to convert it again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.kit.datasets.exports import dataset_of, sample_of, thing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPLITS = {"train": [sample_of("a", thing(difficult=True))], "val": [sample_of("b"), sample_of("c")]}


def test_the_text_result(tmp_path: Path, run_here: Callable[..., Any]) -> None:
    dataset, out = dataset_of(tmp_path / "set", SPLITS), tmp_path / "my out"
    status, text, _ = run_here("export", dataset, out, "--format", "coco", "--pictures")
    assert status == 0
    *lines, written, again = text.splitlines()
    assert lines == [
        "train: 1 samples, 1 objects, image ids numbered",
        "val: 2 samples, 0 objects, image ids numbered",
        "what coco cannot hold:",
        "  difficult-lost 1: an object is difficult, and the format cannot say it (such as "
        f"{dataset}/train-000000.tar: a)",
    ]
    assert written.startswith(f"{out}: annotations and pictures written in ")
    assert again == f"converted again by: shard-tool convert '{out}' DEST"
    status, text, _ = run_here("export", dataset, tmp_path / "bare", "--format", "coco")
    assert "converted again" not in text  # without pictures it cannot


def test_the_command_that_is_shown_makes_the_same_samples(
    tmp_path: Path, run_here: Callable[..., Any]
) -> None:
    dataset, out = dataset_of(tmp_path / "set", SPLITS), tmp_path / "out"
    _, text, _ = run_here("export", dataset, out, "--format", "voc", "--pictures")
    again = text.splitlines()[-1].partition(": ")[2]
    assert again == f"shard-tool convert {out} DEST --classes 'cat,big dog'"
    words = ["convert", out, tmp_path / "again", "--classes", "cat,big dog"]
    assert run_here(*words)[0] == 0
    manifest = json.loads((tmp_path / "again/manifest.json").read_text())
    assert [its["name"] for its in manifest["classes"]] == ["cat", "big dog"]


def test_the_result_as_json(tmp_path: Path, run_here: Callable[..., Any]) -> None:
    dataset, out = dataset_of(tmp_path / "set", SPLITS), tmp_path / "out"
    words = ["export", dataset, out, "--format", "yolo", "--split", "val", "--split", "train"]
    status, text, _ = run_here(*words, "--output-format", "json")
    document = json.loads(text)
    assert status == 0
    assert document.pop("seconds") >= 0
    example = f"{dataset}/train-000000.tar: a"
    assert document == {
        "out": str(out),
        "format": "yolo",
        "pictures": False,
        "splits": {
            "train": {"num_samples": 1, "num_objects": 1},
            "val": {"num_samples": 2, "num_objects": 0},
        },
        "report": {"difficult-lost": {"count": 1, "examples": [example]}},
        "convert_options": [],
    }


def test_errors_have_their_status(tmp_path: Path, run_here: Callable[..., Any]) -> None:
    dataset, out = dataset_of(tmp_path / "set", SPLITS), tmp_path / "out"
    words = ["export", dataset, out, "--format", "coco"]
    assert run_here(*words, "--split", "test")[0] == 2
    assert run_here(*words)[0] == 0
    status, _, said = run_here(*words)
    assert status == 1
    assert said == (
        f"error: {out}: holds an export\n\nhint: add --on-existing overwrite to replace it\n"
    )
    assert run_here(*words, "--on-existing", "overwrite")[0] == 0
    assert run_here("export", dataset, out)[0] == 2  # no format
