"""Opens sources: finds out of which format each is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shard_tool.errors import OptionError, SourceError
from shard_tool.sources.coco.open import find_coco
from shard_tool.sources.cvat.source import find_cvat
from shard_tool.sources.files.listing import list_files
from shard_tool.sources.imagefolder.source import find_image_folder
from shard_tool.sources.labelme.source import find_labelme
from shard_tool.sources.voc.open import find_voc
from shard_tool.sources.yolo.open import find_yolo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shard_tool.sources.files.listing import Listing
    from shard_tool.sources.found import Found
    from shard_tool.sources.source import Source

    Finder = Callable[[Listing, Mapping[str, str]], Found | None]

_FINDERS: dict[str, Finder] = {
    "coco": find_coco,
    "yolo": find_yolo,
    "labelme": find_labelme,
    "cvat": find_cvat,
}
"""Format to what finds its data among the files of a source; VOC's come last, and then folders of
classes, which are looked for where nothing else is found."""
FORMATS = (*_FINDERS, "voc", "voc-flat", "masks", "imagefolder")
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
    """List the files of an archive or a folder, and open the datasets in it.

    Args:
        source: Path or URL of an archive, or path of a folder.
        options: fsspec's storage options, for a URL.
        number: The first dataset's place among the sources of one dataset.
        split_files: Split to the path of a local list of its pictures.
        format_: One of `FORMATS` to insist on, or 'auto'.
        on_progress: Called with (bytes read, all bytes) while a remote archive is streamed.

    Returns:
        One source for each dataset, such as each devkit.

    Raises:
        ObjectMissing: There is nothing at `source`.
        OptionError: It holds data of several formats, or none of `format_`.
        SourceError: The source is damaged, holds nothing of any format, or a member is a link,
            leads out of the archive, or has the name of another with other bytes.
        StoreError: Storage failed, and went on failing.
    """
    listing = list_files(source, options=options, number=number, on_progress=on_progress)
    return _found(listing, split_files or {}, format_).open()


def _found(listing: Listing, split_files: Mapping[str, str], format_: str) -> Found:
    """The data of the one format that a source has, or that the user insists on."""
    if format_ != "auto":
        return _wanted(listing, split_files, format_)
    found = [its for find in _FINDERS.values() if (its := find(listing, split_files))]
    nothing: SourceError | None = None
    try:
        found.append(find_voc(listing, split_files))
    except SourceError as exc:
        nothing = exc
    if not found and (its := find_image_folder(listing, split_files)):
        return its  # folders of classes are what nothing else annotates
    if not found:
        assert nothing is not None
        raise nothing
    if len(found) > 1:
        told = " and ".join(f"{its.format} ({its.evidence})" for its in found)
        ways = " or ".join(f"--source-format {its.format}" for its in found)
        raise OptionError("--source-format", f"{listing.files.shown} holds {told}", f"add {ways}")
    return found[0]


def _wanted(listing: Listing, split_files: Mapping[str, str], format_: str) -> Found:
    """The data of a format that the user insists on; what else there is may even be broken."""
    its: Found | None
    if format_ == "imagefolder":
        its = find_image_folder(listing, split_files, is_wanted=True)
    elif format_ in _FINDERS:
        its = _FINDERS[format_](listing, split_files)
    else:
        its = find_voc(listing, split_files)
    if its is not None and its.format == format_:
        return its
    found = its or _found(listing, split_files, "auto")
    problem = f"{listing.files.shown} is not {format_}: found {found.format} ({found.evidence})"
    raise OptionError("--source-format", problem)


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
