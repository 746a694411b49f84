"""Draws files of annotations that something has damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

_CODECS = ("utf-16", "utf-16-be", "utf-8-sig", "gb18030", "utf-32")


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes], pieces: Sequence[bytes]) -> bytes:
    """A file, cut and pasted at random places, and perhaps in another encoding.

    Args:
        draw: Given by hypothesis.
        seeds: Whole files.
        pieces: What is pasted into them, beside parts of themselves and random bytes.
    """
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        short = min(end, start + draw(st.sampled_from([0, 1, 12, 1000])))
        piece = draw(st.sampled_from(pieces) | st.binary(max_size=4) | st.just(content[start:end]))
        content = content[:start] + piece + content[short:]
    if draw(st.booleans()):
        return content
    return content.decode("latin-1").encode(draw(st.sampled_from(_CODECS)))
