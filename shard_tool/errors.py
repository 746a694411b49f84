"""Every error this project raises on purpose.

    ShardToolError
    ├── OptionError         (also ValueError)         an argument nobody can act on
    ├── DataError                                     the source's content is wrong
    │   ├── AnnotationError
    │   │   └── BoxError
    │   ├── SourceError                               an archive or folder is not what it should be
    │   └── SampleError                               a sample fails to decode or to transform
    ├── FormatError                                   a dataset on disk is wrong
    │   ├── ManifestError
    │   └── ShardError
    ├── StoreError                                    storage did not do what was asked
    │   ├── ObjectMissing   (also FileNotFoundError)
    │   └── ObjectExists    (also FileExistsError)
    │       └── ObjectBusy                            another process is at work there: wait for it
    ├── ResumeError                                   a saved state does not fit
    └── EvaluationError                               predictions do not fit what they are judged by

A message reads ``place: what is wrong (found, expected)``; the way out is in `hint`. Values that
came from users are shown with ``!r``; credentials and signed URLs never get here. All arguments
stay in ``args``, so that every error survives the way back from a worker process.
"""

from __future__ import annotations


class ShardToolError(Exception):
    """A place, what is wrong there, and the way out.

    Args:
        place: File, member, option or object the problem was found in.
        problem: What was found and what was expected.
        hint: What the reader can do about it; empty where nothing helps.
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
    """An archive or a folder is not a VOC devkit, or is cut short."""


class AnnotationError(DataError):
    """An annotation cannot be read as the VOC format describes it."""


class BoxError(AnnotationError):
    """A box is empty, inverted or outside its picture.

    Args:
        place: The annotation file.
        object_index: 0-based number of the object in its file; printed 1-based.
        name: The object's class name.
        corners: (xmin, ymin, xmax, ymax) as found: 1-based, both corners inside.
        size_wh: Width and height of the picture in pixels.
    """

    def __init__(
        self,
        place: str,
        object_index: int,
        name: str,
        corners: tuple[float, float, float, float],
        size_wh: tuple[int, int],
    ) -> None:
        Exception.__init__(self, place, object_index, name, corners, size_wh)
        self.place, self.object_index, self.name = place, object_index, name
        self.corners, self.size_wh = corners, size_wh
        self.hint = "correct the file, or convert with --on-bad-record skip"

    @property
    def problem(self) -> str:  # type: ignore[override]  # composed from the fields
        """The first rule the corners break, in the file's own words."""
        xmin, ymin, xmax, ymax = self.corners
        width, height = self.size_wh
        rules = [
            (xmin < 1, f"xmin {_plain(xmin)} is below 1 (VOC counts pixels from 1)"),
            (ymin < 1, f"ymin {_plain(ymin)} is below 1 (VOC counts pixels from 1)"),
            (xmax > width, f"xmax {_plain(xmax)} is outside width {width}"),
            (ymax > height, f"ymax {_plain(ymax)} is outside height {height}"),
            (xmin - 1 >= xmax, f"xmin {_plain(xmin)} lies right of xmax {_plain(xmax)}"),
            (ymin - 1 >= ymax, f"ymin {_plain(ymin)} lies below ymax {_plain(ymax)}"),
        ]
        broken = next((text for is_broken, text in rules if is_broken), "the box is not finite")
        return f"object {self.object_index + 1} {self.name!r}: {broken}"


def _plain(value: float) -> str:
    """Every digit that tells it from its neighbours, but no '.0'."""
    return str(value).removesuffix(".0")


class SampleError(DataError):
    """A sample's verified bytes fail to decode or to transform."""


class FormatError(ShardToolError):
    """A dataset on disk is not what its format says."""


class ManifestError(FormatError):
    """A manifest is of another version, incomplete or contradicts itself."""


class ShardError(FormatError):
    """A shard or its index differs from what the manifest or the tar format says."""


class StoreError(ShardToolError):
    """Storage failed or refused."""


class ObjectMissing(StoreError, FileNotFoundError):  # noqa: N818  (named as people look for it)
    """There is nothing at this place."""


class ObjectExists(StoreError, FileExistsError):  # noqa: N818
    """There is something at this place already."""


class ObjectBusy(ObjectExists):
    """Another process is at work at this place; what it does may be what is wanted."""


class ResumeError(ShardToolError):
    """A saved state belongs to other data, another seed or another version."""


class EvaluationError(ShardToolError):
    """Predictions cannot be judged: of the wrong shape, of the wrong samples, or counted twice."""
