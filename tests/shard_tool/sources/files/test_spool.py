"""The file that keeps the records of a conversion out of memory."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_tool.errors import StoreError
from shard_tool.sources.files import spool as spool_module
from shard_tool.sources.files.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

CONTENTS = st.lists(st.binary(max_size=40), max_size=20)


@given(CONTENTS, CONTENTS, st.sampled_from([0, 1, 50, 1 << 20]))
def test_strings_come_back_whatever_was_read_between(
    first: list[bytes], second: list[bytes], in_memory: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "_IN_MEMORY_BYTES", in_memory)
        spool = Spool()
    kept = list[tuple[int, bytes]]()
    for some in (first, second):
        kept += [(spool.add(content), content) for content in some]
        assert [spool.read(at, len(content)) for at, content in reversed(kept)] == [
            content for _, content in reversed(kept)
        ]


def test_memory_of_a_spool_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_IN_MEMORY_BYTES", 1 << 20)
    content = bytes(10_000)
    tracemalloc.start()
    spool = Spool()
    spans = [(spool.add(content), len(content)) for _ in range(1000)]
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spool.read(*spans[-1]) == content
    assert held < 1 << 18
    assert peak < 3 << 20  # once, when the strings go from memory to the file


def test_full_disk_of_temporary_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool()

    class Full:
        def seek(self, at: int) -> None: ...

        def write(self, content: bytes) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    spool._file.close()
    full: Any = Full()
    spool._file = full
    monkeypatch.setattr(spool_module.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(StoreError) as caught:
        spool.add(b"record")
    assert str(caught.value) == (
        f"{tmp_path}: cannot keep the annotations there: No space left on device; free some space, "
        "or set TMPDIR"
    )
