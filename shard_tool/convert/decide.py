"""Decides the rules of a conversion by the user's options and by what all annotations told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.convert.rules import Rules
from shard_tool.errors import DataError, OptionError
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.pictures.masks import MaskColors, voc_color
from shard_tool.sources.boxes import CONVENTIONS, CORNERS, DEVKIT
from shard_tool.sources.classes import ClassTable, decide_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shard_tool.convert.options import ConvertOptions
    from shard_tool.convert.survey import Evidence, Surveyed
    from shard_tool.sources.source import Source


def decide_rules(
    options: ConvertOptions, sources: Sequence[Source], surveyed: Surveyed
) -> tuple[Rules, list[DataError]]:
    """Decide the rules.

    Returns:
        The rules, and what the user has to decide instead. If there is any, the rules hold what
        would be taken where the user insists.
    """
    _check_convention(options, sources)
    questions = list[DataError]()
    place = ", ".join(dict.fromkeys(source.files.shown for source in sources))
    names = dict(surveyed.names) or _names_of_masks(sources)
    is_ordered = not surveyed.names
    declared = dict.fromkeys(name for source in sources for name in source.class_ids)
    may_be_voc = False
    try:
        classes = decide_classes(
            names,
            options.classes,
            place=place,
            is_ordered=is_ordered,
            declared=tuple(declared),
        )
    except DataError as exc:
        questions.append(exc)
        classes = ClassTable(options.classes.classes or tuple(sorted(names)))
        # Once they are merged or left out, the classes may be VOC's: ask about boxes as well.
        may_be_voc = sum(name in VOC_CLASSES for name in names) > len(names) / 2
    are_voc = [has_voc_classes(source, sources, classes, surveyed) for source in sources]
    conventions = []
    for source, is_voc in zip(sources, are_voc, strict=True):
        evidence = surveyed.evidence.get(source.files.number)
        convention, question = _convention(
            options, source, evidence, is_voc=is_voc, may_be_voc=may_be_voc
        )
        conventions.append(convention)
        questions += [question] if question else []
    rules = Rules(
        task=options.task,
        classes=classes,
        choices=options.choices,
        conventions=tuple(conventions),
        are_voc=tuple(are_voc),
        colors=tuple(_colors(source, classes, options) for source in sources),
        formats=tuple(source.format for source in sources),
        years=tuple(source.year for source in sources),
        skips=options.on_bad_record == "skip",
        reencoding=options.reencoding(),
    )
    return rules, questions


def _names_of_masks(sources: Sequence[Source]) -> dict[str, int]:
    """The classes that masks alone have, in the order of their values; none counted."""
    its = (source for source in sources if source.format == "masks")
    return {name: 0 for source in its for name, _ in source.colors if name}


def _check_convention(options: ConvertOptions, sources: Sequence[Source]) -> None:
    """Refuse a convention that no source may have: it would be ignored.

    Raises:
        OptionError: The formats of all sources fix another one.
    """
    chosen = options.choices.boxes
    if chosen != "auto" and not any(chosen in source.conventions for source in sources):
        source = sources[0]
        told = CONVENTIONS[source.conventions[0]]
        problem = f"{chosen!r} is not how {source.format} has boxes: {told}"
        raise OptionError("--boxes", problem, "leave --boxes out")


def _convention(
    options: ConvertOptions,
    source: Source,
    evidence: Evidence | None,
    *,
    is_voc: bool,
    may_be_voc: bool,
) -> tuple[str, DataError | None]:
    """The convention of a source's boxes, and the question where its numbers speak against it."""
    if options.choices.boxes != "auto" or len(source.conventions) == 1:
        chosen = options.choices.boxes if len(source.conventions) > 1 else source.conventions[0]
        return chosen, None
    convention = DEVKIT if is_voc else CORNERS
    is_asked = is_voc or may_be_voc
    if not is_asked or evidence is None or not evidence.num_zero:
        return convention, None
    problem = (
        f"{evidence.num_zero} of {evidence.num_boxes} boxes have a 0 or less for xmin or ymin "
        f"(such as {evidence.first_zero}), and VOC's devkit counts pixels from 1"
    )
    hint = (
        "add --boxes corners if the numbers count from zero, as labelImg, CVAT and Roboflow write "
        "them; or --boxes devkit if these boxes are mistakes, to be clipped"
    )
    return convention, DataError(source.files.shown, problem, hint)


def has_voc_classes(
    source: Source, sources: Sequence[Source], classes: ClassTable, surveyed: Surveyed
) -> bool:
    """Whether a source's own classes are VOC's, whatever another source adds to the table."""
    evidence = surveyed.evidence.get(source.files.number)
    if classes.is_voc or len(sources) == 1 or evidence is None or not evidence.names:
        return classes.is_voc
    return all(classes.rename.get(name, name) in VOC_CLASSES for name in evidence.names)


def _colors(source: Source, classes: ClassTable, options: ConvertOptions) -> MaskColors:
    """What masks mean: as the source says it, else VOC's colours and values by label.

    For classes that are not VOC's their order must be said; that of found names means nothing.
    """
    if source.colors:
        colors = tuple((classes.rename.get(name, name), color) for name, color in source.colors)
        values = tuple(name for name, _ in colors if name)
        return MaskColors(classes.names, colors, values, source.void_colors, classes.drops_others)
    if classes.is_voc or options.classes.classes:
        named = enumerate(classes.names[:254], start=1)
        colors = tuple((name, voc_color(label)) for label, name in named)
        return MaskColors(classes.names, colors, classes.names)
    return MaskColors(classes.names, (), None)
