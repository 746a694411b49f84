"""Holds what decides how records become samples: the user's options and what the sources told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from shard_tool.pictures.masks import MaskColors
    from shard_tool.pictures.reencode import Reencoding
    from shard_tool.sources.classes import ClassTable

BoxOption = Literal["auto", "devkit", "corners"]
BadBoxes = Literal["fail", "clip", "drop"]
SizeMismatch = Literal["fail", "scale", "ignore"]
Exif = Literal["auto", "upright", "stored", "bake"]
Unlabelled = Literal["auto", "fail", "drop", "background"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the user decides about data that could be read in two ways.

    Raises:
        OptionError: A value is none of its option's.
    """

    boxes: BoxOption = "auto"
    """Convention of the numbers of boxes. 'auto': the devkit's where the classes are VOC's."""
    bad_boxes: BadBoxes = "fail"
    """What becomes of boxes that leave their picture by more than a pixel, or have no area."""
    size_mismatch: SizeMismatch = "fail"
    """What becomes of boxes where the annotation says another size than the picture has."""
    exif: Exif = "auto"
    """Which pixels boxes belong to in pictures with an EXIF orientation. 'auto': the declared size
    tells, where it can."""
    unlabelled: Unlabelled = "auto"
    """What becomes of pictures without annotation. 'auto': an error where a list names them, else
    they are left out."""

    def __post_init__(self) -> None:
        for name, its in (
            ("boxes", BoxOption),
            ("bad_boxes", BadBoxes),
            ("size_mismatch", SizeMismatch),
            ("exif", Exif),
            ("unlabelled", Unlabelled),
        ):
            if (value := getattr(self, name)) not in get_args(its):
                flag = f"--{name.replace('_', '-')}"
                raise OptionError(flag, f"{value!r} is not one of {', '.join(get_args(its))}")

    def describe(self) -> dict[str, Any]:
        """The choices that are not the default, for the manifest."""
        defaults = Choices()
        return {
            name: getattr(self, name)
            for name in self.__slots__
            if getattr(self, name) != getattr(defaults, name)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All that `build_sample` needs to know beside a record; a small value for workers."""

    task: str
    classes: ClassTable
    choices: Choices
    conventions: tuple[str, ...]
    """Box convention of each source: a key of `CONVENTIONS`."""
    are_voc: tuple[bool, ...]
    """Whether all names of each source are VOC's."""
    colors: tuple[MaskColors, ...]
    """Colours of masks, of each source."""
    formats: tuple[str, ...]
    """Format of each source."""
    years: tuple[str, ...]
    """Year of each source, for samples."""
    skips: bool
    """Whether bad records and objects are skipped; else they are errors."""
    reencoding: Reencoding | None

    @property
    def boxes(self) -> str:
        """The conventions, for the user."""
        return " and ".join(dict.fromkeys(self.conventions))
