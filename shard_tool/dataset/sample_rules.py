"""Checks one sample of a shard: its members, its size, and each object's class and box.

`index` checks tars of others by it before it takes them, and `verify` every dataset: what passes
trains without surprises.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shard_tool.errors import DataError
from shard_tool.format.sample import PICTURES, parse_sample
from shard_tool.pictures.header import read_header
from shard_tool.pictures.masks import VOID, check_class_ids, check_mask_size

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from shard_tool.format.sample import Sample, SampleObject

_MOST_PIXELS_SHOWN = 4
"""Decimals of coordinates in messages."""


def picture_extension(extensions: Collection[str], place: str) -> str:
    """The extension of a sample's picture.

    Raises:
        DataError: It has none, or several.
    """
    found = [name for name in PICTURES if name in extensions]
    if len(found) != 1:
        many = f"has several pictures ({', '.join(found)})" if found else "has no picture"
        raise DataError(place, f"{many}; it needs one member of {', '.join(PICTURES)}")
    return found[0]


def checked_sample(
    key: str, members: Mapping[str, bytes], classes: Mapping[str, int] | None, place: str
) -> Sample:
    """Parse and check a sample.

    Args:
        key: Its key in the tar.
        members: Extension to content: the JSON and the picture at least.
        classes: Class to label; None: any name or label is taken.
        place: The sample in messages.

    Returns:
        The sample, with the size of its upright picture; with `classes`, each object has its name.

    Raises:
        DataError: A member is missing, or the JSON and the picture disagree; names what is wrong.
    """
    extension = picture_extension(members.keys(), place)
    if "json" not in members:
        raise DataError(place, "has no json member")
    sample = parse_sample(members["json"], place=f"{place}.json")
    if sample.key not in (key, ""):
        raise DataError(f"{place}.json", f"its key is {sample.key!r}")
    header = read_header(members[extension], f"{place}.{extension}")
    if header.format != PICTURES[extension]:
        problem = f"is a {header.format} by its content"
        raise DataError(f"{place}.{extension}", problem, "name it by its content")
    size_wh = header.size_wh[::-1] if sample.orientation >= 5 else header.size_wh
    if (sample.width or sample.height) and (sample.width, sample.height) != size_wh:
        problem = f"is {size_wh[0]} x {size_wh[1]} px, the JSON says"
        hint = ""
        if sample.orientation == 1 and (sample.width, sample.height) == header.upright_wh:
            hint = f'add "orientation": {header.orientation} to the JSON, since EXIF turns it so'
        problem = f"{problem} {sample.width} x {sample.height}"
        raise DataError(f"{place}.{extension}", problem, hint)
    for number, item in enumerate(sample.objects, start=1):
        where = f"{place}.json: object {number}"
        _check_class(item, classes, where)
        _check_box(item, size_wh, where)
        _check_run_lengths(item, size_wh, where)
    if not sample.width:
        sample = replace(sample, width=size_wh[0], height=size_wh[1])
    return sample if classes is None else _named(sample, classes)


def check_class_mask(
    sample: Sample, content: bytes, classes: Mapping[str, int] | None, place: str
) -> int:
    """Check the mask of a sample that `checked_sample` returned.

    Returns:
        The highest class id that it holds, void apart; the caller compares it if `classes` is None.

    Raises:
        DataError: It is no PNG of the picture's size, or does not hold class ids.
    """
    check_mask_size(content, (sample.width, sample.height), place)
    return check_class_ids(content, VOID if classes is None else len(classes), place)


def _named(sample: Sample, classes: Mapping[str, int]) -> Sample:
    """The sample with a name for each object, also where its JSON says a label alone."""
    if all(item.name for item in sample.objects):
        return sample
    names = {label: name for name, label in classes.items()}
    objects = [replace(item, name=item.name or names[item.label]) for item in sample.objects]
    return replace(sample, objects=tuple(objects))


def _check_class(item: SampleObject, classes: Mapping[str, int] | None, where: str) -> None:
    if classes is None:
        if item.label < 1 and not item.name:
            problem = f"has label {item.label} and no name; labels begin at 1, 0 is background"
            raise DataError(where, problem)
        return
    if item.name and item.name not in classes:
        hint = "give the classes by --classes, or convert the data again"
        raise DataError(where, f"{item.name!r} is not one of the dataset's classes", hint)
    known = classes[item.name] if item.name else item.label
    if item.name and item.label not in (0, known):
        raise DataError(where, f"{item.name!r} has label {item.label}, its class has {known}")
    if not item.name and item.label not in classes.values():
        problem = f"has label {item.label}, which is none of the classes' ({_shown(classes)})"
        raise DataError(where, problem, "labels begin at 1, 0 is background")


def _shown(classes: Mapping[str, int]) -> str:
    labels = sorted(classes.values())
    return f"{labels[0]} … {labels[-1]}" if labels else "none"


def _check_run_lengths(item: SampleObject, size_wh: tuple[int, int], where: str) -> None:
    if item.rle is None:
        return
    height, width = item.rle["size"]
    counts, hint = item.rle["counts"], "convert the data again, or mend the tars"
    if (width, height) != size_wh:
        problem = f"its run lengths are of {width} x {height} px, the picture has"
        raise DataError(where, f"{problem} {size_wh[0]} x {size_wh[1]}", hint)
    if not isinstance(counts, str) and sum(counts) != width * height:
        raise DataError(where, f"its run lengths cover {sum(counts)} of {width * height} px", hint)


def _check_box(item: SampleObject, size_wh: tuple[int, int], where: str) -> None:
    if item.bbox is None:
        return
    x0, y0, x1, y1 = item.bbox
    width, height = size_wh
    if 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height:
        return
    told = ", ".join(f"{round(value, _MOST_PIXELS_SHOWN):g}" for value in item.bbox)
    what = "is empty or inverted" if x0 >= x1 or y0 >= y1 else f"leaves {width} x {height} px"
    hint = "boxes are x0, y0, x1, y1 in pixels from zero; convert the data, or mend the tars"
    raise DataError(where, f"its box ({told}) {what}", hint)
