"""A dry run shows every kind of problem on one screen: its count, an example and the way out."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.datasets.all_wrong import KINDS, QUESTIONS, all_wrong
from tests.kit.datasets.pictures import encoded, scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[str | int | None, str, str]]

MOST_LINES = 60
"""What a terminal shows at once."""


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    root = tmp_path_factory.mktemp("wrong") / "set"
    return root, all_wrong(root, 6 * len(KINDS))


@pytest.mark.slow
def test_all_kinds_of_problems_are_on_one_screen(
    wrong: tuple[Path, dict[str, int]], tmp_path: Path, run_here: Run
) -> None:
    source, counts = wrong
    status, screen, _ = run_here("convert", source, tmp_path / "out", "--dry-run", "--workers", 1)
    assert status == 0
    assert not (tmp_path / "out").exists()
    lines = screen.splitlines()
    assert len(lines) < MOST_LINES
    decided = lines[lines.index("to decide:") : lines.index(_title(counts))]
    for question in QUESTIONS:
        assert any(question in line for line in decided), question
    told = lines[lines.index(_title(counts)) + 1 : -2]
    assert len(told) == len(KINDS)
    for name, kind in KINDS.items():
        (line,) = [line for line in told if kind.told in line and kind.way in line]
        assert re.match(rf"  {counts[name]} x {re.escape(str(source))}/\S+: ", line), line
    assert lines[-2] == "add the options that you choose, and look again"


def _title(counts: dict[str, int]) -> str:
    return f"{sum(counts.values())} bad records of {6 * len(KINDS)}, in the way:"


@pytest.mark.slow
def test_second_look_with_the_options_says_what_is_left_out(
    wrong: tuple[Path, dict[str, int]], tmp_path: Path, run_here: Run
) -> None:
    """One look, one correction: the options that it gives are all that is needed."""
    source, counts = wrong
    options = [
        *("--rename", "Dog=dog", "--other-classes", "drop", "--boxes", "devkit"),
        *("--on-bad-record", "skip", "--workers", 1, "--format", "json"),
    ]
    _, looked, _ = run_here("convert", source, tmp_path / "out", "--dry-run", *options)
    look = json.loads(looked)
    assert look["questions"] == []
    status, done, _ = run_here("convert", source, tmp_path / "out", *options)
    assert status == 0
    made: dict[str, Any] = json.loads(done)
    counted, foretold = (
        {code: its["count"] for code, its in its_report["report"].items()}
        for its_report in (made, look)
    )
    assert counted == foretold | {"bad-record-skipped": look["num_bad_records"]}
    assert made["num_bad_records"] == look["num_bad_records"] < sum(counts.values())
    num_good = 6 * len(KINDS) - made["num_bad_records"]
    assert made["splits"]["train"]["num_samples"] == num_good
    assert look["splits"]["train"]["num_samples"] == num_good


def test_a_split_that_would_be_empty_is_told(tmp_path: Path, run_here: Run) -> None:
    images = [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}]
    document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.json").write_text(json.dumps(document))
    (tmp_path / "set" / "other.jpg").write_bytes(encoded(scene(8, 8)))
    options = ("--dry-run", "--on-bad-record", "skip")
    status, screen, _ = run_here("convert", tmp_path / "set", tmp_path / "out", *options)
    lines = screen.splitlines()
    assert status == 0
    assert any(line.startswith("train: 0 samples, ") for line in lines)
    told = "every record of split 'train' is bad; mend its records, or leave the split out"
    assert f"  {tmp_path}/set: {told} by --split" in lines
    assert "add the options that you choose, and look again" in lines
