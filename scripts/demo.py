"""Converts an archive, trains on it, kills the training and resumes it.

`scripts/demo` installs what this needs and runs it. Each step is a command that a user would type,
and is shown before it runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROOT = Path(__file__).resolve().parents[1]
SHARD_TOOL = [sys.executable, "-m", "shard_tool.cli.app"]
TRAIN = [sys.executable, str(ROOT / "scripts/train.py")]
KILL_AFTER_STEPS = 8
"""Three steps after the first checkpoint: the resumed run repeats them."""
RESUMED_STEPS = 10
"""The resumed run trains at least so many more steps, however slow the machine is."""
MINI_VOC = "mini-voc2012.tar"


def main() -> None:
    """Run the demo and print its summary."""
    options = parse_arguments()
    began = time.monotonic()
    output: Path = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    archive = find_archive(options, output)
    dest = output / "shards"
    convert_options = ["--workers", "2", "--on-existing", "overwrite"]
    if archive.name == MINI_VOC:
        convert_options += ["--shard-size", "512KiB"]  # a few shards of a few megabytes
    shard_tool("convert", str(archive), str(dest), *convert_options)
    shard_tool("verify", str(dest), "--decode")
    shard_tool("info", str(dest))
    stream = measure_stream(dest, output / "contact_sheet.png")
    log = train_interrupted_and_resumed(dest, output, seconds=options.seconds)
    print_summary(dest, output, stream, log, time.monotonic() - began)


def parse_arguments() -> argparse.Namespace:
    """Parse the options; see --help."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument(
        "--year",
        choices=["2007", "2012"],
        help="year of the official archive to download and verify. Default: draw pictures",
    )
    parser.add_argument("--archive", type=Path, help="VOC tar to use instead")
    parser.add_argument(
        "--mirror", action="append", default=[], help="URL of a folder to try first; repeatable"
    )
    parser.add_argument(
        "--seconds",
        type=int,
        default=60,
        help="training time in seconds, of both runs together; default: 60",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "demo_output", help="default: demo_output"
    )
    return parser.parse_args()


def find_archive(options: argparse.Namespace, output: Path) -> Path:
    """Return the archive to convert: given, downloaded, or drawn."""
    if options.archive:
        return Path(options.archive).resolve()
    if options.year:
        mirrors = [part for url in options.mirror for part in ("--mirror", url)]
        archives = str(output / "archives")
        command = ("download", f"voc{options.year}", archives, "--set", "trainval", *mirrors)
        printed = shard_tool(*command, "--format", "json")
        return Path(json.loads(printed)["archives"][0])
    from scripts.mini_voc import draw_archive

    path = output / MINI_VOC
    say(f"drawing 200 pictures into {path.name}; 7 are for segmentation only")
    last = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 2:
            last = time.monotonic()
            print(f"  {done}/{total}", flush=True)

    draw_archive(path, num_pictures=200, on_progress=on_progress)
    return path


def measure_stream(dest: Path, sheet: Path) -> float:
    """Draw the first batch; return samples per second with the default training transforms."""
    say("streaming one epoch with 2 workers, and drawing the first pictures of it")
    from datamodules import ShardDataset, ShardLoader
    from datamodules.presets import detection_train
    from scripts.contact_sheet import contact_sheet

    dataset = ShardDataset(str(dest), "train", transform=detection_train(300))
    first = next(iter(ShardLoader(dataset, batch_size=24)))
    contact_sheet(first, sheet, class_names=dataset.class_names)
    loader, count = ShardLoader(dataset, batch_size=8, num_workers=2), 0
    batches = iter(loader)
    next(batches)  # all workers have started
    began = time.monotonic()
    for batch in batches:
        count += len(batch)
        if time.monotonic() - began > 10:
            break
    return count / (time.monotonic() - began)


def train_interrupted_and_resumed(
    dest: Path, output: Path, *, seconds: int
) -> list[dict[str, Any]]:
    """Train, kill the process in mid-epoch, resume, and return what both runs logged."""
    runs = output / f"run-{time.strftime('%Y%m%d-%H%M%S')}"
    common = [
        *("fit", "--config", str(ROOT / "configs/demo.yaml"), "--data.data_dir", str(dest)),
        *("--trainer.logger.save_dir", str(runs), "--trainer.default_root_dir", str(runs)),
    ]
    say("training ssdlite320, to be killed (SIGKILL) in mid-epoch")
    first = runs / "lightning_logs/version_0"
    runs.mkdir()
    with training([*TRAIN, *common], runs) as process:
        follow(process, first, num_steps=KILL_AFTER_STEPS)
        process.send_signal(signal.SIGKILL)
        process.wait()
    check_status(process, -signal.SIGKILL, runs)
    checkpoint = first / "checkpoints/last.ckpt"
    say(f"killed; resuming from {checkpoint.relative_to(output)}")
    second = runs / "lightning_logs/version_1"
    limits = [  # Lightning's max_time counts the time before the checkpoint too
        *("--trainer.max_time", json.dumps({"seconds": seconds})),
        *("--trainer.min_steps", str(len(logged(first)) + RESUMED_STEPS)),
    ]
    command = [*TRAIN, *common, "--ckpt_path", str(checkpoint), *limits]
    with training(command, runs) as process:
        follow(process, second)
        process.wait()
    check_status(process, 0, runs)
    steps = {row["step"]: row for row in [*logged(first), *logged(second)]}  # some ran twice
    return [steps[step] for step in sorted(steps)]


@contextmanager
def training(command: list[str], runs: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a training process whose output goes to training.log."""
    with (
        (runs / "training.log").open("ab") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            process.kill()  # also when the demo fails or is interrupted


def check_status(process: subprocess.Popen[bytes], expected: int, runs: Path) -> None:
    """Exit and print the end of the log if training ended with another status than expected."""
    if process.returncode != expected:
        log = runs / "training.log"
        print("\n".join(log.read_text(errors="replace").splitlines()[-15:]), file=sys.stderr)
        sys.exit(f"error: training ended with status {process.returncode}; see {log}")


def follow(process: subprocess.Popen[bytes], run: Path, *, num_steps: int | None = None) -> None:
    """Print a line every 10 steps until a run ends or has logged `num_steps` steps."""
    shown = -10
    while process.poll() is None:
        time.sleep(0.5)
        rows = logged(run)
        if rows and rows[-1]["step"] >= shown + 10:
            shown = rows[-1]["step"]
            print(f"  step {shown}  loss {rows[-1]['loss']:.2f}", flush=True)
        if num_steps is not None and len(rows) >= num_steps:
            return


def logged(run: Path) -> list[dict[str, Any]]:
    """Read step and loss of every step that a run has logged so far."""
    path = run / "metrics.csv"
    if not path.exists():
        return []
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train_loss")]
    return [{"step": int(row["step"]), "loss": float(row["train_loss"])} for row in rows]


def print_summary(
    dest: Path, output: Path, samples_per_s: float, log: list[dict[str, Any]], seconds: float
) -> None:
    """Print what happened and where to look."""
    manifest = json.loads((dest / "manifest.json").read_text())
    splits = manifest["splits"].values()
    losses = [row["loss"] for row in log]
    few = max(1, min(5, len(losses) // 2))
    start, end = sum(losses[:few]) / few, sum(losses[-few:]) / few
    say("summary")
    rows = {
        "samples": sum(split["num_samples"] for split in splits),
        "shards": sum(len(split["shards"]) for split in splits),
        "samples/s": f"{samples_per_s:.0f} (decoded and augmented, 2 workers)",
        "training": f"{log[-1]['step'] + 1} steps, killed and resumed once",
        "loss": f"{start:.2f} at the start, {end:.2f} at the end (means of {few} steps)",
        "shards in": dest,
        "log in": output / sorted(path.name for path in output.glob("run-*"))[-1],
        "pictures in": output / "contact_sheet.png",
        "time": f"{seconds:.0f} s",
    }
    for name, value in rows.items():
        print(f"  {name:<12}{value}")


def shard_tool(*arguments: str) -> str:
    """Run a verb of shard-tool, print it and its output, and return its stdout."""
    say("shard-tool " + " ".join(arguments))
    done = subprocess.run([*SHARD_TOOL, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def say(text: str) -> None:
    """Print a headline."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
