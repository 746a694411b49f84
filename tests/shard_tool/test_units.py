"""Sizes are parsed with their units, and times are formatted for people."""

from __future__ import annotations

import pytest

from shard_tool.errors import OptionError
from shard_tool.units import human_seconds, parse_size


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        *(("64MiB", 67_108_864), ("100MB", 100_000_000), ("4096", 4096), ("1 KiB", 1024)),
        *(("0.5GiB", 536_870_912), ("2tb", 2 * 10**12), (" 7B ", 7)),
    ],
)
def test_size_is_read_with_its_unit(text: str, num_bytes: int) -> None:
    assert parse_size(text, "--shard-size") == num_bytes


@pytest.mark.parametrize("text", ["", "MiB", "-1MB", "1e3", "64 M iB", "1,5MB", "64MiBs"])
def test_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_size(text, "--shard-size")
    assert str(caught.value) == f"--shard-size: {text!r} is not a size; write 64MiB or 100MB"


def test_times_are_no_finer_than_an_estimate_is() -> None:
    assert [human_seconds(s) for s in (0.2, 89, 91, 5000, 7300, 200_000)] == [
        *("1 s", "89 s", "2 min", "83 min", "2 h 1 min", "2 d 7 h")
    ]
