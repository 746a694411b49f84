"""Makes missing datasets before training, and decides which nodes make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.errors import ObjectMissing, OptionError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSource:
    """What a missing dataset is made from."""

    source: str | None
    """A VOC archive or folder."""
    download: bool
    """Whether the official archive of `year` is downloaded where no source is given."""
    year: str
    """'2007' … '2012'."""

    def __bool__(self) -> bool:
        """Whether there is anything to make a dataset from."""
        return bool(self.source) or self.download

    def check_for(self, roots: Sequence[str]) -> None:
        """Refuse to make several datasets of one source."""
        if self and len(roots) > 1:
            problem = f"{len(roots)} folders given, prepare_data can make one dataset"
            raise OptionError("data_dir", problem, "convert them with `shard-tool convert`")


def make_missing_datasets(
    roots: Sequence[str],
    making: DatasetSource,
    *,
    task: str | None,
    storage_options: dict[str, Any],
) -> None:
    """Make each dataset that is missing, as `shard_tool.convert.make` does.

    Args:
        roots: Folders or URLs of datasets.
        making: What a missing one is made from.
        task: What it is made for; None: detection.
        storage_options: fsspec's options for `roots`.

    Raises:
        ObjectMissing: A dataset is missing, and there is nothing to make it from.
        OptionError: The task is 'instances', and only the user knows what `source` has to be made
            for, because that depends on where its outlines are.
        ShardToolError: As `make_dataset` raises.
    """
    for root in roots:
        try:
            load_manifest(Folder(root, storage_options))
        except ObjectMissing:
            if not making:
                raise
            # Here, not above: training alone needs nothing of the converter.
            from shard_tool.convert.make import make_dataset

            make_dataset(
                root,
                source=making.source,
                year=making.year,
                task=_made_for(task, making),
                storage_options=storage_options,
            )


def _made_for(task: str | None, making: DatasetSource) -> str:
    """The task for which `convert` makes a dataset that serves `task`."""
    if task != "instances":
        return task or "detection"
    if making.source:
        problem = "says nothing of where the outlines of objects are in the source"
        hint = (
            "convert it first: --task segmentation for VOC's SegmentationObject, --task detection"
        )
        raise OptionError("task 'instances'", problem, f"{hint} for outlines in annotations")
    return "segmentation"


def is_needed_on_each_node(roots: Sequence[str]) -> bool:
    """Whether some root is a path: each node may have a disk of its own. Asks nothing of storage.

    >>> is_needed_on_each_node(["s3://bucket/voc"]), is_needed_on_each_node(["s3://b/voc", "voc"])
    (False, True)
    """
    return any("://" not in root or root.startswith(("file://", "local://")) for root in roots)
