"""`benchmarks/pixels.py` and `loaders.py` at toy size: figures, bounds and comparisons."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import contenders, instances, loaders, measure, pixels
from benchmarks.data import Size, make_data
from benchmarks.harness import Row
from benchmarks.pixels_contenders import Contender

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.harness import Job


@pytest.fixture
def run_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run a script's `main` with these arguments; return the JSON that it wrote."""

    def run(script: Any, *arguments: str) -> dict[str, Any]:
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", ["script", "--toy", "--out", str(out), *arguments])
        script.main()
        written: dict[str, Any] = json.loads(next(out.glob("*.json")).read_text())
        return written

    return run


@pytest.mark.slow
def test_pixels_measures_every_kind_on_one_core_and_two(
    run_main: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "_LONG_S", 0.02)
    found = run_main(pixels, "--only", "ssd,segmentation,resize 300,resize alone")

    own = {"torchvision after decode_jpeg", "torchvision after Pillow"}
    for rates in found["samples_per_s"].values():
        for kind in ("ssd", "segmentation"):
            assert {kind, *(f"{kind}, {name}" for name in own)} <= rates.keys()
        assert all(rate > 0 for rate in rates.values())
    assert "one core" in found["samples_per_s"]
    assert (
        0 < found["bounds"]["resize 300 / decoding alone: 1 / (1 + decode rate / resize rate)"] < 1
    )
    assert found["verdicts"] == []  # a toy decides nothing


@pytest.mark.slow
def test_instances_compares_each_recipe_with_the_faster_of_torchvisions_decoders(
    run_main: Callable[..., dict[str, Any]],
) -> None:
    found = run_main(instances)
    assert found["ratios"].keys() == {"flip and resize", "ssdlite", "ssd"}
    assert found["objects"] > found["pictures"]
    for recipe, ratio in found["ratios"].items():
        others = [us for name, us in found["cpu_us"].items() if name.startswith(f"{recipe}, torch")]
        assert ratio == pytest.approx(min(others) / found["cpu_us"][f"{recipe}, ours"])


def test_pixels_compares_with_the_fastest_of_torchvisions_own_decoders() -> None:
    rates = {
        "decode": 1000.0,
        "ssd": 600.0,
        "ssd, torchvision after decode_jpeg": 40.0,
        "ssd, torchvision on Pillow's": 50.0,
        "ssd, torchvision after our decoder": 60.0,
    }
    found = {verdict.what: verdict.found for verdict in pixels.verdicts(rates, "one core")}
    assert found == {
        "one core: ssd / torchvision on Pillow's": 12.0,
        "one core: ssd / decoding alone": 0.6,
    }


def test_pixels_bound_adds_the_times_of_both_steps() -> None:
    # 1 ms to decode and 0.25 ms to resize: 800 a second at most
    (found,) = pixels.bounds({"decode": 1000.0, "resize alone": 4000.0}).values()
    assert found == pytest.approx(0.8)


def test_pixels_fails_if_a_process_failed() -> None:
    def fails(_: object) -> None:
        raise ValueError

    with pytest.raises(RuntimeError, match="a process failed"):
        pixels.timed(Contender(fails, [1, 2, 3]), 1)


@pytest.mark.slow
def test_loaders_writes_a_row_for_each_loader(
    run_main: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Measurements run in this process: a process for each would import for seconds."""
    names = ("ours", "loose", "webdataset")
    for name in names:
        monkeypatch.setattr(contenders.load(name), "BATCH", 2)

    def in_this_process(jobs: Sequence[Job], runs: int) -> list[Row]:
        rows = []
        for job in jobs:
            arguments = [job.case, job.contender, str(job.data), *job.options]
            monkeypatch.setattr(sys, "argv", ["measure", *arguments])
            measure.main()
            rows.append(Row(job.label, runs=[json.loads(capsys.readouterr().out)] * runs))
        return rows

    monkeypatch.setattr(loaders, "in_turns", in_this_process)
    make_data(tmp_path / "toy", Size(copies=0, drawn=40, shard_bytes=1 << 18))
    found = run_main(loaders, "--only", *names, "--seconds", "0.01", "--data", str(tmp_path))

    summaries = {row["label"]: row["summary"] for row in found["rows"]}
    assert summaries.keys() == set(names)
    for summary in summaries.values():
        assert summary["num_samples"]["median"] >= 4
        assert 0 < summary["boxes_per_picture"]["median"] < 10
        assert summary["samples_per_s"]["median"] > 0
    text = (tmp_path / "out/loaders.md").read_text()
    assert all(f"| {name} |" in text for name in names)


def test_loaders_compares_with_the_best_peer() -> None:
    def row(label: str, rate: float) -> Row:
        return Row(label, runs=[{"samples_per_s": rate}])

    rows = [row("ours", 900.0), row("litdata", 90.0), row("webdataset", 100.0), row("DALI", 800.0)]
    (verdict,) = loaders.verdicts(rows, ["litdata", "webdataset", "mosaic"])
    assert (verdict.what, verdict.found) == ("ours / best peer (webdataset)", 9.0)
    assert verdict.is_met
