"""Says by which numbers a dataset's sources call classes and pictures, as COCO does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shard_tool.format.sample import Sample

SourceId = int | str
"""COCO's are whole numbers; some tools write text."""
COCO = "coco"


def category_ids(
    classes: Mapping[str, int], sources: Iterable[Mapping[str, Any]]
) -> dict[str, SourceId]:
    """Each class to COCO's category id.

    They are the sources' own where these are COCO's, know all classes and agree. Else they are the
    labels, 1 … K.

    Args:
        classes: Class name to label.
        sources: The manifest's `sources`.

    >>> source = {"format": "coco", "class_ids": {"cat": 17, "dog": 18}}
    >>> category_ids({"cat": 1, "dog": 2}, [source]), category_ids({"cat": 1, "cow": 2}, [source])
    ({'cat': 17, 'dog': 18}, {'cat': 1, 'cow': 2})
    """
    found: dict[str, SourceId] = {}
    for source in sources:
        its = source.get("class_ids", {}) if source.get("format") == COCO else {}
        for name in classes.keys() & its.keys():
            if found.setdefault(name, its[name]) != its[name]:
                return dict(classes)
    if found.keys() == classes.keys() and len(set(found.values())) == len(found):
        return {name: found[name] for name in classes}
    return dict(classes)


def image_id(sample: Sample) -> SourceId | None:
    """The source's id of a picture; None: it has none."""
    found = (sample.raw or {}).get("id")
    return found if type(found) in (int, str) else None
