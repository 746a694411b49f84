"""Opens datasets that are read as one: says their common task, and joins their classes by name."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from datamodules.loading.classes import check_masks_hold
from datamodules.loading.items import annotated_samples
from datamodules.loading.tasks import common_task
from datamodules.loading.truths import category_ids_of
from shard_tool.errors import OptionError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from shard_tool.storage.ranges import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shard_tool.format.manifest import Manifest

_NAMES_SHOWN = 5


class Joined(NamedTuple):
    """One or more datasets that are read as one."""

    folders: list[Folder]
    manifests: list[Manifest]
    task: str
    classes: dict[str, int]
    """Class name to label, from 1; 0 is background."""
    is_renumbered: bool
    """Whether a dataset has another label for one of its classes: then only names say what its
    objects are."""

    @classmethod
    def of(
        cls,
        roots: str | Sequence[str],
        task: str | None = None,
        classes: Sequence[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> Joined:
        """Read the manifests of datasets and join them.

        Args:
            roots: A folder (path or URL), or several.
            task: A task that all must be able to serve; None: the one that all were made for.
            classes: Names of all classes in the order of their labels; None: the order of the
                dataset that has most, which must have those of the others.
            storage_options: fsspec's options.
            timeout_s: Seconds for which a request is repeated before it fails.

        Raises:
            OptionError: A dataset cannot serve the task, tasks differ, or classes do not join.
            ObjectMissing: A root holds no dataset.
            ManifestError: A manifest is of an unknown version or damaged.
        """
        urls = list(roots) if isinstance(roots, list | tuple) else [roots]
        options = dict(storage_options or {})
        folders = [Folder(str(url), options, timeout_s=timeout_s) for url in urls]
        if not folders:
            raise OptionError("roots", "there is no dataset in the list")
        manifests = [load_manifest(folder) for folder in folders]
        task = common_task(folders, manifests, task)
        table = _given(classes) if classes is not None else _largest(folders, manifests)
        for folder, manifest in zip(folders, manifests, strict=True):
            if missing := [name for name in manifest.classes if name not in table]:
                problem = f"{_listed(missing)} of {folder} is not among them"
                hint = "name all classes in the order of their labels, or convert the data again"
                raise OptionError("classes", problem, f"{hint} with --classes")
        check_masks_hold(table, task, place=str(folders[0]))
        changed = _renumbered(folders, manifests, table)
        if changed and task == "segmentation":
            problem = f"{changed}, and masks hold numbers, not names"
            raise OptionError("classes", problem, "convert the data again with the same --classes")
        return cls(folders, manifests, task, table, bool(changed))

    def parser(self, *, for_evaluation: bool, unmasked: str) -> Callable[..., Any]:
        """`annotated_samples` for these datasets.

        Args:
            for_evaluation: Whether samples keep the truth that evaluation compares with.
            unmasked: For instances, one of `UNMASKED`.
        """
        return partial(
            annotated_samples,
            task=self.task,
            classes=self.classes,
            names_only=self.is_renumbered,
            unmasked=unmasked,
            categories=category_ids_of(self.manifests, self.classes) if for_evaluation else None,
        )


def _given(classes: Sequence[str]) -> dict[str, int]:
    """The table of names in the order of labels."""
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if isinstance(classes, str) or not classes or twice:
        found = f"{twice[0]!r} twice" if twice and not isinstance(classes, str) else repr(classes)
        raise OptionError("classes", f"{found}: expected a list of names, each once")
    return {name: label for label, name in enumerate(classes, start=1)}


def _largest(folders: list[Folder], manifests: list[Manifest]) -> dict[str, int]:
    """The table that has most classes, of equal ones the first; it must have those of all."""
    at = max(range(len(manifests)), key=lambda i: len(manifests[i].classes))
    table = manifests[at].classes
    for folder, manifest in zip(folders, manifests, strict=True):
        if only_here := [name for name in manifest.classes if name not in table]:
            only_there = [name for name in table if name not in manifest.classes]
            problem = f"its classes differ from those of {folders[at]}: {_listed(only_here)} only"
            problem += f" here, {_listed(only_there)} only there"
            hint = "give classes=[…], all names in the order of their labels, or convert both"
            raise OptionError(str(folder), problem, f"{hint} again with the same --classes")
    return table


def _renumbered(folders: list[Folder], manifests: list[Manifest], table: dict[str, int]) -> str:
    """Names a class that has another label in a dataset than in the table; empty: there is none."""
    for folder, manifest in zip(folders, manifests, strict=True):
        for name, label in manifest.classes.items():
            if table[name] != label:
                return (
                    f"{name!r} has label {label} in {folder}, {table[name]} where they are joined"
                )
    return ""


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    shown = ", ".join(map(repr, names[:_NAMES_SHOWN]))
    return f"{shown} and {more} more" if more > 0 else shown
