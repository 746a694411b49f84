"""Writes detections as files that other tools read: COCO's results, YOLO's text, VOC's comp4."""

from __future__ import annotations

import json
import secrets
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.evaluation.coco_metrics import original_boxes, source_image_ids
from datamodules.evaluation.truth_rows import no_truth
from shard_tool.errors import EvaluationError, OptionError
from shard_tool.format.file_names import FileNames, safe_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from datamodules.evaluation.ranks import Tables

FORMATS = ("coco", "yolo", "voc")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPredictions:
    """What was written."""

    path: Path
    num_samples: int
    num_detections: int
    image_ids: str = ""
    """COCO: 'source', or 'numbered' where pictures have no ids at the source, or two the same: the
    sample id + 1, as `shard-tool export` numbers them."""
    category_ids: str = ""
    """COCO: 'labels' where they are the labels, 1 … K; else 'source'."""


@dataclass(frozen=True, slots=True)
class _Found:
    """The detections of all samples, and where each sample's begin."""

    pictures: NDArray[Any]
    """PICTURE [M], sorted by sample id."""
    labels: list[int]
    scores: list[float]
    boxes: list[list[float]]
    """x, y, width, height in pixels of the stored picture."""
    starts: list[int]
    """Number of the first detection of each sample, and of all."""


class Saving:
    """Writes detections.

    Args:
        path: The file, or the folder.
        format_: One of `FORMATS`.
        split: For VOC.
        class_names: Names in the order of labels from 1 on.

    Raises:
        OptionError: There is no such format, or names are missing for it.
    """

    def __init__(
        self, path: Path, format_: str, *, split: str, class_names: tuple[str, ...] | None
    ) -> None:
        if format_ not in FORMATS:
            raise OptionError("format", f"{format_!r} is not one of {', '.join(FORMATS)}")
        if format_ == "voc" and class_names is None:
            problem = "VOC's files are named by classes, and the evaluator knows no names"
            raise OptionError("class_names", problem, "give those of the dataset to the evaluator")
        self._path, self._format, self._split = path, format_, split
        self._class_names = class_names or ()

    def write(self, tables: Tables) -> SavedPredictions:
        """Write what all ranks found.

        Args:
            tables: `found` (DETECTION) and `pictures` (PICTURE), each sorted by sample id.

        Raises:
            EvaluationError: A sample does not say where it comes from, or a file cannot be written.
        """
        found = _found(tables)
        with _disk_errors(self._path):
            if self._format == "coco":
                return self._coco(found)
            with _new_folder(self._path) as folder:
                (self._write_yolo if self._format == "yolo" else self._write_voc)(folder, found)
        return SavedPredictions(
            path=self._path, num_samples=len(found.pictures), num_detections=len(found.labels)
        )

    def _coco(self, found: _Found) -> SavedPredictions:
        ids = source_image_ids(found.pictures)
        image_ids = ids or [int(its) + 1 for its in found.pictures["sample_id"]]
        tables = set(found.pictures["category_ids"].tolist())
        category_ids = next(iter(tables), ())
        is_labels = category_ids == tuple(range(1, 1 + len(category_ids)))
        with _replaced(self._path) as file:
            file.write("[")
            separator = "\n"
            for image_id, (start, stop) in zip(image_ids, pairwise(found.starts), strict=True):
                for row in range(start, stop):
                    detection = {
                        "image_id": image_id,
                        "category_id": category_ids[found.labels[row] - 1],
                        "bbox": found.boxes[row],
                        "score": found.scores[row],
                    }
                    file.write(separator + json.dumps(detection, ensure_ascii=False))
                    separator = ",\n"
            file.write("\n]\n")
        return SavedPredictions(
            path=self._path,
            num_samples=len(image_ids),
            num_detections=len(found.labels),
            image_ids="source" if ids else "numbered",
            category_ids="labels" if is_labels else "source",
        )

    def _write_yolo(self, folder: Path, found: _Found) -> None:
        names = FileNames(self._split)
        for picture, (start, stop) in zip(found.pictures, pairwise(found.starts), strict=True):
            width, height = picture["size_wh"].tolist()
            lines = []
            for row in range(start, stop):
                x, y, w, h = found.boxes[row]
                numbers = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                values = " ".join(repr(value) for value in (*numbers, found.scores[row]))
                lines.append(f"{found.labels[row] - 1} {values}\n")
            path = folder / f"{names.of(picture['key'])}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write("".join(lines))

    def _write_voc(self, folder: Path, found: _Found) -> None:
        lines: list[list[str]] = [[] for _ in self._class_names]
        names = FileNames(self._split, blanks=False)
        for picture, (start, stop) in zip(found.pictures, pairwise(found.starts), strict=True):
            name = names.of(picture["key"])
            for row in range(start, stop):
                x, y, width, height = found.boxes[row]
                corners = (x + 1, y + 1, x + width, y + height)  # from 1, both corners inside
                numbers = " ".join(repr(value) for value in (found.scores[row], *corners))
                lines[found.labels[row] - 1].append(f"{name} {numbers}\n")
        for name, its in zip(self._class_names, lines, strict=True):
            path = folder / f"comp4_det_{safe_name(self._split)}_{safe_name(name)}.txt"
            path.write_text("".join(its), "utf-8")


def _found(tables: Tables) -> _Found:
    """The detections in pixels of stored pictures.

    Raises:
        EvaluationError: A sample does not say where it comes from.
    """
    pictures, found = tables["pictures"], tables["found"]
    for picture in pictures:
        if picture["key"] is None:
            raise no_truth(picture["sample_id"])
        if not np.isfinite(picture["scale"]).all():
            problem = "its transform is no resize of the whole picture, or objects of its target "
            problem += "were left out, so its boxes cannot be turned into those of the stored one"
            hint = "turn them yourself, and call update(…, in_original_pixels=True)"
            raise EvaluationError(f"sample {picture['key']!r}", problem, hint)
    if len(set(pictures["category_ids"].tolist())) > 1:
        hint = "save the predictions for each dataset apart"
        raise EvaluationError("evaluation", "samples are of datasets with other class ids", hint)
    starts = np.searchsorted(found["sample_id"], pictures["sample_id"]).tolist()
    return _Found(
        pictures,
        found["label"].tolist(),
        found["score"].tolist(),
        original_boxes(pictures, found).tolist(),
        [*starts, len(found)],
    )


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        problem = f"cannot be written: {exc.strerror or exc}"
        raise EvaluationError(str(exc.filename or path), problem) from exc


@contextmanager
def _replaced(path: Path) -> Iterator[Any]:
    """A text file that takes its name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder that takes its name when all is in it.

    Raises:
        EvaluationError: There is something under the name.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise EvaluationError(str(path), "is there and not empty", "give a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    partial.mkdir()
    try:
        yield partial
        if path.is_dir():
            path.rmdir()
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
