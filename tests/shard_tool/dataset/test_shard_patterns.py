"""Patterns name the tars to index, in the order of the arguments."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import OptionError, ShardError
from tests.kit.datasets.foreign_tars import adopted, entries_of

if TYPE_CHECKING:
    from pathlib import Path


def test_patterns_expand_in_the_order_of_the_arguments(shards: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    for number in (0, 1):
        shutil.copy(shards[number], folder / f"x{number}.tar")
    shutil.copy(shards[0], folder / "odd{1..2}[x]*.tar")
    patterns = [
        folder / "x?.tar",
        folder / "part-{002,000}.tar",
        folder / "odd{1..2}[x]*.tar",
        folder / "*01.tar",
    ]
    adopted(patterns, tmp_path / "out")
    names = [
        "x0.tar",
        "x1.tar",
        "part-002.tar",
        "part-000.tar",
        "odd{1..2}[x]*.tar",
        "part-001.tar",
    ]
    assert [entry.url for entry in entries_of(tmp_path / "out")] == [
        f"../shards/{n}" for n in names
    ]


@pytest.mark.slow
def test_alternative_ranges_are_not_multiplied(shards: list[Path], tmp_path: Path) -> None:
    """Two ranges of 2000 names are 4000 names, of which two exist, not four million."""
    folder = tmp_path / "shards"
    for name in ("a0007.tar", "b0007.tar"):
        shutil.copy(shards[0], folder / name)
    with pytest.raises(ShardError, match=r"3998 of 4000 shards cannot be indexed"):
        adopted([f"{folder}/{{a{{0000..1999}},b{{0000..1999}}}}.tar"], tmp_path / "out")


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        pytest.param(["no-?*.tar"], r"shards '.*/no-\?\*\.tar': match nothing", id="nothing"),
        pytest.param(
            ["part-*.tar", "part-00{1,5}.tar"],
            r"shard '../shards/part-001\.tar': is named twice, by '.*\*\.tar' and by '.*1,5}\.tar'",
            id="twice",
        ),
        pytest.param(
            ["part-{000,000}.tar"], r"is named twice, by '[^']*000,000}\.tar';", id="twice by one"
        ),
        pytest.param(
            ["x-{0..99999999}.tar"],
            r"shards '.*/x-\{0\.\.99999999\}\.tar': are 100000000, more than 1000000; index",
            id="a hundred million",
        ),
        pytest.param(["x-{9000000..-9..10}{0..9}.tar"], "are 9000010, more than", id="downwards"),
        pytest.param(["x{{0..9999}-{0..9999},y}"], "are 100000001, more than", id="a product"),
        pytest.param(["part-{0.tar"], "braces do not pair up", id="braces"),
        pytest.param([""], r"is a folder; give its shards: .*/\*\.tar", id="folder"),
    ],
)
def test_pattern_that_matches_nothing_or_repeats_a_shard_is_an_error(
    shards: list[Path], tmp_path: Path, patterns: list[str], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        adopted([f"{tmp_path}/shards/{pattern}" for pattern in patterns], tmp_path / "out")
    assert not (tmp_path / "out").exists()
