"""A look at a source keeps counts and examples, however much is wrong with it."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

from shard_tool import ConvertOptions
from shard_tool.convert import look as look_module
from shard_tool.convert.look import look
from tests.kit.datasets.voc_tree import pictures, voc_tree

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_ERROR_BYTES = 200_000


def test_memory_of_a_look_does_not_grow_with_the_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 60 tasks has an error of 200 kB: few of them exist at a time."""

    def bad(rules: object, files: object, task: Any) -> dict[str, Any]:
        error = f"{task.split}: {'x' * _ERROR_BYTES}"
        bad = {"key": "1", "split": "train", "error": error, "hint": ""}
        its: dict[str, Any] = {"split": task.split, "num_records": len(task.records)}
        return its | {"bad_records": [bad], "notes": {}, "objects": {}, "counts": {}}

    monkeypatch.setattr(look_module, "check_records", bad)
    monkeypatch.setattr(look_module, "_AT_A_TIME", 1)
    tree = voc_tree(tmp_path, pictures(60))
    options = ConvertOptions(source=str(tree), dest="unused", workers=1)
    tracemalloc.start()
    found = look(options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [problem.count for problem in found.problems.values()] == [60]
    assert peak < 20 * _ERROR_BYTES
