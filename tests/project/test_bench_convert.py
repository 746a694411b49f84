"""`benchmarks/convert.py` at toy size: every case runs, and archives hold what they claim."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.devkits import INNER, DevkitSize, make_devkit
from shard_tool import ConvertOptions, convert

if TYPE_CHECKING:
    from benchmarks.devkits import Devkit

ROOT = Path(__file__).parents[2]


def files_of(devkit: Devkit) -> dict[str, bytes]:
    """Read every file below the year's folder; `tarfile` checks the sum of every header."""
    with tarfile.open(devkit.path, errorlevel=2) as tar:
        found = {member.name: tar.extractfile(member) for member in tar}
        assert all(found.values())
        return {name.removeprefix(f"{INNER}/"): file.read() for name, file in found.items() if file}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiny", "photographs"])
def test_archive_holds_distinct_records_and_their_lists(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOC_SAMPLE_DIR", raising=False)
    devkit = make_devkit(tmp_path, DevkitSize(kind=kind, num_pictures=31, drawn=12))

    files = files_of(devkit)

    pictures = [files[name] for name in files if name.endswith(".jpg")]
    annotations = [name for name in files if name.startswith("Annotations/")]
    train, val, trainval = (
        files[f"ImageSets/Main/{split}.txt"].decode().split()
        for split in ("train", "val", "trainval")
    )
    assert len(set(pictures)) == len(pictures) == len(annotations) == 31
    assert sorted(train + val) == trainval == sorted(Path(name).stem for name in annotations)
    assert devkit.path.stat().st_size == devkit.facts.num_bytes


@pytest.mark.parametrize("kind", ["tiny", "photographs"])
def test_archive_converts_whole(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOC_SAMPLE_DIR", raising=False)
    devkit = make_devkit(tmp_path, DevkitSize(kind=kind, num_pictures=31, drawn=12))

    report = convert(ConvertOptions(source=str(devkit.path), dest=f"{tmp_path}/voc", workers=1))

    splits = report.manifest.splits
    assert {name: split.num_samples for name, split in splits.items()} == {"train": 16, "val": 15}


def test_archive_is_made_once(tmp_path: Path) -> None:
    size = DevkitSize(kind="tiny", num_pictures=5)
    first = make_devkit(tmp_path, size)
    first.path.write_bytes(b"kept")
    assert make_devkit(tmp_path, size) == first
    assert first.path.read_bytes() == b"kept"


@pytest.mark.slow  # twenty commands, of which some import torch
@pytest.mark.timeout(900)
def test_toy_run_measures_every_case(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/convert.py", "--toy", "--data", f"{tmp_path}/data"]
    done = subprocess.run(
        [*command, "--out", f"{tmp_path}/out"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("out/*.json")}
    assert set(found) == {f"convert-{c}" for c in ("script", "copy", "scaling", "memory", "scale")}
    rows = {name: {row["label"]: row for row in of["rows"]} for name, of in found.items()}
    assert not [row["errors"] for of in rows.values() for row in of.values() if row["errors"]]
    # both contenders write the same pictures
    ours, script = (rows["convert-script"][name]["runs"][0] for name in ("ours", "script"))
    assert ours["written_bytes"] == pytest.approx(script["written_bytes"], rel=0.1)
    # both kinds of processes were seen
    for row in rows["convert-memory"].values():
        assert row["runs"][0]["worker"]["processes"] == 2
        assert row["runs"][0]["worker"]["peak_bytes"] > 10 << 20
        assert row["runs"][0]["coordinator"]["peak_bytes"] > 10 << 20
    # no measurement leaves files behind
    assert not list(tmp_path.glob("data/**/dest-*"))
