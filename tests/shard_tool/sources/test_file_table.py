"""The table of a devkit's files, compared with a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from shard_tool.sources.voc.file_table import FileTable, FileTableBuilder

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=("Cs",)),
    min_size=1,
    max_size=12,
)


@given(st.lists(st.tuples(NAMES, st.integers(0, 2**40), st.integers(0, 2**40)), max_size=40), NAMES)
def test_table_of_files_finds_what_a_dictionary_finds(
    files: list[tuple[str, int, int]], other: str
) -> None:
    builder, expected = FileTableBuilder(), {}
    for name, offset, size in files:
        builder.add("VOC", "JPEGImages", name.encode(), offset, size)
        expected[name] = (offset, size, None)  # of two with one name the later
    table = builder.by_inner().get("VOC", FileTable({}))
    for name in [*expected, other]:
        assert table.find("JPEGImages", name.encode()) == expected.get(name)
