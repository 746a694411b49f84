"""Tells what the conversion of a composition must give, by rules of its own in plain Python.

The rules are those of the documentation: what is asked or refused, which samples there are with
which boxes, and how often each thing is counted in the report.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import quote

from shard_tool.format.sample import VOC_CLASSES
from tests.kit.datasets.composed_files import annotation_path, lists_of, picture_path
from tests.kit.datasets.compositions import ALIKE, FLAGS, OWN, SUFFIXES, Composition, Shot, Size

KEPT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that stay as they are, to the extension of their member."""
UNUSUAL = ("True", "0.0", "Unspecified")
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class ExpectedSample:
    """A sample of the dataset."""

    shot: Shot
    file: str | None
    size: Size
    orientation: int
    objects: tuple[tuple[str, int, Box, bool | None], ...]
    """Name, label, box and whether it is difficult."""
    image_sets: tuple[str, ...]
    extension: str
    is_turned: bool
    """Whether the stored pixels are written turned."""


@dataclass
class Truth:
    """What must come of a composition."""

    refusals: list[tuple[str, ...]] = field(default_factory=list)
    """Why it must be refused: for each reason texts of which the message holds one."""
    splits: dict[str, dict[str, ExpectedSample]] = field(default_factory=dict)
    """Split to key to sample, if it is not refused."""
    report: Counter[str] = field(default_factory=Counter)
    num_bad: int = 0
    """Records that are skipped."""
    num_dropped: int = 0
    """Bad objects that are dropped."""


class _BadError(Exception):
    """A record cannot become a sample; holds what its message may name."""


def truth_of(composition: Composition) -> Truth:
    return _Teller(composition).told()


def id_of(composition: Composition, shot: Shot) -> str:
    """A picture's path below the folder that all pictures lie in, without its suffix."""
    folders = {composition.layout.folders.get(its.split, "") for its in composition.shots}
    if len(folders) == 1:
        return shot.stem
    inner = composition.layout.pictures.format(split=composition.layout.folders[shot.split])
    common = composition.layout.pictures.partition("{split}")[0]
    return f"{inner.removeprefix(common)}{shot.stem}"


def key_of(id_: str) -> str:
    """Dots, blanks and per cent signs are written as in URLs, and so is what WebDataset hides."""
    encoded = "".join(quote(c) if c in "% " else "%2E" if c == "." else c for c in id_)
    names = encoded.split("/")
    return "/".join(f"%5F{name[1:]}" if name.startswith("__") else name for name in names)


def is_readable(shot: Shot) -> bool:
    """Whether a picture has an annotation that can be parsed."""
    return shot.things is not None and not shot.habit.bad


class _Teller:
    def __init__(self, composition: Composition) -> None:
        self.c, self.truth = composition, Truth()
        self.skips = composition.options.get("on_bad_record") == "skip"

    def told(self) -> Truth:
        c, truth = self.c, self.truth
        if c.has_twin:
            self.refuse(picture_path(c, c.shots[0]))
        if not any(shot.things is not None for shot in c.shots):
            self.refuse("source")
        splits = self._splits()
        if not splits:
            self.refuse("source", "--split")
        if truth.refusals:
            return truth
        members = {split: self._members(split) for split in splits}
        self._check_split_apart(members)
        self._count_names()
        surveyed = {split: self._surveyed(shots) for split, shots in members.items()}
        for split, shots in surveyed.items():
            if not shots and not (c.lists_missing and split == self._first_list()):
                self.refuse("--unlabelled")
        if self._decided([shot for shots in surveyed.values() for shot in shots]):
            for split, shots in surveyed.items():
                self._tell_split(split, shots)
        return truth

    def refuse(self, *mentions: str) -> None:
        self.truth.refusals.append(mentions)

    # Splits ---------------------------------------------------------------------------------------

    def _splits(self) -> tuple[str, ...]:
        if self.c.layout.lists:
            there = {split for split, lines in lists_of(self.c).items() if lines}
        elif self.c.layout.folders:
            there = {shot.split for shot in self.c.shots}
        else:
            there = {"train"}
        wanted = self.c.options.get("splits", ())
        if not set(wanted) <= there:
            return ()
        return tuple(wanted) or tuple(s for s in ("train", "val", "test") if s in there)

    def _members(self, split: str) -> list[Shot]:
        if not self.c.layout.lists:
            return [
                shot for shot in self.c.shots if not self.c.layout.folders or shot.split == split
            ]
        found = [shot for shot in self.c.shots if shot.split == split and shot.listed]
        first = self.c.shots[0]
        if self.c.lists_twice and first not in found and split == self._second_list():
            found.append(first)
        return found

    def _first_list(self) -> str:
        return next(iter(self.c.list_names))

    def _second_list(self) -> str:
        return next(split for split in self.c.list_names if split != self.c.shots[0].split)

    def _check_split_apart(self, members: dict[str, list[Shot]]) -> None:
        seen = Counter(shot.stem for shots in members.values() for shot in shots)
        if self.c.layout.lists and any(count > 1 for count in seen.values()):
            self.refuse(self.c.layout.lists)

    def _count_names(self) -> None:
        """Count what lists and names say, whatever becomes of the records."""
        c, report = self.c, self.truth.report
        report["annotation-without-picture"] = int(c.has_orphan)
        report["picture-apart"] = int(bool(c.stray))
        if not c.layout.lists:
            return
        named = {shot.stem for shot in c.shots if shot.listed}
        if c.lists_twice:
            named.add(c.shots[0].stem)
        report["in-no-list"] = len({shot.stem for shot in c.shots} - named)
        for split in self._splits():
            lines = lists_of(c)[split]
            report["list-name-twice"] += len(lines) - len(set(lines))
            plain = {shot.stem for shot in c.shots} | {"nobody"}
            report["list-line-other"] += sum(line not in plain for line in lines)

    # Annotations ----------------------------------------------------------------------------------

    def _surveyed(self, shots: list[Shot]) -> list[Shot]:
        """The records that are to become samples; counts what is read otherwise."""
        found = []
        for shot in shots:
            if shot.things is None and self._unlabelled() == "drop":
                self.truth.report["unlabelled"] += 1
                continue
            found.append(shot)
            if is_readable(shot):
                self._note(shot)
        return found

    def _unlabelled(self) -> str:
        return self.c.choices.get("unlabelled", "fail" if self.c.layout.lists else "drop")

    def _note(self, shot: Shot) -> None:
        habit, things = shot.habit, shot.things or ()
        good = [thing for thing in things if not thing.broken]
        report = self.truth.report
        report["doctype"] += habit.doctype
        report["wrapper"] += habit.wrapper
        report["size-unusable"] += shot.declared == (0, 0)
        report["flag-other-value"] += sum(thing.difficult in UNUSUAL for thing in good)
        report["shape-dropped"] += len(good) if habit.polygon else 0
        if habit.title_case:
            report["tag-other-case"] += len(things) + sum(bool(thing.difficult) for thing in good)

    # Classes and conventions ----------------------------------------------------------------------

    def _decided(self, shots: list[Shot]) -> bool:
        """Decide classes and the convention of boxes; False where the user is asked."""
        good = [t for shot in shots if is_readable(shot) for t in shot.things or () if not t.broken]
        self.rename = dict(self.c.classes.get("rename", ()))
        written = {thing.name for thing in good}
        if not self.rename.keys() <= written:
            self.refuse("--rename")
            return False
        names = {self.rename.get(name, name) for name in written}
        if not self._decide_classes(names):
            return False
        is_voc = self.classes == VOC_CLASSES
        self.convention = self.c.choices.get("boxes", "devkit" if is_voc else "corners")
        has_zero = any(min(map(float, thing.corners[:2])) <= 0 for thing in good)
        if "boxes" not in self.c.choices and is_voc and has_zero:
            self.refuse("--boxes")
        return True

    def _decide_classes(self, names: set[str]) -> bool:
        given = self.c.classes.get("classes", ())
        self.drops = self.c.classes.get("other_classes") == "drop"
        self.classes: tuple[str, ...] = given or VOC_CLASSES
        strangers = names - set(VOC_CLASSES)
        if given:
            if names - set(given) and not self.drops:
                self.refuse("--classes")
                return False
            return True
        if not strangers:
            return True
        is_mixture = len(strangers) <= 2 and len(names) - len(strangers) > len(strangers)
        if is_mixture and self.drops:
            return True
        known = names | set(VOC_CLASSES)
        if is_mixture or any(one in names and other in known for one, other in ALIKE):
            self.refuse("--rename", "--classes")
            return False
        self.classes = tuple(sorted(names))
        return True

    # Samples --------------------------------------------------------------------------------------

    def _tell_split(self, split: str, shots: list[Shot]) -> None:
        found: dict[str, ExpectedSample] = {}
        bad = [("nobody",)] if self.c.lists_missing and split == self._first_list() else []
        for shot in shots:
            before = Counter(self.truth.report), self.truth.num_dropped
            try:
                found[key_of(id_of(self.c, shot))] = self._sample(shot)
            except _BadError as exc:
                bad.append(exc.args)
                self.truth.report, self.truth.num_dropped = before
        self.truth.num_bad += len(bad)
        self.truth.report["bad-record-skipped"] += len(bad)
        if not self.skips:
            self.truth.refusals += bad
        elif not found:
            self.refuse("source")
        self.truth.splits[split] = found

    def _sample(self, shot: Shot) -> ExpectedSample:
        c, report = self.c, self.truth.report
        picture, xml = picture_path(c, shot), annotation_path(c, shot)
        if shot.things is None:
            if self._unlabelled() == "fail":
                raise _BadError("--unlabelled")
            report["unlabelled-background"] += 1
        elif shot.habit.bad:
            raise _BadError(xml)
        if not shot.is_picture:
            raise _BadError(picture)
        is_turned = self._is_turned(shot)
        size = shot.wh[::-1] if is_turned and shot.orientation >= 5 else shot.wh
        objects = self._objects(shot, size) if shot.things is not None else []
        extension = KEPT.get(shot.format, "png")
        is_new = shot.format not in KEPT
        report["picture-recoded"] += is_new
        report["content-other-than-name"] += shot.suffix.lower() not in _suffixes(shot.format)
        id_ = id_of(c, shot)
        key = key_of(id_)
        report["name-encoded"] += key != id_
        bakes = is_turned and (is_new or c.choices.get("exif") == "bake")
        return ExpectedSample(
            shot=shot,
            file=None if picture.endswith(f"/{key}.jpg") else picture,
            size=size,
            orientation=shot.orientation if is_turned and not bakes else 1,
            objects=tuple(objects),
            image_sets=self._image_sets(shot),
            extension=extension,
            is_turned=bakes,
        )

    def _image_sets(self, shot: Shot) -> tuple[str, ...]:
        if not self.c.layout.lists:
            return ()
        found = {shot.split} if shot.listed else set()
        if self.c.lists_twice and shot is self.c.shots[0]:
            found.add(self._second_list())
        if self.c.has_trainval and found & {"train", "val"}:
            found.add("trainval")
        return tuple(sorted(f"Main/{split}" for split in found))

    def _is_turned(self, shot: Shot) -> bool:
        if shot.orientation == 1:
            return False
        choice = self.c.choices.get("exif", "")
        found = {"upright": True, "stored": False}.get(choice)
        if found is None:
            found = self._tells_turned(shot)
        if found is None and choice != "bake":
            raise _BadError("--exif")
        bakes = choice == "bake" or shot.format not in KEPT
        code = "exif-baked" if bakes else "exif-upright"
        self.truth.report["exif-ignored" if found is False else code] += 1
        return found is not False

    def _tells_turned(self, shot: Shot) -> bool | None:
        """Whether boxes are of the upright picture; None: nothing tells."""
        is_of_voc = self.classes == VOC_CLASSES and shot.habit.database.startswith("The VOC")
        if shot.things is not None and is_of_voc:
            return False
        if all(thing.broken for thing in shot.things or ()):
            return True
        (width, height), declared = shot.wh, shot.declared or (0, 0)
        if shot.orientation < 5 or width == height or declared[0] == declared[1]:
            return None
        return (declared[0] > declared[1]) == (height > width)

    def _objects(self, shot: Shot, size: Size) -> list[tuple[str, int, Box, bool | None]]:
        report, things = self.truth.report, shot.things or ()
        report["background"] += not things
        declared = shot.declared if shot.declared != (0, 0) else None
        report["size-absent"] += declared is None
        scale = (1.0, 1.0)
        if declared and declared != size and any(not thing.broken for thing in things):
            scale = self._scale(shot, declared, size)
        found, num_bad = [], 0
        for thing in things:
            name = self.rename.get(thing.name, thing.name)
            if thing.broken:
                self._drop_object(annotation_path(self.c, shot), is_box=False)
                num_bad += 1
                continue
            if name not in self.classes:
                report["other-class-dropped"] += 1
                continue
            report["renamed"] += name != thing.name
            box = self._box(tuple(map(float, thing.corners)), scale, size)
            if box is None:
                self._drop_object(annotation_path(self.c, shot), is_box=True)
                num_bad += 1
                continue
            found.append((name, self.classes.index(name) + 1, box, FLAGS[thing.difficult]))
        if num_bad and not found:
            raise _BadError(annotation_path(self.c, shot))
        return found

    def _drop_object(self, place: str, *, is_box: bool) -> None:
        if is_box and self.c.choices.get("bad_boxes") == "drop":
            self.truth.report["bad-box-dropped"] += 1
        elif self.skips:
            self.truth.report["bad-object-dropped"] += 1
        else:
            raise _BadError(place)
        self.truth.num_dropped += 1

    def _scale(self, shot: Shot, declared: Size, size: Size) -> tuple[float, float]:
        choice = self.c.choices.get("size_mismatch")
        if choice == "ignore":
            self.truth.report["size-ignored"] += 1
            return (1.0, 1.0)
        if choice != "scale" or not _is_alike(declared, size):
            raise _BadError(annotation_path(self.c, shot))
        self.truth.report["size-scaled"] += 1
        return (size[0] / declared[0], size[1] / declared[1])

    def _box(self, written: Box, scale: tuple[float, float], size: Size) -> Box | None:
        """The box, clipped where that is allowed; None: it is bad."""
        first = 1 if self.convention == "devkit" else 0
        spans = []
        leaves = 0.0
        for axis in (0, 1):
            low, high = written[axis], written[axis + 2]
            if low > high:
                return None
            low, high = (low - first) * scale[axis], high * scale[axis]
            leaves = max(leaves, -low, high - size[axis])
            low, high = max(low, 0.0), min(high, float(size[axis]))
            if low >= high:
                return None
            spans.append((low, high))
        if leaves > 1 and self.c.choices.get("bad_boxes") != "clip":
            return None
        if leaves > 0:
            self.truth.report["bad-box-clipped" if leaves > 1 else "box-clipped"] += 1
        (x0, x1), (y0, y1) = spans
        return (x0, y0, x1, y1)


def _is_alike(one: Size, other: Size) -> bool:
    """Whether two sizes have one aspect, but for rounding to pixels."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def _suffixes(format_: str) -> tuple[str, ...]:
    return tuple(suffix.lower() for suffix in SUFFIXES[format_])


assert not set(OWN) & set(VOC_CLASSES)
