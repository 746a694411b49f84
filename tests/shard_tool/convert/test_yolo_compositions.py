"""Fuzzes the reader of YOLO: it gives exactly what was written down, or says what is in the way.

200 compositions run in the suite, always the same ones. A night's run takes others each time:

    YOLO_COMPOSITIONS=10000 python -m pytest -o faulthandler_timeout=0 THIS_FILE
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from shard_tool import ConvertOptions, convert
from shard_tool.convert.look import look
from shard_tool.convert.rules import Choices
from shard_tool.dataset.verify import verify
from shard_tool.errors import ShardToolError
from shard_tool.format.sample import parse_sample
from shard_tool.storage.location import Folder
from tests.kit.datasets.composed_files import packed
from tests.kit.datasets.converted import manifest_of, samples_of
from tests.kit.datasets.yolo_compositions import Composition, compositions, files_of, picture
from tests.kit.datasets.yolo_truth import ExpectedSample, Truth, truth_of

if TYPE_CHECKING:
    from shard_tool import ConvertReport

SKIPPED = "bad-record-skipped"
COUNT = int(os.environ.get("YOLO_COMPOSITIONS", "0"))
SETTINGS = settings(
    max_examples=COUNT or 200,
    derandomize=not COUNT,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _options(composition: Composition, source: Path, dest: Path) -> ConvertOptions:
    return ConvertOptions(
        source=str(source),
        dest=str(dest),
        workers=1,
        choices=Choices(**composition.choices),  # type: ignore[arg-type]
        **composition.options,
    )


@pytest.mark.slow
@pytest.mark.timeout(0 if COUNT else 300)
@SETTINGS
@given(compositions())
def test_conversion_gives_what_was_written_down(composition: Composition) -> None:
    truth = truth_of(composition)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = packed(files_of(composition), root, composition.packing)
        options = _options(composition, source, root / "dataset")
        try:
            report = convert(options)
        except ShardToolError as exc:
            note(f"refused: {exc}")
            _check_refused(composition, truth, str(exc), str(source))
        else:
            assert not truth.refusals, "it should have been refused"
            _check_dataset(truth, report, root / "dataset")
            told = {code: its["count"] for code, its in look(options).report.as_json().items()}
            assert told == {c: n for c, n in truth.report.items() if n and c != SKIPPED}


def _check_refused(composition: Composition, truth: Truth, told: str, source: str) -> None:
    assert truth.refusals, "it should have been converted"
    assert any(text in told for text in truth.refusals), truth.refusals
    names = [*files_of(composition), source]
    assert re.search(r"--[a-z]", told) or any(name in told for name in names)


def _check_dataset(truth: Truth, report: ConvertReport, folder: Path) -> None:
    manifest = manifest_of(folder)
    assert list(manifest["splits"]) == list(truth.splits)
    for split, expected in truth.splits.items():
        samples = samples_of(folder, split)
        assert samples.keys() == expected.keys()
        for key, its in expected.items():
            _check_sample(key, samples[key], its)
    counted = {code: its["count"] for code, its in manifest.get("report", {}).items()}
    assert counted == +truth.report
    assert manifest["num_bad_records"] == truth.num_bad
    assert sum("object" in bad for bad in report.bad_records) == truth.num_dropped
    assert verify(Folder(str(folder)), decode=True, workers=1).problems == ()


def _check_sample(key: str, members: dict[str, bytes], expected: ExpectedSample) -> None:
    sample = parse_sample(members.pop("json"), place=key)
    assert (sample.key, sample.file) == (key, expected.file)
    assert (sample.width, sample.height) == expected.size
    assert sample.orientation == expected.orientation
    assert len(sample.objects) == len(expected.objects)
    for item, (name, label, box, polygon) in zip(sample.objects, expected.objects, strict=True):
        assert (item.name, item.label) == (name, label)
        assert item.bbox == pytest.approx(box, abs=1.5e-9)
        assert (item.polygons is None) == (polygon is None)
        if polygon is not None and item.polygons is not None:
            assert [*item.polygons[0]] == pytest.approx([*polygon], abs=1.5e-9)
    (content,) = members.values()
    assert expected.is_baked or content == picture(expected.shot)


@pytest.mark.slow
@pytest.mark.timeout(0 if COUNT else 300)
@SETTINGS
@given(compositions(), st.integers(0, 2**32))
def test_damaged_text_is_read_or_refused(composition: Composition, seed: int) -> None:
    """Whatever its text files hold, a source becomes a sound dataset or a clean error."""
    files, random = files_of(composition), Random(seed)
    names = [name for name in files if name.endswith((".txt", ".yaml", ".data", ".names"))]
    for name in random.sample(names, min(2, len(names))):
        files[name] = _damaged(files[name], random)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = packed(files, root, "folder")
        options = _options(composition, source, root / "dataset")
        try:
            convert(options)
        except ShardToolError as exc:
            note(f"refused: {exc}")
        else:
            assert verify(Folder(str(root / "dataset")), decode=True, workers=1).problems == ()


DAMAGE = (
    *(b"nan", b"-", b":", b"\t", b"\0", b"\xff", b"\xff\xfe", b"&a *a", b"[", b"1e999", b","),
    *(b"\n", b"#", b"..", b"/", b"'", b"%", b"{", b"- ", b"0", b"\xc3\xa9"),
)


def _damaged(content: bytes, random: Random) -> bytes:
    """Text with a few parts cut out, repeated or spoilt."""
    for _ in range(random.randint(1, 3)):
        at = random.randint(0, len(content))
        stop = min(len(content), at + random.choice((0, 1, 1, 5, 40)))
        part = random.choice((b"", content[at:stop] * 2, random.choice(DAMAGE)))
        content = content[:at] + part + content[stop:]
    return content
