"""Opens sources: finds out of which format each is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shard_tool.errors import SourceError
from shard_tool.sources.voc.open import FORMATS as VOC_FORMATS
from shard_tool.sources.voc.open import open_voc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shard_tool.sources.source import Source

FORMATS = VOC_FORMATS
SPLITS = ("train", "val", "trainval", "test")
"""The usual splits, in this order."""
_MOST_SHOWN = 10


def open_source(
    source: str,
    *,
    options: Mapping[str, Any] | None = None,
    number: int = 0,
    split_files: Mapping[str, str] | None = None,
    format_: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Sequence[Source]:
    """Open a folder or an archive. See `open_voc`, which reads all formats there are so far."""
    return open_voc(
        source,
        options=options,
        number=number,
        split_files=split_files,
        format_=format_,
        on_progress=on_progress,
    )


def resolve_splits(sources: Sequence[Source], task: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Choose the splits to convert: the wanted ones, else train, val and test if not empty.

    `trainval` is chosen only if it is wanted or the only one.

    Raises:
        SourceError: There is no split with pictures, or a source has none of the splits.
    """
    there = [source.splits(task) for source in sources]
    for source, splits in zip(sources, there, strict=True):
        if not splits and not wanted:
            raise _nothing(source, task, SPLITS)
    if wanted:
        for split in wanted:
            if not any(_has_split(source, task, split) for source in sources):
                sources[0].check_split(task, split)  # raises, and names the splits there are
        chosen = tuple(wanted)
    else:
        chosen = _defaults(sources, task, there)
    for source in sources:
        if not any(_has_split(source, task, split) for split in chosen):
            raise _nothing(source, task, chosen, "leave this source out")
    return chosen


def _has_split(source: Source, task: str, split: str) -> bool:
    try:
        source.check_split(task, split)
    except SourceError:
        return False
    return True


def _defaults(
    sources: Sequence[Source], task: str, there: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    """The splits to convert where the user names none."""
    defaults = [[split for split in of if split != "trainval"] or list(of) for of in there]
    known = dict.fromkeys([*SPLITS, *(split for of in defaults for split in of)])
    chosen = tuple(split for split in known if any(split in of for of in defaults))
    if "trainval" in chosen and len(sources) > 1 and "train" in chosen:
        only = next(s for s, of in zip(sources, defaults, strict=True) if "trainval" in of)
        problem = "has a list trainval and neither train nor val, as other sources do"
        raise SourceError(
            only.files.place(only.lists_folder(task)), problem, "name the splits: --split trainval"
        )
    return chosen


def _nothing(source: Source, task: str, splits: Sequence[str], hint: str = "") -> SourceError:
    place = source.files.place(source.lists_folder(task))
    if not hint and (others := source.other_splits(task)):
        hint = f"other lists there: {', '.join(others[:_MOST_SHOWN])}; name one by --split"
    hint = hint or f"name the pictures by --split-file {splits[0]}=LIST"
    return SourceError(place, f"no list of {', '.join(splits)} names a picture", hint)
