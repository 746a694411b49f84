"""Defines every error that this project raises on purpose.

    ShardToolError
    ├── OptionError         (also ValueError)         an option has a value that cannot be used
    ├── DataError                                     the content of a source is wrong
    │   ├── AnnotationError
    │   │   └── BoxError
    │   ├── SourceError                               an archive is not a devkit, or is cut
    │   └── SampleError                               a sample cannot be decoded or transformed
    ├── FormatError                                   a stored dataset breaks its format
    │   ├── ManifestError
    │   └── ShardError
    ├── StoreError                                    storage failed or refused
    │   ├── ObjectMissing   (also FileNotFoundError)
    │   └── ObjectExists    (also FileExistsError)
    │       └── ObjectBusy                            another process is writing there: wait for it
    ├── ResumeError                                   a saved state does not fit this run
    └── EvaluationError                               predictions cannot be scored

A message reads ``place: what is wrong (found, expected)``; `hint` says what to do about it. Values
given by users are shown with ``!r``; credentials and signed URLs are removed before. All arguments
stay in ``args``, so every error can be pickled and comes back whole from a worker process.
"""

from __future__ import annotations


class ShardToolError(Exception):
    """Says where a problem is, what it is, and what to do about it.

    Args:
        place: File, member, option or object with the problem.
        problem: What was found and what was expected.
        hint: What the reader can do about it; empty if nothing helps.
    """

    def __init__(self, place: str, problem: str, hint: str = "") -> None:
        super().__init__(place, problem, hint)
        self.place, self.problem, self.hint = place, problem, hint

    def __str__(self) -> str:
        text = f"{self.place}: {self.problem}"
        return f"{text}; {self.hint}" if self.hint else text


class OptionError(ShardToolError, ValueError):
    """An option or argument has a value that cannot be used."""


class DataError(ShardToolError):
    """The content of a source is wrong."""


class SourceError(DataError):
    """An archive or a folder holds nothing that can be converted, or is cut short."""


class AnnotationError(DataError):
    """An annotation does not follow its format."""


class BoxError(AnnotationError):
    """A box is empty, inverted or outside its picture.

    Args:
        place: The annotation file.
        object_index: 0-based number of the object in its file; printed 1-based.
        name: The object's class name.
        corners: (xmin, ymin, xmax, ymax) as found.
        size_wh: Width and height of the picture in pixels.
        convention: 'devkit' (from 1, both corners inside), 'corners' (from zero) or 'normalized'
            (in parts of the picture, whose size is 1 x 1 then).
    """

    def __init__(
        self,
        place: str,
        object_index: int,
        name: str,
        corners: tuple[float, float, float, float],
        size_wh: tuple[int, int],
        convention: str = "devkit",
    ) -> None:
        Exception.__init__(self, place, object_index, name, corners, size_wh, convention)
        self.place, self.object_index, self.name = place, object_index, name
        self.corners, self.size_wh, self.convention = corners, size_wh, convention
        first, (xmin, ymin, xmax, ymax) = int(convention == "devkit"), corners
        is_seen = max(xmin - first, 0) < min(xmax, size_wh[0]) and xmin <= xmax
        is_seen &= max(ymin - first, 0) < min(ymax, size_wh[1]) and ymin <= ymax
        ways = "clip or drop" if is_seen else "drop"
        self.hint = (
            f"correct the file, or convert with --bad-boxes {ways}, or with --on-bad-record skip"
        )

    @property
    def problem(self) -> str:  # type: ignore[override]  # made from the fields
        """The first rule that the corners break, with the values of the file."""
        xmin, ymin, xmax, ymax = self.corners
        width, height = self.size_wh
        first = 1 if self.convention == "devkit" else 0
        because = " (VOC counts pixels from 1)" if first else ""
        allowed = 0.01 if self.convention == "normalized" else 1  # it may leave so far
        rules = [
            (xmin > xmax, f"xmin {_plain(xmin)} lies right of xmax {_plain(xmax)}"),
            (ymin > ymax, f"ymin {_plain(ymin)} lies below ymax {_plain(ymax)}"),
            (xmin - first >= xmax, f"xmin {_plain(xmin)} is xmax: the box is empty"),
            (ymin - first >= ymax, f"ymin {_plain(ymin)} is ymax: the box is empty"),
            (xmin < first - allowed, f"xmin {_plain(xmin)} is below {first}{because}"),
            (ymin < first - allowed, f"ymin {_plain(ymin)} is below {first}{because}"),
            (xmax <= 0, f"xmax {_plain(xmax)} is not above 0: nothing of the box is inside"),
            (ymax <= 0, f"ymax {_plain(ymax)} is not above 0: nothing of the box is inside"),
            *(
                rule
                for more in (allowed, 0)  # the reason is what leaves by more than it may
                for rule in (
                    (xmax > width + more, f"xmax {_plain(xmax)} is outside width {width}"),
                    (ymax > height + more, f"ymax {_plain(ymax)} is outside height {height}"),
                )
            ),
        ]
        broken = next((text for is_broken, text in rules if is_broken), "the box is not finite")
        return f"object {self.object_index + 1} {self.name!r}: {broken}"


def _plain(value: float) -> str:
    """Shortest text that stands for exactly this value, without '.0'."""
    return str(value).removesuffix(".0")


class SampleError(DataError):
    """The verified bytes of a sample cannot be decoded or transformed."""


class FormatError(ShardToolError):
    """A stored dataset breaks the rules of its format."""


class ManifestError(FormatError):
    """A manifest has another version, is incomplete or contradicts itself."""


class ShardError(FormatError):
    """A shard or its index differs from what the manifest or the tar format says."""


class StoreError(ShardToolError):
    """Storage failed or refused a request."""


class ObjectMissing(StoreError, FileNotFoundError):  # noqa: N818  (people look for this name)
    """No object is at this place."""


class ObjectExists(StoreError, FileExistsError):  # noqa: N818
    """An object is at this place already."""


class ObjectBusy(ObjectExists):
    """Another process is writing at this place: wait for it, it may make what is wanted."""


class ResumeError(ShardToolError):
    """A saved state belongs to other data, another seed or another version."""


class EvaluationError(ShardToolError):
    """Predictions cannot be scored: wrong shape, wrong samples, or a sample counted twice."""
