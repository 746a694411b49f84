"""Makes a dataset in a folder: locks it, prepares it for a new or a resumed run, and commits.

The manifest is put last and makes the dataset visible. Until then there is no dataset, and the
journal tells which shards are finished (`journal`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from shard_tool.dataset.journal import (
    Journal,
    make_staging,
    put_plan,
    read_plan,
    read_records,
    recorded_shards,
    remove_journal,
    remove_records,
    remove_staging,
)
from shard_tool.dataset.writer_lock import hold_writer_lock
from shard_tool.errors import ObjectExists, ShardToolError, StoreError
from shard_tool.format.manifest import MANIFEST_NAME, Manifest, encode_manifest
from shard_tool.format.tar import INDEX_SUFFIX
from shard_tool.storage.manifest_file import JOURNAL_NAME, load_manifest
from shard_tool.storage.uploads import PARTIAL

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from shard_tool.storage.location import Folder
    from shard_tool.tasks.pool import Pool

log = logging.getLogger(__name__)

BAD_RECORDS_NAME = "bad_records.jsonl"

OnExisting = Literal["fail", "resume", "overwrite"]

_WHAT = {"convert": "a conversion", "copy": "a copy", "index": "an indexing"}
_SHARD_LIKE = re.compile(r"[A-Za-z0-9_+-]+-\d{6,}\.tar")
_PARTIAL_OF_OURS = re.compile(
    rf"\.(?:{_SHARD_LIKE.pattern}(?:\{INDEX_SUFFIX})?|{MANIFEST_NAME}|{BAD_RECORDS_NAME})"
    rf"{PARTIAL}\w+"
)

_NOT_IN_MANIFEST, _NOT_IN_MANIFEST_END = ("made by",), "'s files"
"""Names in a plan, and an end of names, that a finished dataset's manifest cannot tell."""
Plan = Mapping[str, Any]
"""What decides the bytes of a dataset: names that a user can read, to plain values."""


@dataclass(slots=True)
class Publication:
    """A dataset that is being made."""

    journal: Journal
    pool: Pool
    """Where the tasks run."""
    is_shard: Callable[[str], bool]
    """Tells whether a name is that of a shard of this dataset."""
    manifest: Manifest | None = None
    """The manifest of the dataset, if an earlier run has finished it."""
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name of each finished shard to its record."""

    def commit(self, manifest: Manifest, content: bytes | None = None) -> None:
        """Make the dataset visible, when all tasks are done.

        This first removes what lost workers left behind.

        Args:
            manifest: The manifest.
            content: The bytes of the manifest; None: `manifest` is encoded.

        Raises:
            StoreError: Storage failed, or another run has taken over.
        """
        folder = self.journal.folder
        self.journal.lock.check()
        _remove_unfinished(folder, self.is_shard)
        with folder.publish(MANIFEST_NAME) as file:
            file.write(encode_manifest(manifest) if content is None else content)
        remove_journal(folder)


@contextmanager
def publishing(
    dest: Folder,
    plan: Plan,
    *,
    verb: str,
    on_existing: OnExisting,
    is_shard: Callable[[str], bool],
    of_manifest: Callable[[Manifest], Plan],
    pool: AbstractContextManager[Pool],
) -> Iterator[Publication]:
    """Lock a folder and prepare it: it is empty then, or holds what an earlier run finished.

    Args:
        dest: The folder of the dataset.
        plan: What decides the dataset's bytes. A resume compares it with the first run's plan.
        verb: 'convert', 'copy' or 'index', for messages.
        on_existing: What to do if the folder is not empty. 'resume' also starts in an empty one.
        is_shard: Tells whether a name is that of a shard of this dataset. If no manifest says what
            the folder holds, nothing else is ever removed.
        of_manifest: Makes of a finished dataset's manifest the part of a plan that it can tell, to
            be compared with `plan`.
        pool: Where the tasks run. It is opened before anything is touched, so that a cluster that
            does not answer destroys nothing. It ends before the folder is unlocked, so that no task
            of this run meets another run.

    Yields:
        The publication. A block that ends without `commit` leaves finished shards for a resume.

    Raises:
        ObjectExists: The folder holds something that may not be touched, or shards of another plan
            (the message says both sides), or another process is writing there.
        StoreError: Storage failed.
    """
    plan = {"made by": verb, **plan}
    with ExitStack() as stack:
        its_pool = stack.enter_context(pool)
        with hold_writer_lock(dest) as lock:
            publication = Publication(Journal(dest, lock), its_pool, is_shard)
            state = _State.of(dest, verb, is_shard)
            if state.is_empty:
                put_plan(dest, plan)
            elif on_existing == "overwrite":
                _clear(state, plan, state.clearing or _files_of_dataset(state))
            elif on_existing == "fail":
                raise state.refusal()
            else:
                _resume(publication, plan, state, of_manifest)
            try:
                with stack.pop_all():
                    if publication.manifest is None:
                        staging = make_staging(dest)
                        publication.journal = replace(publication.journal, staging=staging)
                    yield publication
            except BaseException:
                _clean_up(publication)
                raise


def _clean_up(publication: Publication) -> None:
    """Clean up after a run that failed: if it finished no shard, nothing of it stays."""
    dest, is_shard = publication.journal.folder, publication.is_shard
    with suppress(ShardToolError):  # the user is told of the first error
        publication.journal.lock.check()  # otherwise the folder is another run's by now
        if publication.manifest is None:
            _remove_unfinished(dest, is_shard)
        begun = [name for name in dest.names() if _is_ours(name, is_shard)]
        if not begun and not recorded_shards(dest):
            remove_journal(dest)


@dataclass(frozen=True, slots=True)
class _State:
    """What a folder holds before anything is changed."""

    dest: Folder
    verb: str
    names: tuple[str, ...]
    """Names of its objects, without the journal and without what a killed process was writing."""
    plan: Plan | None
    """The plan of an unfinished run; None if there is none."""
    clearing: tuple[str, ...]
    """Names that this run was about to remove when it ended."""
    has_partials: bool
    is_shard: Callable[[str], bool]

    @classmethod
    def of(cls, dest: Folder, verb: str, is_shard: Callable[[str], bool]) -> _State:
        """List the folder and read its plan."""
        names = dest.names()
        partial = {name for name in names if _PARTIAL_OF_OURS.fullmatch(name)}
        document = read_plan(dest) if JOURNAL_NAME in names else {}
        left = tuple(name for name in names if name != JOURNAL_NAME and name not in partial)
        clearing = tuple(document.get("clearing", ()))
        return cls(dest, verb, left, document.get("plan"), clearing, bool(partial), is_shard)

    @property
    def is_empty(self) -> bool:
        """Whether the folder holds nothing, and no run was started in it."""
        return not self.names and self.plan is None and not self.has_partials

    @property
    def num_shards(self) -> int:
        """How many shards are there."""
        return sum(1 for name in self.names if _SHARD_LIKE.fullmatch(name))

    def refusal(self) -> ObjectExists:
        """Make the error that says why the folder is left alone, and the way out."""
        place = str(self.dest)
        if MANIFEST_NAME in self.names:
            hint = "use --on-existing overwrite to replace it, or another DEST"
            return ObjectExists(place, "already holds a dataset", hint)
        if self.plan is not None:
            what = _WHAT[self.verb]
            problem = f"holds {self.num_shards} shards of {what} that did not finish"
            way = "use --on-existing resume to continue, or --on-existing overwrite to start again"
            return ObjectExists(place, problem, way)
        if self.num_shards:
            problem = f"holds {self.num_shards} tars that nobody recorded here, and no dataset"
            way = "give another DEST, or make a dataset of them with `shard-tool index`"
            return ObjectExists(place, problem, way)
        if not self.names:
            problem = "holds what a killed conversion was writing"
            return ObjectExists(place, problem, "use --on-existing overwrite to start again")
        problem = f"is not empty ({self.names[0]!r} is there) and holds no dataset"
        return ObjectExists(place, problem, "give an empty or a new folder")


def _resume(
    publication: Publication, plan: Plan, state: _State, of_manifest: Callable[[Manifest], Plan]
) -> None:
    dest = state.dest
    if MANIFEST_NAME in state.names and not state.clearing:
        manifest = load_manifest(dest)
        then = state.plan
        if then is None:  # a manifest cannot tell all of a plan
            then = of_manifest(manifest)
            plan = {name: value for name, value in plan.items() if name not in _NOT_IN_MANIFEST}
            plan = {name: v for name, v in plan.items() if not name.endswith(_NOT_IN_MANIFEST_END)}
        _compare(dest, plan, then, "the dataset there was made with")
        if state.plan is not None:
            remove_journal(dest)  # the run was killed after it put the manifest
        publication.manifest = manifest
        return
    if state.plan is None:
        raise state.refusal()
    _compare(dest, plan, state.plan, "what is there was begun with")
    if state.clearing:
        _clear(state, plan, state.clearing)
        return
    _remove_unfinished(dest, state.is_shard)
    publication.reports = read_records(dest)


def _compare(dest: Folder, now: Plan, then: Plan, what: str) -> None:
    """Refuse to go on with shards of another plan.

    Raises:
        ObjectExists: The plans differ; the message says each difference, on both sides.
    """
    now = json.loads(json.dumps(now))  # `then` comes from JSON, where tuples are lists
    differing = [
        f"{name} {then.get(name)!r}, now {now.get(name)!r}"
        for name in dict.fromkeys([*now, *then])
        if now.get(name) != then.get(name)
    ]
    if differing:
        hint = "repeat with the first options, use --on-existing overwrite, or another DEST"
        raise ObjectExists(str(dest), f"{what} {'; '.join(differing)}", hint)


def check_shards_are_own(dest: Folder, shards: Collection[str]) -> None:
    """Refuse to overwrite a tar that the dataset in a folder has only indexed.

    Args:
        dest: The folder that is going to be overwritten.
        shards: Names of the shards that will be made.

    Raises:
        ObjectExists: A shard or an index would take the place of an object that is not the
            dataset's.
    """
    names = set(dest.names())
    if MANIFEST_NAME not in names:
        return
    made = {*shards, *(name + INDEX_SUFFIX for name in shards)}
    if strange := (made & names) - load_manifest(dest).objects_beside:
        problem = f"{min(strange)!r} is there, and is not the dataset's"
        raise ObjectExists(str(dest), problem, "give another DEST")


# What may be removed ------------------------------------------------------------------------


def _clear(state: _State, plan: Plan, names: tuple[str, ...]) -> None:
    """Remove a dataset before another is made, in an order that may be interrupted anywhere.

    First the plan names everything that will be removed. Then the manifest is removed: from then on
    what is left is no dataset, and a resume goes on with the removal.
    """
    dest = state.dest
    put_plan(dest, plan, clearing=names or (MANIFEST_NAME,))
    dest.remove(MANIFEST_NAME)
    dest.remove_all(list(names))
    _remove_unfinished(dest, state.is_shard)
    remove_records(dest)
    put_plan(dest, plan)


def _files_of_dataset(state: _State) -> tuple[str, ...]:
    """Names that overwriting may remove: those in the manifest, or else those of this run's shards.

    Raises:
        ManifestError: The manifest cannot be read, so nothing tells what belongs to the dataset.
        ObjectExists: There are tars that no run recorded.
    """
    if MANIFEST_NAME in state.names:
        owned = load_manifest(state.dest).objects_beside | {BAD_RECORDS_NAME}
        return tuple(name for name in state.names if name in owned)
    if state.plan is None:  # then tars that are there are somebody else's
        if taken := [name for name in state.names if _is_ours(name, state.is_shard)]:
            problem = f"{taken[0]!r} is there, and nobody recorded it here"
            raise ObjectExists(str(state.dest), problem, "give another DEST")
        return ()
    recorded = recorded_shards(state.dest)
    return tuple(
        name
        for name in state.names
        if _is_ours(name, state.is_shard) or name.removesuffix(INDEX_SUFFIX) in recorded
    )


def _remove_unfinished(dest: Folder, is_shard: Callable[[str], bool]) -> None:
    """Remove what killed and lost processes were writing: hidden files, uploads that cost money.

    On a local disk, no worker that is running now can publish anything afterwards.
    """
    remove_staging(dest)
    dest.remove_all([name for name in dest.names() if _PARTIAL_OF_OURS.fullmatch(name)])
    try:
        dest.abort_uploads(lambda name: _is_ours(name, is_shard))
    except StoreError as exc:  # some users may write, but not list uploads
        log.warning("%s; unfinished uploads may be left, which cost money", exc)


def _is_ours(name: str, is_shard: Callable[[str], bool]) -> bool:
    is_of_shard = is_shard(name.removesuffix(INDEX_SUFFIX))
    return is_of_shard or name in {MANIFEST_NAME, BAD_RECORDS_NAME}
