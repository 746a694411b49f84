"""Many processes that stream datasets through one cache, and are killed meanwhile.

``python -m tests.kit.processes.cache_users OPTIONS`` (JSON, see `Options`) imports
everything once, then forks. Every process checks each sample it reads; a log written by hooks,
which know nothing of the code under test but the names of files, tells what became of each file of
the cache:

    PID writing NAME      a temporary file is about to be opened and filled
    PID published NAME    it got its name
    PID removed NAME      a file is about to be removed

It prints one JSON object: which processes were killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules import ShardDataset, ShardLoader, World
from tests.kit.datasets.stored import hashes_read
from tests.kit.models.recorder import sample_digests
from tests.kit.processes.warm_python import warm_python

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PARTIAL = ".partial"
SUFFIXES = (".tar", ".idx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is streamed, by how many, and how often they are killed."""

    urls: list[str]
    expected: dict[str, str]
    """Key to hash of every sample; of pixels and boxes where `ranks` is set."""
    cache_dir: str
    cache_limit: int
    storage_options: dict[str, Any]
    log: str
    """Where the audit hook writes; beside it the processes write how far they are."""
    num_processes: int = 8
    epochs: int = 2
    num_kills: int = 0
    window: int = 2
    ranks: bool = False
    """The processes are ranks of one job, each with two workers that decode; else each is a job of
    its own, and two at a time have the same order."""
    deadline_s: float = 240.0

    def run(self) -> dict[str, Any]:
        """Fork, kill, restart, and wait for all; raises where a process failed or time is up."""
        watch(Path(self.cache_dir), Path(self.log))
        end_s = time.monotonic() + self.deadline_s
        running = {self._fork(number): number for number in range(self.num_processes)}
        killed: list[int] = []
        victims = self._victims(running)
        try:
            while running:
                assert time.monotonic() < end_s, f"{len(running)} processes are stuck"
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid:
                    number = running.pop(pid)
                    if os.WIFSIGNALED(status) and pid in killed:
                        running[self._fork(number)] = number
                    else:
                        assert status == 0, f"process {number} failed: {status}"
                elif (victim := next(victims, None)) is not None:
                    killed.append(victim)
                    os.kill(victim, signal.SIGKILL)
                time.sleep(0.005)
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
        return {"killed": killed}

    def _victims(self, running: Mapping[int, int]) -> Iterator[int | None]:
        """Now and then, who is to be killed: who has just begun to write a file, or anybody."""
        random_ = random.Random(self.num_kills)
        log, num_seen = Path(self.log), 0
        for _ in range(self.num_kills):
            num_wanted = num_seen + random_.randint(3, 25)
            is_in_hand = random_.random() < 0.5
            victims: list[int] = []
            while not victims:
                yield None
                lines = log.read_text().splitlines()
                if len(lines) >= num_wanted:
                    told = [line.split() for line in (lines[-1:] if is_in_hand else lines)]
                    wanted = [
                        int(pid) for pid, what, _ in told if what == "writing" or not is_in_hand
                    ]
                    victims = [pid for pid in wanted if pid in running]
            num_seen = len(lines)
            yield random_.choice(victims)

    def _fork(self, number: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            self._stream(number)
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)

    def _stream(self, number: int) -> None:
        progress = Path(f"{self.log}.{number}")
        done = int(progress.read_text()) if progress.exists() else 0
        sources = [self._source(url, number) for url in self.urls]
        for epoch in range(done, self.epochs):
            for source in sources[number % 2 :] + sources[: number % 2]:
                source.set_epoch(epoch)
                read = list(_hashes(source))
                wrong = [key for key, what in read if self.expected[key] != what]
                assert not wrong, f"wrong bytes: {wrong}"
                share = self.num_processes if self.ranks else 1
                whole = len(self.expected) // len(self.urls) // share
                assert len(read) == len({key for key, _ in read}) == whole
            new = Path(f"{progress}.new")
            new.write_text(str(epoch + 1))
            new.replace(progress)
        while not self.num_kills and [*Path(self.cache_dir).rglob(f"*{PARTIAL}")]:
            time.sleep(0.01)  # a process that ends breaks off what it fetches ahead

    def _source(self, url: str, number: int) -> ShardDataset | ShardLoader:
        options: dict[str, Any] = {
            "window": self.window,
            "cache_dir": self.cache_dir,
            "cache_limit": self.cache_limit,
            "storage_options": self.storage_options,
        }
        if not self.ranks:
            return ShardDataset(url, seed=number // 2, decode=False, **options)
        world = World(rank=number, world_size=self.num_processes)
        data = ShardDataset(url, world=world, **options)
        return ShardLoader(data, batch_size=4, num_workers=2, persistent_workers=True)


def _hashes(source: ShardDataset | ShardLoader) -> Iterator[tuple[str, str]]:
    """(key, hash) of what a process reads in an epoch."""
    if isinstance(source, ShardLoader):
        for batch in source:
            yield from zip(batch.keys, sample_digests(batch), strict=True)
    else:
        yield from hashes_read(source)


def watch(folder: Path, log: Path) -> None:
    """Write down what this process, and those it forks, do to the files of a cache."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    inside = f"{folder}{os.sep}"

    def note(what: str, path: str) -> None:
        name = path.rpartition(os.sep)[2].removesuffix(PARTIAL)
        os.write(file, f"{os.getpid()} {what} {name}\n".encode())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in {"open", "os.remove"} or isinstance(arguments[0], int | bytes):
            return
        path = os.fspath(arguments[0])
        if not path.startswith(inside):
            return
        if event == "open" and path.endswith(PARTIAL) and "+" in str(arguments[1]):
            note("writing", path)
        elif event == "os.remove" and path.endswith(SUFFIXES) and os.path.exists(path):  # noqa: PTH110
            note("removed", path)

    def replace(source: Any, target: Any, **options: Any) -> None:
        just_replace(source, target, **options)
        if os.fspath(source).startswith(inside):
            note("published", os.fspath(source))

    just_replace = os.replace
    os.replace = replace  # type: ignore[assignment]
    sys.addaudithook(hook)


@dataclass(slots=True)
class Story:
    """What became of one file of the cache, as the log tells it."""

    written: int = 0
    published: int = 0
    removed: int = 0

    @property
    def torn(self) -> int:
        """Processes that ended, or were killed, before it was published, or just then."""
        return self.written - self.published


def stories_of(log: Path) -> dict[str, Story]:
    """By name of file; to be read when all processes have ended."""
    stories: dict[str, Story] = defaultdict(Story)
    for line in log.read_text().splitlines():
        _, what, name = line.split()
        story = stories[name]
        match what:
            case "writing":
                story.written += 1
            case "published":
                story.published += 1
            case "removed":
                story.removed += 1
    return stories


def main() -> None:
    sys.stdout.write(json.dumps(Options(**json.loads(sys.argv[1])).run()))


def command(options: Options) -> list[str]:
    """To run it in a process of its own."""
    return [warm_python(), "-m", "tests.kit.processes.cache_users", json.dumps(asdict(options))]


if __name__ == "__main__":
    main()
