"""Turns one annotated picture into a sample.

Every rule about content is here: the bytes give the size, only the dataset's classes have a label,
boxes lie inside the picture, a mask has the size of its picture. What is dropped or read otherwise
is reported.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from shard_tool.convert.turned import declared_size, tells_turned
from shard_tool.convert.written import raw_named, raw_of, run_lengths_of
from shard_tool.errors import AnnotationError, BoxError, DataError
from shard_tool.format.sample import Part, Sample, SampleObject, encode_sample
from shard_tool.format.sample import Source as SampleSource
from shard_tool.pictures.header import Header, read_header
from shard_tool.pictures.masks import check_object_mask
from shard_tool.pictures.recode import EXTENSIONS, stored_form
from shard_tool.pictures.reencode import reencoded
from shard_tool.pictures.size import picture_size
from shard_tool.sources.boxes import DEVKIT, NORMALIZED, box_of, in_pixels, placed, scaled
from shard_tool.sources.files.file_span import printable
from shard_tool.sources.report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shard_tool.convert.rules import Rules
    from shard_tool.format.sample import Polygon
    from shard_tool.sources.annotation import Annotation, ObjectAnnotation
    from shard_tool.sources.files.archive import SourceFiles
    from shard_tool.sources.source import Record

_SUFFIXES = {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",), "WEBP": (".webp",)}
_SUFFIXES |= {"BMP": (".bmp",), "TIFF": (".tif", ".tiff"), "GIF": (".gif",)}

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class BuiltSample:
    """A sample and the members that go into a shard."""

    sample: Sample
    members: dict[str, bytes]
    """Extension to content. Pictures and masks are the source's own bytes unless re-encoded."""


@dataclass(slots=True)
class Builder:
    """Builds samples of one shard; collects what it drops and reads otherwise."""

    rules: Rules
    sources: Sequence[SourceFiles]
    report: Report = field(default_factory=Report)
    dropped: list[dict[str, object]] = field(default_factory=list)
    """The objects that were dropped because they are bad: key, number and error of each."""

    def built(
        self,
        record: Record,
        annotation: Annotation | None,
        contents: Sequence[bytes],
        labels: Sequence[int] | None = None,
    ) -> BuiltSample:
        """Turn a record's files into a sample.

        Args:
            record: A record that `check_files` accepted.
            annotation: What its annotation says; None: it has none.
            contents: The bytes of each of its files but the annotation: picture, class mask,
                object mask.
            labels: Classification: -1, 0 or 1 for each class, as lists say it; None: none does.

        Raises:
            DataError: A file breaks a rule; names it.
        """
        with self._noted():
            return self._built(record, annotation, contents, labels)

    def _built(
        self,
        record: Record,
        annotation: Annotation | None,
        contents: Sequence[bytes],
        labels: Sequence[int] | None,
    ) -> BuiltSample:
        assert record.image is not None
        place = self.sources[record.source].place(record.image)
        header = read_header(contents[0], place)
        is_turned = self._is_turned(record, annotation, header, contents)
        size_wh = header.upright_wh if is_turned else header.size_wh
        sample = self._sample(record, annotation, header, size_wh, is_turned=is_turned)
        if labels is not None:
            named = dict(zip(self.rules.classes.names, labels, strict=True))
            sample = replace(sample, image_labels=named)
        members = self._members(record, contents, header, size_wh, place, is_turned=is_turned)
        if self.rules.reencoding:
            members, sample = reencoded(self.rules.reencoding, members, sample, place=place)
        members["json"] = encode_sample(sample)
        return BuiltSample(sample, members)

    def checked(
        self, record: Record, annotation: Annotation | None, contents: Sequence[bytes]
    ) -> Sample:
        """Check a record by its annotation, its picture's header and its masks, as `built` would.

        Args:
            record: As for `built`.
            annotation: As for `built`.
            contents: As for `built`; of a picture the first bytes, as many as its header takes.

        Raises:
            DataError: As `built` does.
        """
        assert record.image is not None
        with self._noted():
            place = self.sources[record.source].place(record.image)
            header = read_header(contents[0], place)
            is_turned = self._is_turned(record, annotation, header, contents)
            size_wh = header.upright_wh if is_turned else header.size_wh
            self._note_form(record, header, place)
            sample = self._sample(record, annotation, header, size_wh, is_turned=is_turned)
            self._masks(record, contents[1:], size_wh)
            return sample

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Count what is noted of a record only if it becomes a sample; else its error says all."""
        report, num_dropped = self.report, len(self.dropped)
        self.report = Report()
        try:
            yield
            report.merge(self.report.as_json())
        except DataError:
            del self.dropped[num_dropped:]
            raise
        finally:
            self.report = report

    # The picture ----------------------------------------------------------------------------------

    def _members(
        self,
        record: Record,
        contents: Sequence[bytes],
        header: Header,
        size_wh: Size,
        place: str,
        *,
        is_turned: bool,
    ) -> dict[str, bytes]:
        bakes = is_turned and self._is_baked(header)
        self._note_form(record, header, place)
        form = stored_form(contents[0], header, place, turn=bakes)
        members = {form.extension: form.content}
        return members | self._masks(record, contents[1:], size_wh)

    def _masks(self, record: Record, contents: Sequence[bytes], size_wh: Size) -> dict[str, bytes]:
        source, members, rest = self.sources[record.source], dict[str, bytes](), iter(contents)
        if record.class_mask is not None:
            place = source.place(record.class_mask)
            read = self.rules.colors[record.source].read(next(rest), size_wh, place)
            members["class.png"] = read.content
            if read.note:
                self.report.add(read.note, place)
            for name in read.dropped:
                self.report.add("other-class-dropped", f"{place}: {name!r}")
        if record.object_mask is not None:
            members["object.png"] = next(rest)
            check_object_mask(members["object.png"], size_wh, source.place(record.object_mask))
        return members

    def _is_baked(self, header: Header) -> bool:
        """Whether a turned picture is written upright: on request, or as it is written anyway."""
        is_new = header.format not in EXTENSIONS or self.rules.reencoding is not None
        return self.rules.choices.exif == "bake" or is_new

    def _note_form(self, record: Record, header: Header, place: str) -> None:
        assert record.image is not None
        suffix = f".{record.image.name.rpartition('.')[2].lower()}"
        if suffix not in _SUFFIXES[header.format]:
            self.report.add("content-other-than-name", f"{place}: {header.format}")
        if header.format not in EXTENSIONS:
            self.report.add("picture-recoded", f"{place}: {header.format}")
        if record.key != record.id:
            self.report.add("name-encoded", f"{place}: {record.key}")

    def _is_turned(
        self,
        record: Record,
        annotation: Annotation | None,
        header: Header,
        contents: Sequence[bytes],
    ) -> bool:
        """Whether boxes and masks belong to the picture as EXIF turns it."""
        if header.orientation == 1:
            return False
        assert record.image is not None
        source, exif = self.sources[record.source], self.rules.choices.exif
        place = source.place(record.image)
        found = {"upright": True, "stored": False}.get(exif)
        if found is None:
            mask = record.class_mask or record.object_mask
            mask_wh = picture_size(contents[1], "PNG", source.place(mask)) if mask else None
            is_voc = self.rules.are_voc[record.source]
            found = tells_turned(header, annotation, mask_wh, is_voc=is_voc)
        if found is None and exif == "bake":
            found = True
        if found is None:
            problem = (
                f"has EXIF orientation {header.orientation}, and nothing tells whether its "
                f"annotation is about the picture as stored or as turned"
            )
            raise DataError(place, problem, "say it by --exif upright or --exif stored")
        turned = "exif-baked" if self._is_baked(header) else "exif-upright"
        code = turned if found else "exif-ignored"
        self.report.add(code, f"{place}: orientation {header.orientation}")
        return found

    # The annotation -------------------------------------------------------------------------------

    def _sample(
        self,
        record: Record,
        annotation: Annotation | None,
        header: Header,
        size_wh: Size,
        *,
        is_turned: bool,
    ) -> Sample:
        source = self.sources[record.source]
        objects = dict[int, SampleObject]()
        if annotation is not None:
            assert record.annotation is not None
            place = source.place(record.annotation)
            is_normalized = self.rules.conventions[record.source] == NORMALIZED
            self._note_annotation(annotation, place, is_normalized=is_normalized)
            scale = self._scale(annotation, size_wh, place)
            objects = dict(self._objects(record, annotation, size_wh, scale, place))
            if record.object_mask is not None:
                objects = _numbered(objects)
            self._check_listed(record, annotation, place)
        assert record.image is not None
        if annotation is None and record.expected_annotation is not None:
            self.report.add("unlabelled-background", source.place(record.image))
        return Sample(
            key=record.key,
            width=size_wh[0],
            height=size_wh[1],
            objects=tuple(objects.values()),
            segmented=None if annotation is None else annotation.segmented,
            image_sets=record.image_sets,
            source=SampleSource(year=self.rules.years[record.source], archive=record.source),
            image_labels=self._shown(record, source.place(record.image)),
            listed_objects=_listed(record, objects),
            file=None if record.is_plain else printable(record.image.name),
            orientation=header.orientation if is_turned and not self._is_baked(header) else 1,
            raw=annotation and raw_named(annotation.raw, self.rules.formats[record.source]),
        )

    def _note_annotation(self, annotation: Annotation, place: str, *, is_normalized: bool) -> None:
        if not annotation.objects and not annotation.bad_objects:
            self.report.add("background", place)
        if declared_size(annotation) is None and not is_normalized:
            self.report.add("size-absent", place)

    def _scale(
        self, annotation: Annotation, size_wh: Size, place: str
    ) -> tuple[float, float] | None:
        """Factors by which boxes have to be scaled; None: the declared size is the picture's."""
        declared = declared_size(annotation)
        if declared is None or declared == size_wh or not annotation.objects:
            return None
        told = f"says {declared[0]} x {declared[1]} px, its picture has {size_wh[0]} x {size_wh[1]}"
        choice = self.rules.choices.size_mismatch
        if choice == "ignore":
            self.report.add("size-ignored", f"{place}: {told}")
            return None
        is_alike = abs(declared[0] * size_wh[1] - declared[1] * size_wh[0]) <= max(
            *declared, *size_wh
        )
        if choice == "scale" and is_alike:
            self.report.add("size-scaled", f"{place}: {told}")
            return size_wh[0] / declared[0], size_wh[1] / declared[1]
        if choice == "scale":
            raise AnnotationError(place, f"{told}: another aspect, which scaling does not mend")
        ways = "--size-mismatch scale (boxes are of the declared size) or ignore (of the picture)"
        hint = ways if is_alike else "--size-mismatch ignore (boxes are of the picture's size)"
        raise AnnotationError(place, told, f"add {hint}")

    def _objects(
        self,
        record: Record,
        annotation: Annotation,
        size_wh: Size,
        scale: tuple[float, float] | None,
        place: str,
    ) -> Iterator[tuple[int, SampleObject]]:
        """The good objects, in their order, each with its 0-based number in the file."""
        num_good, bad = 0, [(its.index, its.problem) for its in annotation.bad_objects]
        for index, problem in bad:
            self._bad_object(record, index, problem)
        for item in annotation.objects:
            try:
                found = self._object(item, record.source, size_wh, scale, place)
            except AnnotationError as exc:
                bad.append((item.index, exc))
                self._bad_object(record, item.index, exc)
                continue
            if found is not None:
                num_good += 1
                yield item.index, found
        if bad and not num_good:
            _, first = min(bad, key=lambda its: its[0])
            reason = f"{first.place}: {first.problem}".removeprefix(f"{place}: ")
            told = f"none of its {len(bad)} objects can be read: {reason}"
            way = "" if self.rules.skips else "add --on-bad-record skip to leave it out"
            raise AnnotationError(place, told, way)

    def _bad_object(self, record: Record, index: int, exc: AnnotationError) -> None:
        """Drop an object if the options say so; else raise its error."""
        if isinstance(exc, BoxError) and self.rules.choices.bad_boxes == "drop":
            code = "bad-box-dropped"
        elif self.rules.skips:
            code = "bad-object-dropped"
        else:
            raise exc
        error = f"{exc.place}: {exc.problem}"
        self.report.add(code, error)
        self.dropped.append({"key": record.key, "object": index + 1, "error": error})

    def _object(
        self,
        item: ObjectAnnotation,
        source: int,
        size_wh: Size,
        scale: tuple[float, float] | None,
        place: str,
    ) -> SampleObject | None:
        """The object; None where it is of a class that the user drops."""
        rules, convention = self.rules, self.rules.conventions[source]
        if (its_class := self._class_of(item.name, place, f"object {item.index + 1}: ")) is None:
            return None
        name, label = its_class
        rle = run_lengths_of(item, size_wh, place)
        bbox = None
        if item.corners is not None:
            found = placed(
                item.corners,
                convention=convention,
                size_wh=size_wh,
                scale=scale,
                clips=rules.choices.bad_boxes == "clip",
                place=place,
                object_index=item.index,
                name=name,
            )
            bbox = found.box
            if found.code:
                self.report.add(found.code, f"{place}: object {item.index + 1} {item.corners}")
        first = 1 if convention == DEVKIT else 0
        x_scale, y_scale = scale or (1.0, 1.0)
        return SampleObject(
            name=name,
            label=label,
            bbox=bbox,
            difficult=item.difficult,
            truncated=item.truncated,
            occluded=item.occluded,
            pose=item.pose,
            parts=None
            if item.parts is None
            else tuple(
                Part(name=part.name, bbox=scaled(box_of(part.corners, convention), scale))
                for part in item.parts
            ),
            actions=item.actions,
            point=None
            if item.point is None
            else ((item.point[0] - first) * x_scale, (item.point[1] - first) * y_scale),
            polygons=None
            if item.polygons is None
            else tuple([self._polygon(its, convention, size_wh, scale) for its in item.polygons]),
            rle=rle,
            crowd=item.crowd,
            raw=raw_of(item, bbox, scale, rules.formats[source]),
        )

    def _class_of(self, written: str, place: str, whose: str = "") -> tuple[str, int] | None:
        """Name and label of a class; None where it is one that the user drops."""
        classes = self.rules.classes
        name = classes.rename.get(written, written)
        label = classes.labels.get(name)
        if label is None:
            if not classes.drops_others:
                problem = f"{whose}{written!r} is not one of the dataset's classes"
                hint = "use --classes, --rename or --other-classes drop"
                raise AnnotationError(place, problem, hint)
            self.report.add("other-class-dropped", f"{place}: {name!r}")
            return None
        if name != written:
            self.report.add("renamed", f"{written} to {name}")
        return name, label

    def _shown(self, record: Record, place: str) -> dict[str, int] | None:
        """VOC's 1 or -1 for each class, where the record says those of the whole picture."""
        if record.shown_classes is None:
            return None
        found = [self._class_of(name, place) for name in record.shown_classes]
        shown = {its[0] for its in found if its}
        return {name: 1 if name in shown else -1 for name in self.rules.classes.names}

    @staticmethod
    def _polygon(
        polygon: Polygon, convention: str, size_wh: Size, scale: tuple[float, float] | None
    ) -> Polygon:
        if convention == NORMALIZED:
            return in_pixels(polygon, size_wh)
        if scale is None:
            return tuple(polygon)
        return tuple([value * scale[at % 2] for at, value in enumerate(polygon)])

    @staticmethod
    def _check_listed(record: Record, annotation: Annotation, place: str) -> None:
        count = len(annotation.objects) + len(annotation.bad_objects)
        for number in record.listed_objects or ():
            if not 1 <= number <= count:
                problem = f"has {count} objects, a list of the split names object {number}"
                raise AnnotationError(place, problem)


def _listed(record: Record, objects: Mapping[int, SampleObject]) -> tuple[int, ...] | None:
    """Numbers of the objects that lists name, counted from 1 among those that stay."""
    if record.listed_objects is None:
        return None
    numbers = {index + 1: number for number, index in enumerate(objects, start=1)}
    return tuple(numbers[listed] for listed in record.listed_objects if listed in numbers)


def _numbered(objects: Mapping[int, SampleObject]) -> dict[int, SampleObject]:
    """The objects with their numbers in the object mask, where their places no longer tell them."""
    return {
        index: item if index + 1 == place else replace(item, number=index + 1)
        for place, (index, item) in enumerate(objects.items(), start=1)
    }
