"""Tells what the conversion of a YOLO composition must give, by rules of its own in plain Python.

Boxes are computed in fractions of whole numbers, without rounding but to the nine decimals of a
pixel that samples keep.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from urllib.parse import quote

from tests.kit.datasets.yolo_compositions import (
    BAD_LINES,
    MENDED,
    Composition,
    Line,
    Shot,
    labels_path,
    picture_path,
)

Numbers = tuple[float, ...]
SLIGHT = Fraction(1, 100)


@dataclass(frozen=True, kw_only=True)
class ExpectedSample:
    """A sample of the dataset."""

    shot: Shot
    file: str
    size: tuple[int, int]
    orientation: int
    objects: tuple[tuple[str, int, Numbers, Numbers | None], ...]
    """Name, label, box and polygon."""
    is_baked: bool


@dataclass
class Truth:
    """What must come of a composition."""

    refusals: list[str] = field(default_factory=list)
    """Why it must be refused: for each reason what the message mentions."""
    splits: dict[str, dict[str, ExpectedSample]] = field(default_factory=dict)
    report: Counter[str] = field(default_factory=Counter)
    num_bad: int = 0
    num_dropped: int = 0


class _BadError(Exception):
    """A record cannot become a sample; holds what its message mentions."""


def truth_of(composition: Composition) -> Truth:
    return _Teller(composition).told()


def key_of(path: str) -> str:
    return "".join(quote(c) if c in "% " else "%2E" if c == "." else c for c in path)


class _Teller:
    def __init__(self, composition: Composition) -> None:
        self.c, self.truth = composition, Truth()
        self.skips = composition.options.get("on_bad_record") == "skip"

    def told(self) -> Truth:
        c, truth = self.c, self.truth
        members = {split: [s for s in c.shots if s.split == split] for split in c.splits}
        if c.layout.declared == "names":
            self._leave_out_folders(members)
            if not members:
                truth.refusals.append("source")
                return truth
        self._count_names()
        surveyed = {split: self._surveyed(shots) for split, shots in members.items()}
        for split, shots in surveyed.items():
            if not shots and not self._lists_nobody(split):
                truth.refusals.append("--unlabelled")
        for split, shots in surveyed.items():
            self._tell_split(split, shots)
        return truth

    def _leave_out_folders(self, members: dict[str, list[Shot]]) -> None:
        """Without a file of splits, a folder without labels is no part of the dataset."""
        for split, shots in [*members.items()]:
            if all(shot.lines is None for shot in shots):
                del members[split]
                self.truth.report["picture-apart"] += len(shots)

    def _count_names(self) -> None:
        c, report = self.c, self.truth.report
        report["picture-apart"] += c.has_stray
        report["annotation-without-picture"] += "orphan" in c.sins
        report["split-without-pictures"] += c.has_absent
        report["list-name-twice"] += len(c.splits) * c.lists_twice
        if c.layout.declared == "names":
            return
        if c.path_style in MENDED:
            report["path-mended"] += len(c.splits)
            report["path-mended"] += c.layout.declared == "darknet"
        if c.layout.has_lists and c.path_style in ("dead", "windows", "up"):
            report["path-mended"] += len(c.splits)

    def _lists_nobody(self, split: str) -> bool:
        is_first = split == self.c.splits[0]
        return self.c.layout.has_lists and "listed-missing" in self.c.sins and is_first

    # Labels ---------------------------------------------------------------------------------------

    def _surveyed(self, shots: list[Shot]) -> list[Shot]:
        found = []
        for shot in shots:
            if shot.lines is None and self._unlabelled() == "drop":
                self.truth.report["unlabelled"] += 1
                continue
            found.append(shot)
            if shot.is_text:
                self._note(shot)
        return found

    def _unlabelled(self) -> str:
        return self.c.choices.get("unlabelled", "fail" if self.c.layout.has_lists else "drop")

    def _note(self, shot: Shot) -> None:
        report, lines = self.truth.report, shot.lines or ()
        report["comment"] += sum(bool(line.comment) for line in lines)
        report["commas"] += any("," in line.separator for line in lines)
        rows = _rows(shot)
        good = [line for line in rows if line.sin not in BAD_LINES]
        report["object-twice"] += len(good) - len(_unlike(good))
        report["box-from-polygon"] += sum(line.is_polygon for line in _unlike(good))

    # Samples --------------------------------------------------------------------------------------

    def _tell_split(self, split: str, shots: list[Shot]) -> None:
        found: dict[str, ExpectedSample] = {}
        bad = ["nobody"] if self._lists_nobody(split) else []
        for shot in shots:
            before = Counter(self.truth.report), self.truth.num_dropped
            path = picture_path(self.c, shot).removesuffix(shot.suffix)
            try:
                found[key_of(path)] = self._sample(shot, path)
            except _BadError as exc:
                bad.append(exc.args[0])
                self.truth.report, self.truth.num_dropped = before
        self.truth.num_bad += len(bad)
        self.truth.report["bad-record-skipped"] += len(bad)
        if not self.skips:
            self.truth.refusals += bad
        elif not found:
            self.truth.refusals.append("source")
        self.truth.splits[split] = found

    def _sample(self, shot: Shot, path: str) -> ExpectedSample:
        c, report = self.c, self.truth.report
        if shot.lines is None:
            if self._unlabelled() == "fail":
                raise _BadError("--unlabelled")
            report["unlabelled-background"] += 1
        elif not shot.is_text:
            raise _BadError(labels_path(c, shot))
        if not shot.is_picture:
            raise _BadError(picture_path(c, shot))
        is_turned = self._is_turned(shot)
        size = shot.wh[::-1] if is_turned and shot.orientation >= 5 else shot.wh
        objects = [] if shot.lines is None else self._objects(shot, size)
        report["background"] += shot.lines == ()
        report["name-encoded"] += key_of(path) != path
        is_baked = is_turned and c.choices.get("exif") == "bake"
        return ExpectedSample(
            shot=shot,
            file=picture_path(c, shot),
            size=size,
            orientation=shot.orientation if is_turned and not is_baked else 1,
            objects=tuple(objects),
            is_baked=is_baked,
        )

    def _is_turned(self, shot: Shot) -> bool:
        if shot.orientation == 1:
            return False
        choice = self.c.choices.get("exif", "")
        has_objects = any(line.sin not in BAD_LINES for line in shot.lines or ())
        if has_objects and not choice:
            raise _BadError("--exif")
        is_turned = choice != "stored"
        code = "exif-baked" if choice == "bake" else "exif-upright"
        self.truth.report[code if is_turned else "exif-ignored"] += 1
        return is_turned

    def _objects(
        self, shot: Shot, size: tuple[int, int]
    ) -> list[tuple[str, int, Numbers, Numbers | None]]:
        place, found, num_bad = labels_path(self.c, shot), [], 0
        rows = _rows(shot)
        labels = {number: at for at, number in enumerate(self.c.names, start=1)}
        for line in (*(row for row in rows if row.sin in BAD_LINES), *_unlike(rows)):
            box = None if line.sin in BAD_LINES else self._box(_corners(line), size)
            if box is None:
                self._drop(place, is_box=line.sin not in BAD_LINES)
                num_bad += 1
                continue
            polygon = _polygon(line, size) if line.is_polygon else None
            found.append((self.c.names[line.number], labels[line.number], box, polygon))
        if num_bad and not found:
            raise _BadError(place)
        return found

    def _drop(self, place: str, *, is_box: bool) -> None:
        if is_box and self.c.choices.get("bad_boxes") == "drop":
            self.truth.report["bad-box-dropped"] += 1
        elif self.skips:
            self.truth.report["bad-object-dropped"] += 1
        else:
            raise _BadError(place)
        self.truth.num_dropped += 1

    def _box(self, corners: list[Fraction], size: tuple[int, int]) -> Numbers | None:
        """The box in pixels, clipped where that is allowed; None: it is bad."""
        rounded = [round(its * size[at % 2], 9) for at, its in enumerate(corners)]
        (x0, y0, x1, y1), (width, height) = rounded, size
        zero = Fraction(0)
        inside = (max(x0, zero), max(y0, zero), min(x1, Fraction(width)), min(y1, Fraction(height)))
        if corners[0] > corners[2] or corners[1] > corners[3]:
            return None
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            return None
        leaves = max(-x0 / width, -y0 / height, (x1 - width) / width, (y1 - height) / height)
        if leaves > SLIGHT and self.c.choices.get("bad_boxes") != "clip":
            return None
        if leaves > 0:
            self.truth.report["bad-box-clipped" if leaves > SLIGHT else "box-clipped"] += 1
        return tuple(float(side) for side in inside)


def _rows(shot: Shot) -> list[Line]:
    """The lines that are no comments; one that is there twice, twice."""
    return [line for line in shot.lines or () for _ in range(1 + line.is_twice)]


def _unlike(rows: list[Line]) -> list[Line]:
    """The lines that are objects, each with other numbers."""
    found: dict[Numbers, Line] = {}
    for line in rows:
        if line.sin not in BAD_LINES:
            found.setdefault((line.number, *map(float, line.numbers)), line)
    return [*found.values()]


def _corners(line: Line) -> list[Fraction]:
    numbers = [*map(Fraction, line.numbers)]
    if line.is_polygon:
        xs, ys = numbers[::2], numbers[1::2]
        return [min(xs), min(ys), max(xs), max(ys)]
    x, y, width, height = numbers
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _polygon(line: Line, size: tuple[int, int]) -> Numbers:
    clipped = [min(max(number, Fraction(0)), Fraction(1)) for number in map(Fraction, line.numbers)]
    return tuple(float(round(its * size[at % 2], 9)) for at, its in enumerate(clipped))
