"""Fuzzes conversion: it gives exactly what a composition wrote down, or says what is in the way.

300 compositions run in the suite, always the same ones. A night's run takes others each time:

    VOC_COMPOSITIONS=10000 python -m pytest -o faulthandler_timeout=0 THIS_FILE

A failure prints the smallest composition that shows it, and the `@reproduce_failure` to add.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from PIL import Image

from shard_tool import ConvertOptions, convert
from shard_tool.convert.look import Look, kind_of, look
from shard_tool.convert.rules import Choices
from shard_tool.dataset.verify import verify
from shard_tool.errors import ShardToolError
from shard_tool.format.sample import parse_sample
from shard_tool.sources.classes import ClassOptions
from shard_tool.storage.location import Folder
from tests.kit.datasets.composed_files import files_of, picture, pixels_of, turned, written
from tests.kit.datasets.composed_truth import ExpectedSample, Truth, truth_of
from tests.kit.datasets.compositions import Composition, compositions
from tests.kit.datasets.converted import manifest_of, samples_of

if TYPE_CHECKING:
    from shard_tool import ConvertReport

COUNT = int(os.environ.get("VOC_COMPOSITIONS", "0"))
MOST_LEVELS = 8
"""A JPEG that was turned and encoded again may differ by so much, on average."""


@pytest.mark.slow
@pytest.mark.timeout(0 if COUNT else 300)
@settings(
    max_examples=COUNT or 300,
    derandomize=not COUNT,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(compositions())
def test_conversion_gives_what_was_written_down(composition: Composition) -> None:
    truth = truth_of(composition)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        options = _options(composition, written(composition, root), root / "dataset")
        try:
            report = convert(options)
        except ShardToolError as exc:
            note(f"refused: {exc}")
            _check_refused(composition, truth, exc, options)
        else:
            assert not truth.refusals, "it should have been refused"
            _check_dataset(truth, report, root / "dataset")
            _check_look(report, look(options))


def _options(composition: Composition, source: Path, dest: Path) -> ConvertOptions:
    return ConvertOptions(
        source=str(source),
        dest=str(dest),
        workers=1,
        choices=Choices(**composition.choices),  # type: ignore[arg-type]
        classes=ClassOptions(**composition.classes),
        **composition.options,
    )


def _check_refused(
    composition: Composition, truth: Truth, exc: ShardToolError, options: ConvertOptions
) -> None:
    message = str(exc)
    assert truth.refusals, "it should have been converted"
    assert any(text in message for texts in truth.refusals for text in texts), (
        message,
        truth.refusals,
    )
    names = [*files_of(composition), str(options.source)]
    assert re.search(r"--[a-z]", message) or any(name in message for name in names)
    try:
        found = look(options)
    except ShardToolError as its:
        assert (its.place, its.problem) == (exc.place, exc.problem)  # noqa: PT017
        return
    asked = {(its.place, its.problem) for its in found.plan.questions}
    if "every record of split" in exc.problem:
        assert found.problems
    elif (exc.place, exc.problem) not in asked:
        kind = kind_of(f"{exc.place}: {exc.problem}".partition(": ")[2])
        assert kind in {its for its, _ in found.problems}


def _check_dataset(truth: Truth, report: ConvertReport, folder: Path) -> None:
    manifest = manifest_of(folder)
    assert list(manifest["splits"]) == list(truth.splits)
    for split, expected in truth.splits.items():
        samples = samples_of(folder, split)
        assert samples.keys() == expected.keys()
        for key, its in expected.items():
            _check_sample(key, samples[key], its)
        labels = Counter(name for its in expected.values() for name, *_ in its.objects)
        assert manifest["splits"][split]["objects"] == labels
    counted = {code: its["count"] for code, its in manifest.get("report", {}).items()}
    assert counted == +truth.report
    assert manifest["num_bad_records"] == truth.num_bad
    assert sum("object" in bad for bad in report.bad_records) == truth.num_dropped
    assert verify(Folder(str(folder)), decode=True, workers=1).problems == ()


def _check_sample(key: str, members: dict[str, bytes], expected: ExpectedSample) -> None:
    assert members.keys() == {"json", expected.extension}
    sample = parse_sample(members["json"], place=key)
    assert sample.key == key
    assert sample.file == expected.file
    assert (sample.width, sample.height) == expected.size
    assert sample.orientation == expected.orientation
    assert sample.image_sets == expected.image_sets
    found = [(item.name, item.label, item.bbox, item.difficult) for item in sample.objects]
    assert found == list(expected.objects)
    content, shot = members[expected.extension], expected.shot
    if (expected.extension == "png" and shot.format != "PNG") or expected.is_turned:
        pixels = pixels_of(shot.format, shot.wh, shot.shade)
        if expected.is_turned:
            pixels = turned(pixels, shot.orientation)
        _check_pixels(content, pixels, is_exact=shot.format != "JPEG")
    else:
        assert content == picture(shot)


def _check_pixels(content: bytes, expected: np.ndarray, *, is_exact: bool) -> None:
    with Image.open(io.BytesIO(content)) as image:
        assert image.getexif().get(0x0112, 1) == 1
        found = np.asarray(image.convert("RGB" if expected.ndim == 3 else "L"), float)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() <= (0 if is_exact else MOST_LEVELS)


def _check_look(report: ConvertReport, found: Look) -> None:
    """A dry run foretells what the conversion did."""
    manifest = report.manifest
    assert found.num_bad == manifest.num_bad_records
    assert bool(found.problems) == bool(report.bad_records) or not found.num_bad
    told: dict[str, Any] = dict(manifest.report)
    told.pop("bad-record-skipped", None)
    assert found.report.as_json().keys() == told.keys()
    assert {code: its["count"] for code, its in found.report.as_json().items()} == {
        code: its["count"] for code, its in told.items()
    }
    assert found.objects == {name: split.objects for name, split in manifest.splits.items()}
