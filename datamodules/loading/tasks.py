"""Says which tasks there are, and which of them the samples of datasets can serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from shard_tool.format.manifest import Manifest
    from shard_tool.storage.location import Folder

TASKS = ("detection", "segmentation", "classification", "instances")
"""Tasks that samples have a target for; shards of any other task hold generic samples."""

BOXED = ("detection", "instances")
"""Those whose targets are dicts with boxes; pictures of a batch may differ in size."""

SERVED = {
    "detection": ("detection", "classification", "instances"),
    "segmentation": ("segmentation", "detection", "classification", "instances"),
    "classification": ("classification", "detection"),
    "layout": ("detection",),
    "action": ("detection",),
}
"""Task that shards were made for, to the tasks they can serve. Layout and action mark only what
their task is about: a picture may show other classes too, so they cannot serve classification. For
instances objects need outlines, which no manifest tells: see `unmasked` of `ShardDataset`."""


def common_task(folders: list[Folder], manifests: list[Manifest], task: str | None) -> str:
    """The task of several datasets read as one.

    Args:
        folders: The datasets, for messages.
        manifests: Their manifests.
        task: A task that all must be able to serve; None: the one that all were made for.

    Raises:
        OptionError: A dataset cannot serve the task, or datasets were made for different ones.
    """
    first = manifests[0]
    for folder, manifest in zip(folders, manifests, strict=True):
        if task is not None:
            _check_serves(folder, manifest.task, task)
        elif manifest.task != first.task:
            shared = [other for other in _served(first.task) if other in _served(manifest.task)]
            problem = f"made for task {manifest.task!r}, {folders[0]} for {first.task!r}"
            hint = f"give task {' or '.join(map(repr, shared))}, which both serve" if shared else ""
            raise OptionError(str(folder), problem, hint)
    return task or first.task


def _served(made_for: str) -> list[str]:
    """Tasks that shards made for a task can serve."""
    return list(dict.fromkeys((made_for, *SERVED.get(made_for, ()))))


def _check_serves(folder: Folder, made_for: str, task: str) -> None:
    """Refuse a task that shards made for another task cannot serve."""
    served = _served(made_for)
    if task in served:
        return
    if task not in (*SERVED, *TASKS):
        raise OptionError("task", f"{task!r} is not one of {', '.join(TASKS)}")
    problem = f"its samples are for {made_for}, and cannot serve task {task!r}"
    made = "detection" if task == "instances" else task
    hint = f"give task {' or '.join(map(repr, served))}, or convert the source with --task {made}"
    if made_for not in SERVED:
        hint = "where they hold what `convert` writes, adopt them with `shard-tool index --task`"
    raise OptionError(str(folder), problem, hint)
