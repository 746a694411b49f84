"""Computes COCO's twelve numbers of detections, by a library, from float64 boxes.

Source: `COCOeval` of pycocotools, which faster-coco-eval 1.8 follows to the last digit: on 374
made-up sets with crowds, ties and areas of their own the numbers differ by 2e-16 at most.
torchmetrics 1.9 has the same libraries behind it, but rounds boxes and areas to float32, and knows
no ids of pictures, by which COCO ranks equal scores.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from datamodules.evaluation.ranks import Tables

PICTURE = np.dtype(
    [
        ("sample_id", np.int64),
        ("key", object),
        ("image_id", object),
        ("category_ids", object),
        ("size_wh", np.int64, 2),
        ("scale", np.float64, 2),
        ("offset", np.float64, 2),
    ]
)
"""One sample. `scale` and `offset` turn x and y of detections into pixels of the stored picture;
NaN where the way back is unknown. `key` is None where the target says nothing of all this."""
OBJECT = np.dtype(
    [
        ("sample_id", np.int64),
        ("label", np.int32),
        ("is_ignored", np.bool_),
        ("has_id_0", np.bool_),
        ("area", np.float64),
        ("box", np.float64, 4),
    ]
)
"""One truth: box x, y, width, height, in pixels of the stored picture, or of the picture that the
model saw where the way back is unknown."""

BACKENDS = ("faster_coco_eval", "pycocotools")


class CocoNumbers(NamedTuple):
    """COCO's numbers in the order in which its own code prints them; -1 where no truth counts."""

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float


def coco_numbers(tables: Tables, backend: str) -> CocoNumbers:
    """COCO's numbers.

    Args:
        tables: `found` (DETECTION), `pictures` (PICTURE) and `objects` (OBJECT), each sorted by
            sample id; within a sample, equal scores keep their order.
        backend: One of `BACKENDS`.
    """
    pictures, objects, found = (tables[name] for name in ("pictures", "objects", "found"))
    number_of = _numbers(pictures)
    labels = np.unique(np.concatenate([objects["label"], found["label"]])).tolist()
    document: dict[str, Any] = {
        "images": [{"id": number} for number in range(1, len(pictures) + 1)],
        "categories": [{"id": label} for label in labels],
    }
    image_ids = number_of[np.searchsorted(pictures["sample_id"], objects["sample_id"])]
    ids = np.arange(1, len(objects) + 1)
    if objects["has_id_0"].sum() == 1:  # two cannot be told apart, and come of joined datasets
        ids[objects["has_id_0"]] = 0
    truths = [
        {"id": own, "image_id": image, "category_id": label, "bbox": box, "area": area}
        | {"iscrowd": int(is_ignored)}
        for own, image, label, box, area, is_ignored in zip(
            ids.tolist(),
            image_ids.tolist(),
            *(objects[name].tolist() for name in ("label", "box", "area", "is_ignored")),
            strict=True,
        )
    ]
    boxes = original_boxes(pictures, found)
    image_ids = number_of[np.searchsorted(pictures["sample_id"], found["sample_id"])]
    detections = [
        {"id": own, "image_id": image, "category_id": label, "bbox": box, "score": score}
        | {"area": box[2] * box[3], "iscrowd": 0}
        for own, (image, label, box, score) in enumerate(
            zip(
                image_ids.tolist(),
                found["label"].tolist(),
                boxes.tolist(),
                found["score"].tolist(),
                strict=True,
            ),
            start=1,
        )
    ]
    evaluate = {"faster_coco_eval": _by_faster_coco_eval, "pycocotools": _by_pycocotools}.get(
        backend
    )
    if evaluate is None:
        message = f"{backend!r} is not one of {', '.join(BACKENDS)}"
        raise ValueError(message)
    stats = evaluate({**document, "annotations": truths}, {**document, "annotations": detections})
    return CocoNumbers(*map(float, list(stats)[: len(CocoNumbers._fields)]))


def original_boxes(pictures: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """Boxes of detections as COCO writes them: float64 [N, 4]: x, y, width, height.

    They are in pixels of the stored picture, where the way back is known.

    Args:
        pictures: PICTURE [M], sorted by sample id.
        found: DETECTION [N], each of one of these samples.
    """
    its = pictures[np.searchsorted(pictures["sample_id"], found["sample_id"])]
    corners = found["box"].astype(np.float64).reshape(-1, 2, 2)
    moved = corners * its["scale"][:, None] + its["offset"][:, None]
    is_mirrored = its["scale"][:, 0] < 0
    moved[is_mirrored, :, 0] = moved[is_mirrored, ::-1, 0]
    moved = np.where(np.isfinite(its["scale"])[:, None], moved, corners)
    return np.concatenate([moved[:, 0], moved[:, 1] - moved[:, 0]], axis=1)


def source_image_ids(pictures: NDArray[Any]) -> list[int | str] | None:
    """The source's ids of pictures; None where one has none, or two have the same."""
    ids = pictures["image_id"].tolist()
    kinds = {type(its) for its in ids}
    return ids if len(kinds) <= 1 and None not in ids and len(set(ids)) == len(ids) else None


def _numbers(pictures: NDArray[Any]) -> NDArray[np.int64]:
    """1 … N for pictures in the order of their ids at the source, which ranks equal scores."""
    ids = source_image_ids(pictures)
    numbers = np.arange(1, len(pictures) + 1)
    if ids is not None:
        numbers[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(1, len(ids) + 1)
    return numbers


def _by_faster_coco_eval(truths: dict[str, Any], detections: dict[str, Any]) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster  # here: VOC's scores need neither

    evaluation = COCOeval_faster(
        COCO(truths), COCO(detections), iouType="bbox", print_function=lambda *_: None
    )
    return _summary(evaluation)


def _by_pycocotools(truths: dict[str, Any], detections: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        documents = COCO(), COCO()
        for one, document in zip(documents, (truths, detections), strict=True):
            one.dataset = document
            one.createIndex()
        return _summary(COCOeval(*documents, "bbox"))


def _summary(evaluation: Any) -> Any:
    steps: tuple[Callable[[], None], ...] = (
        evaluation.evaluate,
        evaluation.accumulate,
        evaluation.summarize,
    )
    for step in steps:
        step()
    return evaluation.stats
