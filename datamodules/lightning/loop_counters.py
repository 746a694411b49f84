"""Lightning's counts, made to say what was trained and what comes next.

Lightning 2.6 restores a fit by its counters of epochs and batches, in batches of the run that saved
them. Where they miss what our cursor knows, a resumed run would train batches twice, leave some or
a whole epoch out, or pass over a validation. So they are corrected twice: in the checkpoint, before
Lightning reads them (`correct_saved`), and when training starts (`correct`).

Each correction is there for a case that `tests/datamodules/lightning/test_resume_matrix.py` fails
without; all of them together know more of Lightning's loops than is public. Nothing here imports
Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datamodules.loading.loader import ShardLoader


def correct_saved(checkpoint: Mapping[str, Any], *, epoch: int, samples: int) -> None:
    """Correct, in place, the counts of a checkpoint that was saved at this place of training."""
    saved: Any = checkpoint.get("loops", {}).get("fit_loop")
    if saved:
        _forget_batch_in_flight(saved)
        _validate_from_the_start(saved)
        _go_on_with_epoch(saved, epoch, samples)


def correct(fit_loop: Any, loader: ShardLoader) -> None:
    """Correct the counts of a fit that is about to start; nothing changes where none was restored.

    Call it in `on_train_start`: restored, but not yet acted upon.
    """
    fit_loop.epoch_loop.val_loop._has_run = False  # of an earlier fit of the same Trainer
    if _is_at_epoch_end(fit_loop):
        _count_epoch(fit_loop, -1)  # Lightning has closed it already
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
        _count_batches(fit_loop, min(trained, most))  # of another size: whether a validation is due
        if trained >= most:  # no batch of this size is left
            fit_loop.epoch_loop.batch_progress.is_last_batch = True
            _validate_first(fit_loop)
    else:  # within an epoch, its number no longer says
        _validate_first(fit_loop)


# In the checkpoint ----------------------------------------------------------------------------


def _forget_batch_in_flight(saved: Any) -> None:
    """Take back that a batch was begun which an exception or a signal kept from being trained.

    Lightning does so in its count of this epoch, but not of all epochs. By that it would take a
    later checkpoint for one of another kind, and train a batch too many after it.
    """
    batches = saved["epoch_loop.batch_progress"]
    for count in (batches["total"], batches["current"]):
        count["ready"] = count["started"] = count["processed"]


def _validate_from_the_start(saved: Any) -> None:
    """Do a validation that was broken off again, and all of it.

    Lightning does so only where a batch of it was in flight, and then leaves out as many batches at
    its end as it had done.
    """
    batches = saved["epoch_loop.val_loop.batch_progress"]
    current, total = batches["current"], batches["total"]
    if current["ready"] and not batches["is_last_batch"]:
        _break_off(total)
    current.update(dict.fromkeys(current, 0))


def _break_off(count: dict[str, int]) -> None:
    """Make a validation's count of batches that of one with a batch in flight."""
    count["processed"] = count["completed"]
    count["ready"] = count["started"] = count["completed"] + 1


def _go_on_with_epoch(saved: Any, epoch: int, samples: int) -> None:
    """Take an epoch that was broken off for what it is: one to go on with.

    Where `max_steps` or `should_stop` ended the fit before the epoch's last batch, Lightning counts
    it as done, and would begin the next one.
    """
    epochs = saved["epoch_progress"]
    is_done = epochs["current"]["processed"] == epochs["current"]["ready"] == epoch + 1
    if samples and is_done and not saved["epoch_loop.batch_progress"]["is_last_batch"]:
        for count in (epochs["total"], epochs["current"]):
            count["processed"] -= 1
            count["completed"] = min(count["completed"], count["processed"])


# At the start ---------------------------------------------------------------------------------


def _is_at_epoch_end(fit_loop: Any) -> bool:
    """Whether the checkpoint was saved by an epoch's last step, before its validation."""
    epoch_loop = fit_loop.epoch_loop
    at_step_end = fit_loop.restarted_mid_epoch and epoch_loop.restarted_on_train_batch_end
    return bool(at_step_end and epoch_loop.batch_progress.is_last_batch)


def _count_batches(fit_loop: Any, trained: int) -> None:
    """Say how many batches of this epoch were trained, in batches of this run.

    Lightning keeps `completed` one behind in a checkpoint saved at a step's end, and catches up
    itself: all four move by the same amount.
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
    """Between two epochs: begin the next one as if training had never been interrupted.

    Else, where `max_steps` is set, Lightning finds all batches of the last epoch trained, takes
    them for the next one's, and passes over that. And after an epoch's last step it does not count
    that the next one began, so that it would take a later checkpoint's for one that is done.
    """
    for count in _both(fit_loop.epoch_progress):
        count.completed = count.processed
    fit_loop.reset_restart_stage()
    fit_loop.epoch_loop.restarting = False


def _validate_first(fit_loop: Any) -> bool:
    """Have the validation run that was due when the checkpoint was saved, at a step's end.

    Lightning would pass over it, and what hangs on its metrics (a learning rate, early stopping,
    the best checkpoint) would go another way. It goes on with a validation that was broken off: so
    let it look like one.

    Returns:
        Whether there is one.
    """
    epoch_loop = fit_loop.epoch_loop
    is_due = epoch_loop.restarted_on_train_batch_end and epoch_loop._should_check_val_fx(
        fit_loop._data_fetcher
    )
    if is_due:
        for count in _both(epoch_loop.batch_progress):
            count.completed = count.processed
        _break_off(vars(epoch_loop.val_loop.batch_progress.total))
        epoch_loop.update_restart_stage()
    return bool(is_due)


def _both(progress: Any) -> tuple[Any, Any]:
    """Its counts over all epochs, and of this fit's or epoch's own."""
    return progress.total, progress.current
