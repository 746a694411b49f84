"""Fuzzes the conversion of COCO JSON: it gives what was written down, or says what is in the way.

The same compositions run in the suite each time. A night's run takes others each time:

    VOC_COMPOSITIONS=10000 python -m pytest -o faulthandler_timeout=0 THIS_FILE
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from shard_tool import ConvertOptions, convert
from shard_tool.convert.look import look
from shard_tool.convert.rules import Choices
from shard_tool.dataset.verify import verify
from shard_tool.errors import ShardToolError
from shard_tool.storage.location import Folder
from tests.kit.datasets.coco_compositions import (
    CocoComposition,
    coco_compositions,
    files_of,
    json_of,
    pictures_of,
    truth_of,
)
from tests.kit.datasets.coco_files import written
from tests.kit.datasets.wild import counted, documents

COUNT = int(os.environ.get("VOC_COMPOSITIONS", "0"))
FIELDS = ("name", "label", "bbox", "polygons", "rle", "crowd", "raw")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if COUNT else 300)]
fuzzed = settings(
    max_examples=COUNT or 150,
    derandomize=not COUNT,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def options_of(composition: CocoComposition, root: Path) -> ConvertOptions:
    return ConvertOptions(
        source=str(root / "in"),
        dest=str(root / "out"),
        workers=1,
        on_bad_record="skip" if composition.skips else "fail",
        choices=Choices(bad_boxes=composition.bad_boxes),  # type: ignore[arg-type]
    )


@fuzzed
@given(coco_compositions())
def test_conversion_gives_what_was_written_down(composition: CocoComposition) -> None:
    truth = truth_of(composition)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        written(root / "in", files_of(composition), pictures_of(composition))
        options = options_of(composition, root)
        try:
            report = convert(options)
        except ShardToolError as exc:
            note(f"refused: {exc}")
            message = str(exc)
            assert any(text in message for text in truth.refusals), (message, truth.refusals)
            return
        assert not truth.refusals, f"it should have been refused: {truth.refusals}"
        for split, samples in truth.samples.items():
            assert documents_of(root / "out", split) == samples
        assert counted(root / "out") == {code: n for code, n in truth.report.items() if n}
        assert verify(Folder(str(root / "out")), decode=True, workers=1).problems == ()
        found = look(options)
        assert found.num_bad == report.manifest.num_bad_records
        foretold = {code: its["count"] for code, its in found.report.as_json().items()}
        skipped = truth.report["bad-record-skipped"]
        foretold |= {"bad-record-skipped": skipped} if skipped else {}
        assert foretold == counted(root / "out")


def documents_of(dest: Path, split: str) -> dict[str, dict[str, Any]]:
    """Key to what the truth tells of a sample."""
    return {
        key: {
            "file": its["file"],
            "raw": its["raw"],
            "objects": [
                {name: one[name] for name in FIELDS if name in one} for one in told(its["objects"])
            ],
        }
        for key, its in documents(dest, split).items()
    }


def told(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Objects without the ids that only their order tells."""
    return [
        {**one, "raw": {name: its for name, its in one["raw"].items() if name != "id"}}
        for one in objects
    ]


# Whatever a file holds ----------------------------------------------------------------------------

_scalars = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 12), st.integers(), st.text(max_size=3)),
    st.floats(allow_nan=False),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=8,
)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each value in a document."""
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else pairs:
        found += places_in(inner, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> tuple[CocoComposition, dict[str, bytes]]:
    """A composition whose files have other values in some places, and perhaps other bytes."""
    composition, files = draw(coco_compositions()), dict[str, bytes]()
    for split, (word, _) in composition.splits.items():
        document = copy.deepcopy(json_of(composition, split))
        for _ in range(draw(st.integers(1, 3))):
            *above, last = draw(st.sampled_from(places_in(document)))
            inner: Any = document
            for key in above:
                inner = inner[key]
            if draw(st.integers(0, 3)) or isinstance(inner, list):
                inner[last] = draw(_values)
            else:
                del inner[last]
        content = json.dumps(document).encode()
        if draw(st.integers(0, 3)) == 0:
            at, count = draw(st.integers(0, len(content))), draw(st.integers(0, 5))
            content = content[:at] + draw(st.binary(max_size=4)) + content[at + count :]
        files[composition.layout[0].format(word)] = content
    return composition, files


@fuzzed
@given(mutated())
def test_any_file_is_converted_or_refused_with_a_word(
    its: tuple[CocoComposition, dict[str, bytes]],
) -> None:
    composition, files = its
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        written(root / "in", files, pictures_of(composition))
        try:
            convert(options_of(composition, root))
        except ShardToolError as exc:
            note(f"refused: {exc}")
            return
        assert verify(Folder(str(root / "out")), decode=True, workers=1).problems == ()
