"""A stream read by offset, compared with the same bytes in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_tool.sources.files.forward_reader import ForwardReader


@given(
    st.lists(st.binary(max_size=40), max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12),
)
def test_stream_read_forwards_gives_what_a_file_gives(
    parts: list[bytes], asked: list[tuple[int, int]]
) -> None:
    whole, seen = b"".join(parts), list[bytes]()
    reader = ForwardReader(iter(parts), seen.append)
    for offset, length in sorted(asked):
        assert reader(offset, length) == whole[offset : offset + length]
    reader.drain()
    assert b"".join(seen) == whole
    assert reader.num_bytes == len(whole)


def test_stream_does_not_go_back() -> None:
    reader = ForwardReader(iter([b"abc", b"def", b"ghi"]), lambda _: None)
    assert reader(7, 1) == b"h"
    with pytest.raises(ValueError, match="byte 0 has passed"):
        reader(0, 1)
