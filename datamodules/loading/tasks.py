"""Says which tasks there are, and which of them the samples of datasets can serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from shard_tool.format.manifest import Manifest
    from shard_tool.storage.location import Folder

TASKS = ("detection", "segmentation", "classification")
"""Tasks that samples have a target for; shards of any other task hold generic samples."""

SERVED = {
    "detection": ("detection", "classification"),
    "segmentation": ("segmentation", "detection", "classification"),
    "classification": ("classification", "detection"),
    "layout": ("detection",),
    "action": ("detection",),
}
"""Task that shards were made for, to the tasks they can serve. Layout and action mark only what
their task is about: a picture may show other classes too, so they cannot serve classification."""


def common_task(
    folders: list[Folder], manifests: list[Manifest], task: str | None
) -> tuple[str, dict[str, int]]:
    """The task and the classes (class to label) of several datasets read as one.

    Args:
        folders: The datasets, for messages.
        manifests: Their manifests.
        task: A task that all must be able to serve; None: the one that all were made for.

    Raises:
        OptionError: A dataset cannot serve the task, or datasets differ in task or classes.
    """
    first = manifests[0]
    for folder, manifest in zip(folders, manifests, strict=True):
        if task is not None:
            _check_serves(folder, manifest.task, task)
        is_other_task = task is None and manifest.task != first.task
        if is_other_task or manifest.classes != first.classes:
            problem = f"task {manifest.task!r} and its classes differ from those of {folders[0]}"
            raise OptionError(str(folder), f"{problem} ({first.task!r})")
    return task or first.task, first.classes


def _check_serves(folder: Folder, made_for: str, task: str) -> None:
    """Refuse a task that shards made for another task cannot serve."""
    served = dict.fromkeys((made_for, *SERVED.get(made_for, ())))
    if task in served:
        return
    if task not in SERVED:
        raise OptionError("task", f"{task!r} is not one of {', '.join(TASKS)}")
    problem = f"its samples are for {made_for}, and cannot serve task {task!r}"
    hint = f"give task {' or '.join(map(repr, served))}, or convert the source with --task {task}"
    if made_for not in SERVED:
        hint = "where they hold what `convert` writes, adopt them with `shard-tool index --task`"
    raise OptionError(str(folder), problem, hint)
