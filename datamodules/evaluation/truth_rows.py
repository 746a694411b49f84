"""Makes rows of the tables for COCO's metric, from the truth that targets carry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.evaluation.coco_metrics import OBJECT, PICTURE
from datamodules.evaluation.inputs import array_of
from datamodules.evaluation.truth import Truth
from shard_tool.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_AS_IT_IS = (1.0, 0.0, 1.0, 0.0)
_UNKNOWN = (math.nan,) * 4


def as_target(truth: Truth | None, sample_id: int) -> dict[str, torch.Tensor]:
    """The target of a sample in pixels of the stored picture.

    Raises:
        EvaluationError: There is no truth.
    """
    if truth is None:
        raise no_truth(sample_id)
    corners = truth.boxes.copy()
    corners[:, 2:] += corners[:, :2]
    return {
        "boxes": torch.from_numpy(corners),
        "labels": torch.from_numpy(truth.labels),
        "difficult": torch.from_numpy(truth.are_ignored),
    }


def truth_as_labelled(target: Mapping[str, Any]) -> Truth | None:
    """The truth of a target, with the labels that the target has now.

    A caller may have given its objects other labels. Where it has left some out, the target's own
    boxes are all that counts, and the way back is unknown.
    """
    truth = target.get("truth")
    if not isinstance(truth, Truth):  # some targets have something of their own under the name
        return None
    if "labels" not in target:
        return truth
    labels = array_of(target["labels"])
    if len(labels) != len(truth.labels):
        return truth._replace(to_original=None)
    return truth._replace(labels=labels)


def no_truth(sample_id: int) -> EvaluationError:
    """The error for a target that does not say where its sample comes from."""
    return EvaluationError(
        f"targets of sample {sample_id}",
        "no 'truth'",
        "give the targets of a loader of ShardDataset(…, shuffle=False)",
    )


def picture_rows(
    ids: NDArray[np.int64], truths: Sequence[Truth | None], *, in_original_pixels: bool
) -> NDArray[Any]:
    """PICTURE [B].

    Args:
        ids: int64 [B]: sample ids.
        truths: The truth of each sample; None: its target has none.
        in_original_pixels: Whether its detections are in pixels of the stored picture.
    """
    rows = np.zeros(len(ids), PICTURE)
    rows["sample_id"] = ids
    for at, truth in enumerate(truths):
        way = _UNKNOWN if truth is None else truth.to_original or _UNKNOWN
        way = _AS_IT_IS if in_original_pixels else way
        rows["scale"][at], rows["offset"][at] = way[::2], way[1::2]
        rows["size_wh"][at] = (0, 0) if truth is None else truth.size_wh
        for name in ("key", "image_id", "category_ids"):
            rows[name][at] = None if truth is None else getattr(truth, name)
    return rows


def object_rows(
    ids: NDArray[np.int64],
    truths: Sequence[Truth | None],
    pictures: NDArray[Any],
    seen: NDArray[Any],
) -> NDArray[Any]:
    """OBJECT [N].

    Args:
        ids: int64 [B]: sample ids.
        truths: The truth of each sample; None: its target has none.
        pictures: PICTURE [B], what `picture_rows` returned.
        seen: TRUTH [M]: the truths in pixels that the model saw; they are taken for samples whose
            way back to the stored picture is unknown.
    """
    parts = [np.empty(0, OBJECT)]
    is_known = np.isfinite(pictures["scale"]).all(axis=1)
    for sample_id, truth, known in zip(ids, truths, is_known, strict=True):
        if truth is not None and known:
            part = np.zeros(len(truth.labels), OBJECT)
            part["sample_id"], part["label"] = sample_id, truth.labels
            part["is_ignored"], part["has_id_0"] = truth.are_ignored, truth.have_id_0
            part["area"], part["box"] = truth.areas, truth.boxes
        else:
            its = seen[seen["sample_id"] == sample_id]
            part = np.zeros(len(its), OBJECT)
            part["sample_id"], part["label"] = its["sample_id"], its["label"]
            part["is_ignored"], part["box"] = its["difficult"], its["box"]
            part["box"][:, 2:] -= its["box"][:, :2]
            part["area"] = part["box"][:, 2:].prod(axis=1)
        parts.append(part)
    return np.concatenate(parts)
