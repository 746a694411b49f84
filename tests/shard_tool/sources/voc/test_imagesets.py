"""The lists of ImageSets, compared with a slow and obvious parser."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shard_tool.sources.voc.imagesets import parse_ids, sorted_ids


@given(st.lists(st.from_regex(r"[0-9A-Za-z_]{1,9}", fullmatch=True)))
def test_sorted_ids_are_the_ids_sorted(ids: list[str]) -> None:
    content = "".join(f"{key}  1\r\n\n" for key in ids).encode()
    expected = sorted(parse_ids(content, place="list"))
    assert [key.decode() for key in sorted_ids(content, place="list").tolist()] == expected
