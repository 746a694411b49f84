"""The table of a source's files, compared with a dictionary."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shard_tool.sources.files.archive import FileSpan
from shard_tool.sources.files.file_table import KIND_OF_SUFFIX, FileTable, FileTableBuilder, Twice

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=("Cs",)),
    min_size=1,
    max_size=12,
)
SUFFIXES = st.sampled_from(["", ".jpg", ".JPG", ".png", ".xml", ".XML", ".txt", ".zip"])
FOLDERS = st.sampled_from(["", "VOC", "VOC/JPEGImages"])
POSITIONS = st.integers(0, 2**40)


@given(st.lists(st.tuples(FOLDERS, NAMES, SUFFIXES, POSITIONS, POSITIONS), max_size=40), NAMES)
def test_table_of_files_finds_what_a_dictionary_finds(
    files: list[tuple[str, str, str, int, int]], other: str
) -> None:
    builder, expected = FileTableBuilder(), dict[tuple[str, str, str], list[FileSpan]]()
    others = dict[str, int]()
    for folder, name, suffix, offset, size in files:
        span = FileSpan(f"{folder}/{name}{suffix}".lstrip("/"), offset, size)
        builder.add(span)
        stem, dot, its = f"{name}{suffix}".rpartition(".")
        its = f"{dot}{its.lower()}" if dot and stem else ""
        if its in KIND_OF_SUFFIX:
            expected.setdefault((folder, KIND_OF_SUFFIX[its], stem), []).append(span)
        else:
            others[its] = others.get(its, 0) + 1
    table = builder.table()
    for (folder, kind, stem), spans in expected.items():
        assert table.files[folder, kind].find(stem) == spans[0]  # of two with one name the first
    for (folder, kind), its in table.files.items():
        known = {stem for at, of, stem in expected if (at, of) == (folder, kind)}
        assert len(its) == len(known)
        assert [its.span(row) for row in range(len(its))] == [
            expected[folder, kind, stem][0] for stem in sorted(known, key=str.encode)
        ]
        if other not in known:
            assert its.find(other) is None
    assert sorted(table.twice) == sorted(
        Twice(*pair) for spans in expected.values() for pair in pairwise(spans)
    )
    assert table.other_suffixes == others
    assert table.count("picture") == sum(kind == "picture" for _, kind, _ in expected)


@given(st.data())
def test_table_does_not_depend_on_the_order_in_which_files_are_listed(data: st.DataObject) -> None:
    names = ["a/b.jpg", "a/c.JPG", "a/d.png", "a/.e.jpg", "a/.d.jpg", ".f.png", "g.zip", "h.json"]
    tables = []
    for order in (names, data.draw(st.permutations(names))):
        builder = FileTableBuilder()
        for name in order:
            builder.add(FileSpan(name, 0, 5))
        tables.append(builder.table())
    one, two = tables
    assert one.sha256() == two.sha256()
    assert [*one.other_suffixes.items()] == [*two.other_suffixes.items()]
    assert (one.first_hidden, one.num_hidden) == (two.first_hidden, two.num_hidden)
    assert two.first_hidden == ".f.png"


def test_positions_in_archives_keep_what_their_scan_told() -> None:
    builder = FileTableBuilder()
    spans = [FileSpan(f"a/{name}.png", at, 9, 7 + at, 5) for at, name in enumerate("cab")]
    for span in spans:
        builder.add(span)
    files = builder.table().files["a", "picture"]
    assert [files.span(row) for row in range(3)] == [spans[1], spans[2], spans[0]]


def test_digest_of_a_table_tells_names_positions_and_sizes_apart() -> None:
    def table(*spans: FileSpan) -> FileTable:
        builder = FileTableBuilder()
        for span in spans:
            builder.add(span)
        return builder.table()

    one, two = FileSpan("a/b.jpg", 1, 2), FileSpan("a/c.jpg", 3, 4)
    assert table(one, two).sha256() == table(two, one).sha256()
    for other in ("a/d.jpg", "b/b.jpg", "a/b.JPG", "a/b.xml"):
        assert table(one._replace(name=other), two).sha256() != table(one, two).sha256()
    for other_span in (one._replace(offset=9), one._replace(size=9)):
        assert table(other_span, two).sha256() != table(one, two).sha256()
