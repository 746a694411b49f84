"""Finds out of folder names alone how VOC-like data lies: which pictures belong to which XML.

A *part* is one folder of pictures with the folders beside it that annotate them. XML may lie beside
the pictures, or in a folder whose path differs from theirs by one name (``Annotations`` for
``JPEGImages``, ``xml`` for ``bilder``): the folder with most stems in common wins. A folder
``ImageSets`` makes a devkit of the parts around it. Without lists, folders called train, valid and
test are the splits.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from shard_tool.errors import SourceError
from shard_tool.sources.split_folders import common_folder, split_of
from shard_tool.sources.voc.pairs import pair_folders, parent, patterns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shard_tool.sources.files.file_table import Files, FileTable

CLASS_MASKS = ("segmentationclass", "segmentationclasspng", "segmentationclassraw")
OBJECT_MASKS = ("segmentationobject", "segmentationobjectpng")
_DRAWN = ("segmentationclassvisualization", "segmentationobjectvisualization")
"""Pictures with masks drawn on them, for people."""
_LISTS = ("imagesets", "imageset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One folder of pictures and what annotates them; paths below the source."""

    images: str
    annotations: str | None
    class_masks: str | None = None
    object_masks: str | None = None
    prefix: str = ""
    """What comes before a stem in the ids of its pictures: '' or 'train/images/'."""
    split: str | None = None
    """Split by the name of a folder; None: no folder says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one dataset lies below a source."""

    format: str
    root: str
    parts: tuple[Part, ...]
    evidence: str
    lists: dict[str, str] = field(default_factory=dict)
    """Folder of lists ('Main', in the spelling of VOC's) to its path; empty: there are no lists."""
    unpaired: tuple[str, ...] = ()
    """Folders of XML without a picture of the same name."""
    apart: tuple[str, ...] = ()
    """Folders of pictures that belong to no part."""

    def folders(self) -> set[str]:
        """All folders whose files may be read."""
        of_parts = {
            folder
            for part in self.parts
            for folder in (part.images, part.annotations, part.class_masks, part.object_masks)
            if folder is not None
        }
        return of_parts | {*self.lists.values()}


def find_layouts(table: FileTable, place: str, *, needs_splits: bool = True) -> list[Layout]:
    """Find all datasets below a source: one for each devkit, else one of everything.

    Args:
        table: The files of the source.
        place: The source, for messages.
        needs_splits: Whether folders have to say the split of each picture, or of none.

    Raises:
        SourceError: There are no pictures, or neither XML nor masks; says what there is. Or some
            pictures lie in folders of splits and others do not.
    """
    pictures = table.of_kind("picture")
    masks = {folder: its for folder in pictures if (its := _mask_kind(folder))}
    images = {folder: files for folder, files in pictures.items() if folder not in masks}
    annotations = table.of_kind("annotation")
    pairs = pair_folders(annotations, images, place)
    unpaired = tuple(sorted(annotations.keys() - {xml for _, xml in pairs}))
    listed = _list_folders(table)
    _check_found(table, images, annotations, masks, pairs, place)
    parts = [_part(image, xml, masks) for image, xml in pairs]
    parts += _without_annotations(images, parts, masks, listed)
    first, *others = _layouts(parts, listed, place, needs_splits=needs_splits)
    taken = {part.images for its in (first, *others) for part in its.parts}
    apart = tuple(sorted(images.keys() - taken))
    return [replace(first, unpaired=unpaired, apart=apart), *others]


# Parts --------------------------------------------------------------------------------------------


def _mask_kind(folder: str) -> str | None:
    names = [name.casefold() for name in folder.split("/")]
    for kind, known in (("class", CLASS_MASKS), ("object", OBJECT_MASKS), ("drawn", _DRAWN)):
        if any(name in known for name in names):
            return kind
    return None


def _part(image: str, xml: str | None, masks: Mapping[str, str]) -> Part:
    found = {
        kind: next(
            (folder for folder, its in masks.items() if its == kind and _belongs(folder, image)),
            None,
        )
        for kind in ("class", "object")
    }
    return Part(
        images=image,
        annotations=xml,
        class_masks=found["class"],
        object_masks=found["object"],
    )


def _belongs(mask: str, image: str) -> bool:
    """Whether a folder of masks lies beside or below a folder of pictures."""
    if parent(mask) in (image, parent(image)):
        return True
    return not set(patterns(mask)).isdisjoint(patterns(image))


def _without_annotations(
    images: Mapping[str, Files],
    paired: Sequence[Part],
    masks: Mapping[str, str],
    listed: Mapping[str, dict[str, str]],
) -> list[Part]:
    """Folders of pictures that no XML is about, where they look like a part of the dataset.

    In a devkit they do if they lie below its pictures, or if no picture of it has XML. Elsewhere
    they do if they have masks, or lie beside folders of pictures that have XML, or differ from one
    by one name, as the folders of splits do.
    """
    known = {part.images for part in paired}
    patterns_of = {pattern for image in known for pattern in patterns(image)}
    tops = {parent(image) for image in known} | known
    tops_of = defaultdict[str, set[str]](set)
    for part in paired:
        if (its_root := _root_of(part.images, listed)) is not None:
            tops_of[its_root].add(_top(part, its_root))
    found = []
    for folder in images:
        if folder in known:
            continue
        part = _part(folder, None, masks)
        root = _root_of(folder, listed)
        if root is None:
            is_near = parent(folder) in tops or not patterns_of.isdisjoint(patterns(folder))
            belongs = bool(part.class_masks) or is_near
        else:
            belongs = not tops_of[root] or _top(part, root) in tops_of[root]
        if belongs:
            found.append(part)
    return found


# Layouts ------------------------------------------------------------------------------------------


def _list_folders(table: FileTable) -> dict[str, dict[str, str]]:
    """Root of a devkit to its folders of lists: 'Main' and so on to their paths."""
    known = {name.casefold(): name for name in ("Main", "Segmentation", "Layout", "Action")}
    found = defaultdict[str, dict[str, str]](dict)
    for folder in table.of_kind("list"):
        names = folder.split("/")
        at = next((i for i, name in enumerate(names) if name.casefold() in _LISTS), None)
        if at is None:
            continue
        inner = "/".join(names[at + 1 :]) or "Main"  # lists right in ImageSets
        found["/".join(names[:at])].setdefault(known.get(inner.casefold(), inner), folder)
    return found


def _root_of(folder: str, listed: Mapping[str, object]) -> str | None:
    """The devkit that a folder lies in: the deepest one."""
    roots = [root for root in listed if not root or folder == root or folder.startswith(f"{root}/")]
    return max(roots, key=len, default=None)


def _layouts(
    parts: Sequence[Part],
    listed: Mapping[str, dict[str, str]],
    place: str,
    *,
    needs_splits: bool,
) -> list[Layout]:
    by_root = defaultdict[str | None, list[Part]](list)
    for part in parts:
        by_root[_root_of(part.images, listed)].append(part)
    loose = by_root.pop(None, [])
    found = [
        _devkit(root or "", its, listed[root or ""])
        for root, its in sorted(by_root.items(), key=str)
    ]
    if loose and found:
        names = ", ".join(part.images or "." for part in loose[:3])
        problem = f"holds pictures outside of its devkit ({names}), which no list can name"
        raise SourceError(
            place, problem, "give the devkit's folder, or these pictures' folder, alone"
        )
    if loose:
        found = [_by_folders(loose, place, needs_splits=needs_splits)]
    return found


def _devkit(root: str, parts: Sequence[Part], lists: dict[str, str]) -> Layout:
    tops = {_top(part, root) for part in parts}
    top = next(iter(tops)) if len(tops) == 1 else root
    named = _with_prefixes(parts, top)
    has_xml = any(part.annotations is not None for part in parts)
    told = "ImageSets beside the pictures" + (" and XML" if has_xml else " and masks, no XML")
    return Layout(
        format="voc" if has_xml else "masks", root=root, parts=named, evidence=told, lists=lists
    )


def _top(part: Part, root: str) -> str:
    """The folder of pictures right below a devkit: ids begin below it."""
    inner = part.images[len(root) :].strip("/")
    first = inner.partition("/")[0]
    return f"{root}/{first}".strip("/") if inner else root


def _by_folders(parts: Sequence[Part], place: str, *, needs_splits: bool) -> Layout:
    """The layout of pictures without lists."""
    common = common_folder([part.images for part in parts])
    root = (
        common
        if len(parts) > 1
        else common_folder([parts[0].images, parts[0].annotations or parts[0].images])
    )
    named = [replace(part, split=split_of(part.images[len(root) :])) for part in parts]
    splits = {part.split for part in named}
    if splits == {None} and (split := split_of(common)):  # all lie in the folder of one split
        named, splits = [replace(part, split=split) for part in named], {split}
    if needs_splits and None in splits and len(splits) > 1:
        rest = [
            part
            for part, its in zip(parts, named, strict=True)
            if its.split or part.annotations is not None or part.class_masks is not None
        ]
        if len(rest) < len(parts):  # what nothing annotates is no part of the splits
            return _by_folders(rest, place, needs_splits=needs_splits)
        loose = next(part.images for part in named if part.split is None)
        problem = f"the pictures in {loose or '.'!r} are in no folder of a split, and others are"
        raise SourceError(place, problem, "name the pictures by --split-file train=LIST")
    beside = all(part.annotations == part.images for part in parts)
    has_xml = any(part.annotations is not None for part in parts)
    if has_xml:
        told = "XML beside the pictures" if beside else "XML in folders beside the pictures'"
    else:
        told = "masks beside the pictures, no XML"
    told += ", splits by folders" if splits != {None} else ", no lists"
    name = "masks" if not has_xml else "voc-flat" if beside or splits != {None} else "voc"
    return Layout(format=name, root=root, parts=_with_prefixes(named, common), evidence=told)


def _with_prefixes(parts: Sequence[Part], top: str) -> tuple[Part, ...]:
    """Parts whose ids are paths below `top`."""
    return tuple(
        replace(part, prefix=f"{inner}/" if (inner := part.images[len(top) :].strip("/")) else "")
        for part in sorted(parts, key=lambda part: part.images)
    )


def _check_found(
    table: FileTable,
    images: Mapping[str, Files],
    annotations: Mapping[str, Files],
    masks: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    place: str,
) -> None:
    """Refuse a source without pictures, or with nothing that annotates them."""
    if images and (pairs or "class" in masks.values()):
        return
    seen = [f"{table.count(kind)} {what}" for kind, what in _SEEN if table.count(kind)]
    seen += [f"{count} {suffix or 'without suffix'}" for suffix, count in _most(_others(table))]
    told = f"found {', '.join(seen) or 'nothing'}"
    if not images:
        problem = f"holds no pictures ({told})"
        hint = "give the folder or archive that holds the pictures and their annotations"
    elif annotations:
        xml, image = next(iter(annotations)), next(iter(images))
        problem = (
            f"no XML in {xml or '.'!r} has the name of a picture in {image or '.'!r} or elsewhere "
            f"({told})"
        )
        hint = "name each XML as its picture, in the same folder or one beside it"
    else:
        problem = f"holds pictures and neither VOC's XML nor masks, nor another format's ({told})"
        hint = (
            "give the folder above both, if the annotations lie beside this one (known: VOC's XML, "
            "masks, COCO, YOLO, labelme, CVAT for images, and folders of classes, which "
            "--source-format imagefolder takes whatever lies beside them)"
        )
    raise SourceError(place, problem, hint)


_SEEN = (("picture", "pictures"), ("annotation", "XML files"), ("list", ".txt files"))


def _others(table: FileTable) -> dict[str, int]:
    """Suffix to number of files that these formats do not read."""
    kinds = ((".json", "json"), (".yaml", "yaml"), (".data", "darknet"))
    found = {suffix: count for suffix, kind in kinds if (count := table.count(kind))}
    return {**table.other_suffixes, **found}


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:4]
