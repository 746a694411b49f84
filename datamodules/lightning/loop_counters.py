"""Corrects Lightning's counts of epochs and batches when training resumes.

Lightning 2.6 resumes by its own counters, in batches of the run that saved them. Where they differ
from our cursor, a resumed run would train batches twice, leave out some or a whole epoch, or skip
a validation. This module corrects them twice: in the checkpoint, before Lightning reads it
(`correct_saved`), and when training starts (`correct`).

`tests/datamodules/lightning/test_resume_matrix.py` has a case that fails without each correction.
They use private parts of Lightning's loops. Nothing here imports Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datamodules.loading.loader import ShardLoader


def correct_saved(checkpoint: Mapping[str, Any], *, epoch: int, samples: int) -> None:
    """Correct, in place, the counts of a checkpoint.

    Args:
        checkpoint: As Lightning loads it.
        epoch: The epoch of the cursor in it.
        samples: Samples that all ranks have trained in that epoch.
    """
    saved: Any = checkpoint.get("loops", {}).get("fit_loop")
    if saved:
        _uncount_batch_in_flight(saved)
        _repeat_validation(saved)
        _continue_epoch(saved, epoch, samples)


def correct(fit_loop: Any, loader: ShardLoader) -> None:
    """Correct the counts of a fit that resumes; those of a new fit stay as they are.

    Call it in `on_train_start`: Lightning has restored its counts then, and not used them yet.
    """
    fit_loop.epoch_loop.val_loop._has_run = False  # of an earlier fit of the same Trainer
    if _is_at_epoch_end(fit_loop):
        _count_epoch(fit_loop, -1)  # Lightning counts it as finished already
        _count_batches(fit_loop, int(fit_loop.max_batches))
        if not _validate_first(fit_loop):
            _count_epoch(fit_loop, +1)
            _begin_epoch(fit_loop)
        return
    epochs, cursor = fit_loop.epoch_progress.current, loader.cursor
    if epochs.processed == epochs.ready:
        _begin_epoch(fit_loop)
        return
    counted = fit_loop.epoch_loop.batch_progress.current.processed
    trained = len(loader) - loader.remaining_batches
    if cursor.samples and cursor.epoch == epochs.processed and trained != counted:
        most = int(fit_loop.max_batches)
        # Another batch size may change whether a validation is due.
        _count_batches(fit_loop, min(trained, most))
        if trained >= most:  # no batch of this size is left
            fit_loop.epoch_loop.batch_progress.is_last_batch = True
            _validate_first(fit_loop)
    else:  # in mid-epoch, and the counts are right already
        _validate_first(fit_loop)


# In the checkpoint ----------------------------------------------------------------------------


def _uncount_batch_in_flight(saved: Any) -> None:
    """Uncount a batch that was started, but not trained because of an exception or a signal.

    Lightning does so in its count of this epoch, but not in its count over all epochs. It would
    then misread a later checkpoint and train one batch too many after it.
    """
    batches = saved["epoch_loop.batch_progress"]
    for count in (batches["total"], batches["current"]):
        count["ready"] = count["started"] = count["processed"]


def _repeat_validation(saved: Any) -> None:
    """Repeat the whole of a validation that was interrupted.

    Lightning repeats it only if one of its batches was in flight, and then leaves out as many
    batches at its end as it had done before.
    """
    batches = saved["epoch_loop.val_loop.batch_progress"]
    current, total = batches["current"], batches["total"]
    if current["ready"] and not batches["is_last_batch"]:
        _interrupt(total)
    current.update(dict.fromkeys(current, 0))


def _interrupt(count: dict[str, int]) -> None:
    """Make a validation's count of batches look as if one batch were in flight."""
    count["processed"] = count["completed"]
    count["ready"] = count["started"] = count["completed"] + 1


def _continue_epoch(saved: Any, epoch: int, samples: int) -> None:
    """Continue an epoch that was interrupted.

    If `max_steps` or `should_stop` ended the fit before the epoch's last batch, Lightning counts
    the epoch as done and would begin the next one.
    """
    epochs = saved["epoch_progress"]
    is_done = epochs["current"]["processed"] == epochs["current"]["ready"] == epoch + 1
    if samples and is_done and not saved["epoch_loop.batch_progress"]["is_last_batch"]:
        for count in (epochs["total"], epochs["current"]):
            count["processed"] -= 1
            count["completed"] = min(count["completed"], count["processed"])


# At the start ---------------------------------------------------------------------------------


def _is_at_epoch_end(fit_loop: Any) -> bool:
    """Whether the checkpoint was saved at an epoch's last step, before its validation."""
    epoch_loop = fit_loop.epoch_loop
    at_step_end = fit_loop.restarted_mid_epoch and epoch_loop.restarted_on_train_batch_end
    return bool(at_step_end and epoch_loop.batch_progress.is_last_batch)


def _count_batches(fit_loop: Any, trained: int) -> None:
    """Set how many batches of this epoch were trained, in batches of this run.

    In a checkpoint saved at a step's end, Lightning keeps `completed` one behind and corrects it
    itself. So all four counts move by the same amount.
    """
    count = fit_loop.epoch_loop.batch_progress.current
    moved = trained - count.processed
    for name in ("ready", "started", "processed", "completed"):
        setattr(count, name, getattr(count, name) + moved)


def _count_epoch(fit_loop: Any, step: int) -> None:
    for count in _both(fit_loop.epoch_progress):
        count.processed += step
        count.completed += step


def _begin_epoch(fit_loop: Any) -> None:
    """Begin the next epoch as if training had not been interrupted between the two.

    Otherwise, with `max_steps` set, Lightning takes the trained batches of the last epoch for those
    of the next one and skips it. And after an epoch's last step it does not count the next epoch as
    begun, so that it would take the epoch of a later checkpoint for one that is done.
    """
    for count in _both(fit_loop.epoch_progress):
        count.completed = count.processed
    fit_loop.reset_restart_stage()
    fit_loop.epoch_loop.restarting = False


def _validate_first(fit_loop: Any) -> bool:
    """Run the validation that was due when the checkpoint was saved at a step's end.

    Lightning would skip it, and what depends on its metrics (a learning rate, early stopping, the
    best checkpoint) would differ. Lightning does continue a validation that was interrupted, so
    this makes the counts look like one.

    Returns:
        Whether a validation was due.
    """
    epoch_loop = fit_loop.epoch_loop
    is_due = epoch_loop.restarted_on_train_batch_end and epoch_loop._should_check_val_fx(
        fit_loop._data_fetcher
    )
    if is_due:
        for count in _both(epoch_loop.batch_progress):
            count.completed = count.processed
        _interrupt(vars(epoch_loop.val_loop.batch_progress.total))
        epoch_loop.update_restart_stage()
    return bool(is_due)


def _both(progress: Any) -> tuple[Any, Any]:
    """The counts over all epochs, and those of this fit or epoch."""
    return progress.total, progress.current
