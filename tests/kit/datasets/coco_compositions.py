"""Composes COCO datasets of many habits at once, and tells what a conversion must give.

The truth follows the documentation (docs/guides/coco.md) in plain Python, and knows nothing of the
code under test. Most compositions are sound; a *sin* spoils the others.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from tests.kit.datasets.coco_files import Json

Box = list[float]

WIDTH, HEIGHT = 20, 10
STEMS = ("0", "1", "000007", "IMG 2", "v1.2", "猫", "é", "p%20q", "__meta")
NAMES = ("ant", "Bee 2", "猫", "traffic light", "zebra", "oak")
LAYOUTS = (
    ("annotations/instances_{0}2017.json", "{0}2017"),
    ("annotations/instances_{0}.json", "images/{0}"),
    ("{0}/_annotations.coco.json", "{0}"),
    ("{0}/labels.json", "{0}/data"),
    ("{0}.json", "pictures/of/{0}"),
)
"""Path of a JSON file and folder of its pictures, with the split's word in them."""
WORDS = {"train": ("train",), "val": ("val", "valid")}
WRITTEN = (
    *("{name}", "{name}", "./{name}", "{folder}/{name}", "{back}\\{name}"),
    *("/data/{folder}/{name}", "C:\\me\\{back}\\{name}", "https://x.org/{folder}/{name}"),
)
POLYGON = [1.5, 1, 9, 1.25, 9, 6]
RUNS = {"size": [HEIGHT, WIDTH], "counts": [13, 4, 6, 4, 173]}
"""Pixels 3 … 6 of columns 1 and 2: the box (1, 3) to (3, 7)."""

SEGMENTATIONS: dict[str, tuple[Any, str]] = {
    "absent": (None, ""),
    "null": (None, ""),
    "empty": ([], ""),
    "polygon": ([POLYGON], ""),
    "two": ([POLYGON, [0, 0, 3, 0, 3, 3]], ""),
    "flat": (POLYGON, "polygon-flat"),
    "short": ([[1, 2, 3, 4], POLYGON], "polygon-dropped"),
    "runs": (RUNS, ""),
}
"""Name to what is written, and the code of its note."""
BAD_SEGMENTATIONS = (
    *("text", [[1, "2", 3, 4, 5, 6]], {"size": [HEIGHT, WIDTH], "counts": [POLYGON]}),
    *({"size": [HEIGHT, WIDTH], "counts": [5]}, {"size": [WIDTH, HEIGHT], "counts": [200]}),
    {"counts": [200]},
)
BAD_BOXES = ([1, 2, 3], ["1", "2", "3", "4"], [1, 2, None, 4], {"x": 1}, "1 2 3 4")
SINS = (
    *("image-twice", "annotation-twice", "picture-twice", "no-image", "nan", "cut", "no-id"),
    *("category-twice", "no-split", "picture-missing", "no-categories"),
)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An annotation."""

    category: int
    """Place in `NAMES`."""
    box: tuple[float, float, float, float]
    box_form: str
    """'plain', 'absent', 'empty', or 'bad0' … of `BAD_BOXES`."""
    segmentation: str
    """A key of `SEGMENTATIONS`, or 'bad0' … of `BAD_SEGMENTATIONS`."""
    crowd: Any
    more: Json


@dataclass(frozen=True, kw_only=True)
class Shot:
    """An image and its annotations."""

    stem: str
    form: str
    """Of `WRITTEN`."""
    has_size: bool
    things: tuple[Thing, ...]


@dataclass(frozen=True, kw_only=True)
class CocoComposition:
    """A dataset, and the options of its conversion."""

    layout: tuple[str, str]
    splits: dict[str, tuple[str, tuple[Shot, ...]]]
    """Split to the word that says it in paths, and its images."""
    id_form: str
    """'number', 'gaps' or 'text'."""
    order: tuple[int, ...]
    """Places in `NAMES` of the categories, in the order of the file."""
    turns_ids: bool
    """Whether the last split numbers its categories in another way."""
    has_parent: bool
    encoding: str
    skips: bool
    bad_boxes: str
    sin: str


_sides = st.sampled_from([0, 1, 2.5, 4, 7.25, 9])
_boxes = st.one_of(
    st.tuples(_sides, _sides, st.sampled_from([1, 2.5, 0.1]), st.just(1)),
    st.tuples(_sides, _sides, st.sampled_from([0.3, 11.75, 12]), st.just(0.7)),
    st.sampled_from([(19, 9, 1.5, 1.5), (-0.5, 0, 4, 4), (0, 0, 20.9, 10.9)]),
)
_odd_boxes = st.sampled_from(
    [(18, 8, 9, 9), (-3, 1, 9, 4), (30, 2, 4, 4), (2, 2, 0, 3), (5, 5, -2, 2), (-9, 0, 4, 4)]
)
_crowds = st.sampled_from(["absent", None, 0, 1, False, True])
_more = st.sampled_from([{}, {"area": 7.5}, {"attributes": {"occluded": True}, "score": 0.25}])


@st.composite
def _things(draw: st.DrawFn) -> Thing:
    is_odd = draw(st.integers(0, 11)) == 0
    box_form = draw(st.sampled_from(["plain"] * 6 + ["absent", "empty"]))
    segmentation = draw(st.sampled_from([*SEGMENTATIONS]))
    if is_odd:
        odd = draw(st.sampled_from(["box", "form", "segmentation"]))
        if odd == "form":
            box_form = f"bad{draw(st.integers(0, len(BAD_BOXES) - 1))}"
        elif odd == "segmentation":
            segmentation = f"bad{draw(st.integers(0, len(BAD_SEGMENTATIONS) - 1))}"
    return Thing(
        category=draw(st.integers(0, len(NAMES) - 1)),
        box=draw(_odd_boxes if is_odd else _boxes),
        box_form=box_form,
        segmentation=segmentation,
        crowd=draw(_crowds),
        more=draw(_more),
    )


@st.composite
def coco_compositions(draw: st.DrawFn) -> CocoComposition:
    """Draw a composition."""
    splits = {}
    for split in draw(st.sampled_from([("train",), ("val",), ("train", "val")])):
        stems = draw(st.lists(st.sampled_from(STEMS), min_size=1, max_size=4, unique=True))
        shots = tuple(
            Shot(
                stem=stem,
                form=draw(st.sampled_from(WRITTEN)),
                has_size=draw(st.booleans()),
                things=tuple(draw(st.lists(_things(), max_size=3))),
            )
            for stem in stems
        )
        splits[split] = (draw(st.sampled_from(WORDS[split])), shots)
    is_sinner = draw(st.integers(0, 4)) == 0
    return CocoComposition(
        layout=draw(st.sampled_from(LAYOUTS)),
        splits=splits,
        id_form=draw(st.sampled_from(["number", "gaps", "text"])),
        order=tuple(draw(st.permutations(range(len(NAMES))))),
        turns_ids=draw(st.booleans()),
        has_parent=draw(st.booleans()),
        encoding=draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])),
        skips=draw(st.booleans()),
        bad_boxes=draw(st.sampled_from(["fail", "clip", "drop"])),
        sin=draw(st.sampled_from(SINS)) if is_sinner else "",
    )


# What is written ----------------------------------------------------------------------------------


def image_id(its: CocoComposition, number: int) -> Any:
    return {"number": number, "gaps": 7 + 131 * number, "text": f"i{number}"}[its.id_form]


def category_ids(its: CocoComposition, split: str) -> dict[str, int]:
    """Name to id; every second split may count from the other end."""
    is_turned = its.turns_ids and len(its.splits) > 1 and split == "val"
    places = [*reversed(range(len(NAMES)))] if is_turned else [*range(len(NAMES))]
    return {name: 3 * place + 1 for name, place in zip(NAMES, places, strict=True)}


def written_thing(thing: Thing) -> Json:
    """An annotation without its ids."""
    found: Json = dict(thing.more)
    if thing.box_form.startswith("bad"):
        found["bbox"] = BAD_BOXES[int(thing.box_form[3:])]
    elif thing.box_form != "absent":
        found["bbox"] = [*thing.box] if thing.box_form == "plain" else []
    if thing.segmentation.startswith("bad"):
        found["segmentation"] = BAD_SEGMENTATIONS[int(thing.segmentation[3:])]
    elif thing.segmentation != "absent":
        found["segmentation"] = SEGMENTATIONS[thing.segmentation][0]
    if thing.crowd != "absent":
        found["iscrowd"] = thing.crowd
    return found


def json_of(its: CocoComposition, split: str) -> Json:
    """The file of a split."""
    ids = category_ids(its, split)
    word, shots = its.splits[split]
    folder = its.layout[1].format(word)
    parent = {"supercategory": "things"} if its.has_parent else {}
    categories = [{"id": ids[NAMES[at]], "name": NAMES[at], **parent} for at in its.order]
    if its.has_parent:
        categories.append({"id": 0, "name": "things", "supercategory": "none"})
    images, things = list[Json](), list[Json]()
    for number, shot in enumerate(shots):
        back = folder.replace("/", "\\")
        name = shot.form.format(name=f"{shot.stem}.jpg", folder=folder, back=back)
        size = {"width": WIDTH, "height": HEIGHT} if shot.has_size else {}
        images.append({"id": image_id(its, number), "file_name": name, **size, "license": 2})
        for thing in shot.things:
            its_ids = {"id": len(things), "image_id": image_id(its, number)}
            category = {"category_id": ids[NAMES[thing.category]]}
            things.append({**its_ids, **category, **written_thing(thing)})
    return {"images": images, "annotations": things, "categories": categories}


def files_of(its: CocoComposition) -> dict[str, bytes]:
    """Path to content of each JSON file, with the sin in the first."""
    found = dict[str, bytes]()
    for number, (split, (word, _)) in enumerate(its.splits.items()):
        document = json_of(its, split)
        path = its.layout[0].format(word)
        if not number and its.sin:
            document = sinned(its.sin, document)
        text = json.dumps(document, ensure_ascii=False)
        if not number and its.sin == "nan":
            text = text.replace('"license": 2', '"license": NaN', 1)
        if not number and its.sin == "cut":
            text = text[: len(text) * 2 // 3]
        found[path] = text.encode(its.encoding)
        if its.sin == "no-split" and not number:
            found["other.json"] = found[path]
    return found


def sinned(sin: str, document: Json) -> Json:
    """A file of instances with something wrong in it."""
    images, things = document["images"], document["annotations"]
    one = {"id": "a", "image_id": images[0]["id"], "category_id": 1, "bbox": [1, 1, 2, 2]}
    if sin == "image-twice":
        images.append({**images[0], "file_name": "another.jpg"})
    elif sin == "picture-twice":
        images.append({**images[0], "id": 98765})
    elif sin == "annotation-twice":
        things += [one, {**one, "bbox": [2, 2, 3, 3]}]
    elif sin == "no-image":
        things.append({**one, "image_id": 98765})
    elif sin == "no-id":
        images.append({"file_name": "another.jpg"})
    elif sin == "category-twice":
        document["categories"].append({"id": 98765, "name": NAMES[0]})
    elif sin == "no-categories":
        document["categories"] = []
    elif sin == "picture-missing":
        images.append({"id": 98765, "file_name": "gone.jpg"})
    return document


def pictures_of(its: CocoComposition) -> list[str]:
    """Path of each picture."""
    return [
        f"{its.layout[1].format(word)}/{shot.stem}.jpg"
        for word, shots in its.splits.values()
        for shot in shots
    ]


# What must come of it -----------------------------------------------------------------------------


@dataclass
class CocoTruth:
    """What a conversion must give; where there are refusals, it must give one of them."""

    samples: dict[str, dict[str, Json]] = field(default_factory=dict)
    """Split to key to `file`, `raw` and `objects`."""
    report: Counter[str] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)
    """Parts of messages."""


REFUSED = {
    "image-twice": "2 images have the id",
    "annotation-twice": "2 annotations have the id a",
    "picture-twice": "have one picture",
    "no-image": "are of no image",
    "nan": "holds NaN at line",
    "cut": "is not JSON",
    "no-id": "has no id",
    "category-twice": "have one name",
    "no-split": "nothing tells of which split 'other.json' is",
}


def truth_of(its: CocoComposition) -> CocoTruth:
    """Tell what must become of a composition."""
    truth = CocoTruth()
    if its.sin in REFUSED:
        truth.refusals.append(REFUSED[its.sin])
        return truth
    if its.sin == "no-categories":
        is_alone = len(its.splits) == 1
        truth.refusals += ["has no categories"] if is_alone else []
    if its.sin == "picture-missing":
        truth.refusals += [] if its.skips else ["gone.jpg: is missing"]
        truth.report["bad-record-skipped"] += 1
    if its.has_parent:
        truth.report["category-parent"] += 1
    labels = _labels(its)
    for number, (split, (word, shots)) in enumerate(its.splits.items()):
        found = truth.samples.setdefault(split, {})
        loses = its.sin == "no-categories" and not number
        for at, shot in enumerate(shots):
            folder = its.layout[1].format(word)
            sample = _sample(its, truth, shot, image_id(its, at), labels, loses=loses)
            if sample is not None:
                key = _key(f"{folder}/{shot.stem}")
                found[key] = {"file": f"{folder}/{shot.stem}.jpg", **sample}
                truth.report["name-encoded"] += key != f"{folder}/{shot.stem}"
        if not found:
            truth.refusals.append("every record of split")
    return truth


def _labels(its: CocoComposition) -> dict[str, int]:
    """Classes are in the order of ids: of the first file that has any, then of others."""
    first = next(iter(its.splits))
    if its.sin == "no-categories" and len(its.splits) > 1:
        first = [*its.splits][1]
    ids = category_ids(its, first)
    return {name: label for label, name in enumerate(sorted(ids, key=ids.__getitem__), start=1)}


def _key(id_: str) -> str:
    encoded = "".join(quote(c, safe="") if c in " %" else c for c in id_).replace(".", "%2E")
    return encoded.replace("/__", "/%5F_")


def _sample(
    its: CocoComposition,
    truth: CocoTruth,
    shot: Shot,
    id_: Any,
    labels: dict[str, int],
    *,
    loses: bool,
) -> Json | None:
    """A sample; None where its record is bad."""
    report, objects, num_bad = Counter[str](), list[Json](), 0
    for thing in shot.things:
        found = "other" if loses else _object(its, truth, report, thing, labels)
        if isinstance(found, str):
            num_bad += 1
            is_box = found == "box"
            if is_box and its.bad_boxes == "drop":
                report["bad-box-dropped"] += 1
            elif its.skips:
                report["bad-object-dropped"] += 1
            else:
                truth.refusals.append("object ")
        else:
            objects.append(found)
    if num_bad and not objects:
        truth.refusals += [] if its.skips else ["objects can be read"]
        truth.report["bad-record-skipped"] += 1
        return None
    report["background"] += not shot.things
    report["size-absent"] += not shot.has_size
    truth.report.update(report)
    return {"raw": {"id": id_, "license": 2}, "objects": objects}


def _object(
    its: CocoComposition,
    truth: CocoTruth,
    report: Counter[str],
    thing: Thing,
    labels: dict[str, int],
) -> Json | str:
    """An object, or 'box' or 'other' for what is wrong with it."""
    if thing.segmentation.startswith("bad") or thing.box_form.startswith("bad"):
        return "other"
    shape, note = SEGMENTATIONS[thing.segmentation]
    polygons = {"flat": [POLYGON], "short": [POLYGON]}.get(thing.segmentation, shape)
    if thing.box_form != "plain" and not shape:
        return "other"
    truth.report[note] += bool(note)
    x, y, width, height = thing.box
    corners = [x, y, x + width, y + height]
    if thing.box_form != "plain" and thing.segmentation == "runs":
        corners = [1, 3, 3, 7]
        truth.report["box-from-mask"] += 1
    elif thing.box_form != "plain":
        xs, ys = ([v for p in polygons for v in p[first::2]] for first in (0, 1))
        corners = [min(xs), min(ys), max(xs), max(ys)]
        truth.report["box-from-polygon"] += 1
    box = _placed(corners, its.bad_boxes)
    if box is None:
        return "box"
    raw = dict(thing.more)
    if box != corners:
        leaves = max(-corners[0], -corners[1], corners[2] - WIDTH, corners[3] - HEIGHT)
        report["box-clipped" if leaves <= 1 else "bad-box-clipped"] += 1
        raw |= {"bbox": [*thing.box]} if thing.box_form == "plain" else {}
    found: Json = {}
    if thing.segmentation == "runs":
        found["rle"] = shape
    elif shape:
        found["polygons"] = polygons
    if thing.crowd not in ("absent", None):
        found["crowd"] = bool(thing.crowd)
    name = NAMES[thing.category]
    return {"name": name, "label": labels[name], "bbox": box, "raw": raw, **found}


def _placed(corners: Box, bad_boxes: str) -> Box | None:
    """The box inside the picture; None for a bad one."""
    x0, y0, x1, y1 = corners
    inside = [max(x0, 0), max(y0, 0), min(x1, WIDTH), min(y1, HEIGHT)]
    is_box = x0 <= x1 and y0 <= y1 and inside[0] < inside[2] and inside[1] < inside[3]
    is_slight = max(-x0, -y0, x1 - WIDTH, y1 - HEIGHT) <= 1
    return inside if is_box and (is_slight or bad_boxes == "clip") else None
