"""Output and errors of `shard-tool plan`, `bench` and `preview`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from datamodules.reading.shard_table import ShardTable
from datamodules.tools.forecast import RunPlan, forecast
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from shard_tool.units import human_bytes
from tests.kit.datasets.converted import manifest_of
from tests.kit.processes.shard_tool_process import warm_shard_tool
from tests.kit.servers.fault_proxy import fault_proxy
from tests.kit.servers.s3 import S3, upload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[str | int | None, str, str]]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture
def in_bucket(mini_dataset: Path, s3: S3, bucket: str) -> str:
    """The dataset's URL."""
    upload(mini_dataset, s3, f"{bucket}/voc")
    return f"{bucket}/voc"


def storage_options(s3: S3) -> list[str]:
    return [
        word for pair in s3.storage_options.items() for word in ("--storage-option", "=".join(pair))
    ]


def table_of(folder: Path, *splits: str) -> ShardTable:
    root = Folder(str(folder))
    return ShardTable.of([root], [load_manifest(root)], [splits or ("train",)])


# plan -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_plan_prints_what_one_node_downloads_and_caches(mini_dataset: Path) -> None:
    train = manifest_of(mini_dataset)["splits"]["train"]
    size, shards = human_bytes(train["num_bytes"]), len(train["shards"])
    indexes = 8 * shards + 12 * train["num_samples"]
    whole = human_bytes(train["num_bytes"] + indexes)
    done = warm_shard_tool("plan", mini_dataset)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{mini_dataset} train: {train['num_samples']} samples, {shards} shards, {size}",
        "1 node x 1 rank x 0 workers, 1 lane, window 8: 1 step an epoch",
        f"epoch 0: each node downloads {size}",
        "epoch 1: each node downloads 0 B",
        f"cache of a node: {whole} holds all it reads; below {whole} some samples are read by "
        "range, one by one",
        f"mixing: {shards}.0 shards in a global batch ({shards}.0 if all samples were shuffled); "
        "a window covers 100.0% of the epoch",
    ]


def test_plan_prints_how_long_nodes_wait_with_bandwidth_and_speed(
    mini_dataset: Path, run_here: Run
) -> None:
    options = ("--nodes", 2, "--bandwidth", "1Mbps", "--samples-per-s", 50, "--batch-size", 4)
    status, text, _ = run_here("plan", mini_dataset, *options, "--lanes", 4)
    plan = RunPlan(
        num_nodes=2, bandwidth_bytes_per_s=125e3, samples_per_s=50, batch_size=4, lanes=4
    )
    found = forecast(table_of(mini_dataset), plan)
    sizes = sorted(node.epoch_bytes[0] for node in found.nodes)
    took = max(node.epoch_s[0] for node in found.nodes if node.epoch_s)
    stalled = max(node.stall_s[0] for node in found.nodes if node.stall_s)
    lines = text.splitlines()
    assert (status, len(lines)) == (0, 7)
    assert lines[1] == "2 nodes x 1 rank x 0 workers, 4 lanes, window 8: 4 steps an epoch"
    assert lines[2] == (
        f"epoch 0: each node downloads {human_bytes(sizes[0])} to {human_bytes(sizes[1])}, "
        f"takes {took:.1f} s, {stalled:.1f} s of it waiting for bytes"
    )
    assert stalled > 1
    assert re.fullmatch(
        r"epoch 1: each node downloads 0 B, takes 0\.\d s, 0\.0 s of it .*", lines[3]
    )
    assert lines[5] == (
        f"first batch: not before {found.first_batch_s:.2f} s, start of processes aside"
    )


def test_plan_takes_every_option_and_gives_json(mini_dataset: Path, run_here: Run) -> None:
    plan = RunPlan(
        num_nodes=2,
        ranks_per_node=2,
        workers_per_rank=3,
        batch_size=4,
        epochs=3,
        bandwidth_bytes_per_s=2.5e6,
        latency_s=0.005,
        samples_per_s=40.5,
        lanes=4,
        window=2,
        seed=7,
        cache_limit=300_000,
    )
    status, text, _ = run_here(
        *("plan", mini_dataset, "--nodes", 2, "--ranks-per-node", 2, "--workers", 3),
        *("--batch-size", 4, "--epochs", 3, "--bandwidth", "20Mbps", "--latency-ms", 5),
        *("--samples-per-s", 40.5, "--lanes", 4, "--window", 2, "--seed", 7),
        *("--cache-limit", "300kB", "--split", "train", "--split", "val", "--format", "json"),
    )
    found = forecast(table_of(mini_dataset, "train", "val"), plan)
    expected = {"dest": str(mini_dataset), "plan": asdict(plan), "forecast": asdict(found)}
    assert (status, json.loads(text)) == (0, json.loads(json.dumps(expected)))
    assert found != forecast(table_of(mini_dataset), plan)
    assert found != forecast(table_of(mini_dataset, "train", "val"), replace(plan, seed=8))


@pytest.mark.slow
def test_plan_of_a_bucket_asks_for_the_manifest_alone_and_shows_no_secret(
    mini_dataset: Path, in_bucket: str, s3: S3, run_here: Run
) -> None:
    with fault_proxy(s3.endpoint_url) as proxy:
        done = warm_shard_tool("plan", in_bucket, *storage_options(s3.through(proxy)))
        assert [r.path.rpartition("/")[2] for r in proxy.requests] == ["manifest.json"]
    assert (done.returncode, done.stderr) == (0, "")
    here = run_here("plan", mini_dataset)[1]
    assert done.stdout == here.replace(str(mini_dataset), in_bucket)
    status, text, _ = run_here(
        "plan", in_bucket, *storage_options(s3), "--format", "json", "--nodes", 2
    )
    assert status == 0
    for shown in (done.stdout, text):
        assert not re.search(f"{s3.key}|{s3.secret}|endpoint", shown)


# bench ----------------------------------------------------------------------------------------

SECONDS = r"\d+\.\d\d s"
MS = r"\d+\.\d ms"
WORK = ", ".join(rf"{name} {MS} \(\d+%\)" for name in ("fetch", "decode", "transform", "collate"))


@pytest.mark.slow
def test_bench_prints_speed_and_costs_of_each_epoch(mini_dataset: Path) -> None:
    options = ("--workers", 2, "--batch-size", 4, "--image-size", 32, "--epochs", 2)
    done = warm_shard_tool("bench", mini_dataset, *options)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    for epoch in range(2):
        first, second, third, fourth, fifth = lines[5 * epoch : 5 * epoch + 5]
        assert re.fullmatch(
            rf"epoch {epoch}: 29 samples in {SECONDS}, first batch after {SECONDS} "
            r"\(start of workers included\)",
            first,
        )
        assert re.fullmatch(
            r"  \d+ samples/s, \d+\.\d MB/s; waited for data \d+% of the time", second
        )
        waiting = rf"its batch waited for {MS} \(hand-over {MS}\), copied 0.0 ms"
        assert re.fullmatch(rf"  a step: {MS}, {waiting}", third)
        assert re.fullmatch(rf"  a batch in a worker: {WORK}", fourth)
        assert re.fullmatch(
            r"  \d+\.\d MB read: disk 100%; 0.0 MB fetched into the cache",
            fifth,
        )


def test_bench_gives_json_that_adds_up(mini_dataset: Path, run_here: Run) -> None:
    status, text, _ = run_here(
        *("bench", mini_dataset, "--workers", 0, "--batch-size", 4, "--split", "val"),
        *("--transform", "none", "--max-batches", 3, "--format", "json"),
    )
    document = json.loads(text)
    assert (status, document["dest"]) == (0, str(mini_dataset))
    (epoch,) = document["epochs"]
    assert (epoch["epoch"], epoch["num_samples"], epoch["num_batches"]) == (0, 12, 3)
    assert 0 < epoch["first_batch_s"] < epoch["seconds"]
    assert epoch["first_batch_s"] + 2 * epoch["wait_s"] <= epoch["seconds"]
    assert epoch["disk_bytes"] > 0
    assert epoch["cache_bytes"] == epoch["read_through_bytes"] == epoch["network_bytes"] == 0
    assert sum(epoch["worker_shares"].values()) == pytest.approx(1)
    assert epoch["cache_hits"] == 1.0
    # `seconds` has what lies before the first batch and after the last as well.
    assert epoch["samples_per_s"] >= 12 * (1 - 1 / 3) / epoch["seconds"]
    assert epoch["samples_per_s"] * 2 * epoch["wait_s"] <= 12 * (1 - 1 / 3) * 1.001


@pytest.mark.slow
def test_bench_of_a_bucket_fills_the_cache_and_shows_no_secret(
    mini_dataset: Path, in_bucket: str, s3: S3, tmp_path: Path
) -> None:
    options = ("--workers", 1, "--batch-size", 4, "--image-size", 32, "--epochs", 3, "--window", 1)
    cache = tmp_path / "cache"
    done = warm_shard_tool(
        *("bench", in_bucket, *options, *storage_options(s3)),
        *("--cache-dir", cache, "--cache-limit", "10MB", "--format", "json"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not re.search(f"{s3.key}|{s3.secret}|endpoint", done.stdout)
    document = json.loads(done.stdout)
    assert document["dest"] == in_bucket
    epochs = document["epochs"]
    train = manifest_of(mini_dataset)["splits"]["train"]
    assert sum(path.stat().st_size for path in cache.rglob("*.tar")) == train["num_bytes"]
    assert [epoch["disk_bytes"] for epoch in epochs] == [0, 0, 0]
    assert epochs[0]["network_bytes"] > 0
    assert epochs[2]["network_bytes"] == epochs[2]["read_through_bytes"] == 0
    assert epochs[2]["cache_hits"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["plan", "bench"])
def test_wrong_secret_is_an_error_that_shows_none(
    in_bucket: str, s3: S3, tmp_path: Path, verb: str
) -> None:
    wrong = replace(s3, secret="not-the-secret")
    cache = ("--cache-dir", tmp_path) if verb == "bench" else ()
    done = warm_shard_tool(verb, in_bucket, *storage_options(wrong), *cache)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {in_bucket}/manifest.json: access refused (")
    assert not re.search(f"not-the-secret|{s3.key}|Traceback", done.stderr)


# Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "--nodes", 0), "--nodes: 0 is below 1"),
        (("plan", "--samples-per-s", 5), "--samples-per-s: says nothing without --bandwidth"),
        (("plan", "--bandwidth", "fast"), "--bandwidth: 'fast' is not a bandwidth"),
        (("plan", "--bandwidth", "10"), "--bandwidth: '10' is not a bandwidth"),
        (("plan", "--cache-limit", "much"), "--cache-limit: 'much' is not a size"),
        (("plan", "--split", "nosuch"), "DEST: has no split 'nosuch', only train, val"),
        (
            ("plan", "--nodes", 30),
            "epoch: 29 samples are left for 30 ranks, so some would have none",
        ),
        (("bench", "--batch-size", 0), "--batch-size: 0 is below 1"),
        (("bench", "--workers", -1), "--workers: -1 is below 0"),
        (
            ("bench", "--workers", 10**6),
            "--workers: 1000000 processes are more than 16 for each core of this machine",
        ),
        (("bench", "--epochs", 0), "--epochs: 0 is below 1"),
        (("bench", "--max-batches", 0), "--max-batches: 0 is below 1"),
        (("bench", "--cache-limit", "much"), "--cache-limit: 'much' is not a size"),
        (("bench", "--split", "nosuch"), "DEST: has no split 'nosuch', only train, val"),
    ],
)
def test_an_option_out_of_range_exits_2(
    mini_dataset: Path, run_here: Run, arguments: tuple[Any, ...], message: str
) -> None:
    verb, *options = arguments
    status, out, err = run_here(verb, mini_dataset, *options)
    assert (status, out) == (2, "")
    assert err.splitlines()[0] == f"error: {message.replace('DEST', str(mini_dataset))}"


@pytest.mark.parametrize("verb", ["plan", "bench"])
def test_a_folder_without_a_dataset_exits_1_with_a_way_out(
    tmp_path: Path, run_here: Run, verb: str
) -> None:
    assert run_here(verb, tmp_path) == (
        1,
        "",
        f"error: {tmp_path}: no dataset here (no manifest.json)\n\n"
        "hint: make a dataset with `shard-tool convert SOURCE DEST`\n",
    )


# preview ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_preview_draws_samples_stored_and_epoch_after_epoch(
    run_here: Run, mini_dataset: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    options = ["--samples", 3, "--epochs", 2, "--cell", 80, "--transforms", "ssd"]
    status, out, _ = run_here("preview", mini_dataset, sheet, *options, "--image-size", 64)
    assert (status, out) == (0, f"{sheet}: 3 samples, stored and in 2 epochs of ssd\n")
    with Image.open(sheet) as found:
        assert found.size == (3 * 84 + 4, 3 * 84 + 4)
        cells = [found.crop((4 + 84 * i, 4, 84 + 84 * i, 84)).tobytes() for i in range(3)]
    assert len(set(cells)) == 3, "each epoch draws another"
    again = tmp_path / "again.png"
    options += ["--image-size", 64, "--format", "json"]
    _, out, _ = run_here("preview", mini_dataset, again, *options)
    expected = {"png": str(again), "recipe": "ssd", "num_samples": 3, "epochs": 2}
    assert json.loads(out) == expected
    assert again.read_bytes() == sheet.read_bytes(), "and the same each time"


def test_preview_draws_masks_of_objects(run_here: Run, mini_masks: Path, tmp_path: Path) -> None:
    sheet, options = tmp_path / "sheet.png", ("--samples", 2, "--cell", 90, "--image-size", 64)
    status, out, _ = run_here(
        "preview", mini_masks, sheet, *options, "--task", "instances", "--unmasked", "drop"
    )
    assert status == 0
    assert "retinanet" in out
    classes = tmp_path / "classes.png"
    run_here("preview", mini_masks, classes, *options)
    assert sheet.read_bytes() != classes.read_bytes()


def test_preview_draws_masks(run_here: Run, mini_masks: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    status, out, _ = run_here("preview", mini_masks, sheet, "--samples", 2, "--cell", 90)
    assert (status, out.endswith(" in 4 epochs of random_resized_crop\n")) == (0, True)
    with Image.open(sheet) as found:
        assert found.size == (5 * 94 + 4, 2 * 94 + 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--transforms", "sdd"],
            "transforms: 'sdd' is not one of ssd, ssdlite, retinanet, letterbox",
        ),
        (["--samples", 0], "--samples: 0 is below 1"),
        (["--epochs", -1], "--epochs: -1 is below 0"),
        (["--cell", 1], "--cell: 1 is below 16"),
    ],
)
def test_preview_refuses_bad_options(
    run_here: Run, mini_dataset: Path, tmp_path: Path, arguments: list[Any], message: str
) -> None:
    status, _, err = run_here("preview", mini_dataset, tmp_path / "sheet.png", *arguments)
    assert status != 0
    assert message in err


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("sheet.txt", "PNG 'sheet.txt': is no local .png file"),
        ("s3://bucket/sheet.png", "is no local .png file"),
        ("", "PNG '': is no local .png file"),
        ("nowhere/sheet.png", "nowhere/sheet.png: its folder does not exist"),
    ],
)
def test_preview_checks_its_output_file_first(run_here: Run, output: str, message: str) -> None:
    status, _, err = run_here("preview", "no-dataset", output)
    assert status != 0
    assert message in err
