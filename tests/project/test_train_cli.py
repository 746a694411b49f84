"""`scripts/train.py` as a user runs it: two processes, bf16, checkpoints from files and URLs."""

from __future__ import annotations

import os
import subprocess
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest
import torch
from jsonargparse import Namespace

from datamodules import ShardDataset, ShardLoader, VOCDataModule
from scripts.train import MODELS, Detector, without_secrets
from tests.kit.processes.warm_python import warm_python

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a minute of a core, which tests share

ROOT = Path(__file__).resolve().parents[2]


def train(folder: Path, *arguments: str) -> str:
    """Run the script; return its stdout and stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [warm_python(), str(ROOT / "scripts/train.py"), *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of an HTTP server that serves tmp_path."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_fit_on_two_processes_then_validate_and_resume_from_a_file_and_a_url(
    mini_dataset: Path, tmp_path: Path, served: str
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"data:\n  data_dir: {mini_dataset}\n  batch_size: 2\n  num_workers: 1\n")
    common = [
        *("--config", str(config), "--trainer.accelerator", "cpu"),
        *("--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"),
        *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
    ]
    train(
        tmp_path,
        *("fit", *common, "--trainer.max_epochs", "1", "--trainer.devices", "2"),
        *("--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", "1"),
    )
    (checkpoint,) = (tmp_path / "lightning_logs/version_0/checkpoints").glob("*.ckpt")
    printed = train(
        tmp_path, "validate", "--config", str(config), "--trainer.accelerator", "cpu",
        *("--trainer.limit_val_batches", "1", "--ckpt_path", str(checkpoint)),
    )  # fmt: skip
    for name in ("val_ap50", "val_map", "val_voc_map", "val_voc07_map"):
        assert f" {name} " in printed
    url = f"{served}/{checkpoint.relative_to(tmp_path)}".replace("=", "%3D")
    for number, path in enumerate([str(checkpoint), url], start=2):  # validate wrote version_1
        train(tmp_path, "fit", *common, "--trainer.max_epochs", "2", "--ckpt_path", path)
        run = tmp_path / f"lightning_logs/version_{number}"
        (last,) = (run / "checkpoints").glob("*.ckpt")
        assert last.name == "epoch=1-step=4.ckpt"


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # there is no Trainer
def test_every_model_takes_our_batches(mini_dataset: Path, name: str) -> None:
    """This includes a picture whose boxes were all cropped away."""
    data = VOCDataModule(str(mini_dataset), batch_size=2, image_size=64)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    model = Detector(name, num_classes=data.num_classes)
    if name in {"fasterrcnn", "retinanet"}:
        model.detector.transform.min_size = (128,)  # 800 takes half a minute a step on a CPU
    images, targets = batch
    targets[0] = {**targets[0], "boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=int)}
    losses = model.detector(images, targets)
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    assert loss.isfinite()
    model.eval()
    with torch.no_grad():
        assert {"boxes", "labels", "scores"} <= model(images)[0].keys()


def test_transforms_can_be_given_on_the_command_line(mini_dataset: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
data:
  data_dir: {mini_dataset}
  batch_size: 2
  train_transforms:
    class_path: torchvision.transforms.v2.Resize
    init_args:
      size: [64, 96]
"""
    )
    train(
        tmp_path,
        *("fit", "--config", str(config), "--trainer.accelerator", "cpu"),
        *("--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"),
    )


def test_the_contact_sheet_is_a_picture_of_the_batch(mini_dataset: Path, tmp_path: Path) -> None:
    from PIL import Image

    from datamodules.presets import detection_eval
    from scripts.contact_sheet import contact_sheet

    dataset = ShardDataset(str(mini_dataset), transform=detection_eval(96), shuffle=False)
    contact_sheet(next(iter(ShardLoader(dataset, batch_size=4))), tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 100 + 4, 2 * 100 + 4)
        assert len(sheet.getcolors(maxcolors=1 << 24)) > 1000


@pytest.mark.parametrize("several", [False, True], ids=["one root", "two roots"])
def test_promise_8_a_saved_configuration_holds_no_secret_of_a_url(several: bool) -> None:
    signed = "https://me:p4ssw0rd@host/voc?X-Amz-Signature=s1gn4ture"
    data = Namespace(
        data_dir=[signed, signed] if several else signed,
        source=signed,
        storage_options={"secret": "s3cr3t"},
    )
    config = Namespace(data=data, ckpt_path=signed)
    found = str(without_secrets(config))
    assert found.count("https://host/voc") == (4 if several else 3)
    for secret in ("p4ssw0rd", "s1gn4ture", "s3cr3t"):
        assert secret not in found
    assert config.data.source == signed, "the run itself needs it"
