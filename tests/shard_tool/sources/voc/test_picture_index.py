"""The files of pictures over all folders of a source, compared with a dictionary; and memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_tool.sources.files.archive import FileSpan, SourceFiles
from shard_tool.sources.files.file_table import FileTable, FileTableBuilder
from shard_tool.sources.voc import picture_index
from shard_tool.sources.voc.layout import Layout, Part, find_layouts
from shard_tool.sources.voc.picture_index import Found, PictureIndex
from shard_tool.sources.voc.source import VocSource

STEMS = st.sampled_from(["a", "b", "c", "\u732b", "a b", "no"])
PARTS = {"": "flat", "train/": "train", "valid/": "valid"}
"""Prefix of ids to the folder of the part."""


def table_of(names: list[str]) -> FileTable:
    builder = FileTableBuilder()
    for at, name in enumerate(names):
        builder.add(FileSpan(name, at, 10 + at))
    return builder.table()


@given(
    st.sets(st.tuples(st.sampled_from([*PARTS.values()]), STEMS), min_size=1),
    st.sets(st.tuples(st.sampled_from([*PARTS.values()]), STEMS)),
    st.lists(st.tuples(st.sampled_from([*PARTS]), STEMS), max_size=12, unique=True),
    st.integers(1, 4),
)
def test_index_finds_what_a_dictionary_finds(
    pictures: set[tuple[str, str]],
    others: set[tuple[str, str]],
    asked: list[tuple[str, str]],
    together: int,
) -> None:
    names = [f"{folder}/images/{stem}.jpg" for folder, stem in pictures]
    names += [f"{folder}/xml/{stem}.xml" for folder, stem in others]
    names += [f"{folder}/masks/{stem}.png" for folder, stem in others]
    spans = {name: FileSpan(name, at, 10 + at) for at, name in enumerate(names)}
    parts = tuple(
        Part(
            images=f"{folder}/images",
            annotations=f"{folder}/xml",
            class_masks=f"{folder}/masks",
            prefix=prefix,
        )
        for prefix, folder in PARTS.items()
        if any(its == folder for its, _ in pictures)
    )
    layout = Layout(format="voc", root="", parts=parts, evidence="")
    index = PictureIndex.of(table_of(names), layout)
    ids = sorted((f"{prefix}{stem}" for prefix, stem in asked), key=str.encode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture_index, "_AT_A_TIME", together)
        found = [*index.found(np.array([id_.encode() for id_ in ids], np.bytes_))]
    for id_, its in zip(ids, found, strict=True):
        prefix, _, stem = id_.rpartition("/")
        prefix = f"{prefix}/" if prefix else ""
        folder = PARTS[prefix]
        image = spans.get(f"{folder}/images/{stem}.jpg")
        if (folder, stem) not in pictures:  # its part is unknown: looked for in the first
            folder, stem = PARTS[parts[0].prefix], id_.removeprefix(parts[0].prefix)
        assert its == Found(
            id_,
            image,
            spans.get(f"{folder}/xml/{stem}.xml"),
            spans.get(f"{folder}/masks/{stem}.png"),
            None,
            f"{folder}/images/{stem}.jpg",
            f"{folder}/xml/{stem}.xml",
            f"{folder}/masks/{stem}.png",
        )


@pytest.mark.slow
def test_records_of_a_hundred_thousand_pictures_take_few_bytes_each() -> None:
    """Only arrays grow with the pictures: 16 bytes stay, some 60 are used at a time."""
    num = 100_000
    names = [f"{i:06d}" for i in range(num)]
    table = table_of([f"JPEGImages/{name}.jpg" for name in names])
    table.files.update(table_of([f"Annotations/{name}.xml" for name in names]).files)
    (layout,) = find_layouts(table, "voc")
    files = SourceFiles("/nowhere", "", is_archive=False)
    source = VocSource(files=files, table=table, layout=layout)
    tracemalloc.start()
    count = sum(record.annotation is not None for record in source.records("detection", "train"))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == num
    assert held < 24 * num
    assert peak < 80 * num
