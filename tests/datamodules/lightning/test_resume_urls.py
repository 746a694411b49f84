"""Training resumes from a checkpoint behind a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import s3fs
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import VOCDataModule
from tests.kit.datasets.stored import stored
from tests.kit.models.recorder import Recorder, trainer
from tests.kit.servers.http_server import serve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.servers.s3 import S3

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("urls") / "voc", {"train": [7, 8]})


def fitted(root: Path, folder: Path, *, checkpoints: str = "", ckpt_path: str | None = None) -> Any:
    """Fit, on request with a checkpoint after each step; returns what the model was given."""
    options: dict[str, Any] = {"max_epochs": 2, "limit_val_batches": 0}
    if checkpoints:
        saving = ModelCheckpoint(checkpoints, "{step}", every_n_train_steps=1, save_top_k=-1)
        options |= {"callbacks": [saving], "enable_checkpointing": True}
    model, data = Recorder(), VOCDataModule(str(root), batch_size=4, image_size=32)
    trainer(folder, **options).fit(model, data, ckpt_path=ckpt_path)
    return model.of("train")


def test_a_checkpoint_on_the_web_resumes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # where torch keeps what it loads
    whole = fitted(root, tmp_path, checkpoints=str(tmp_path))
    with serve((tmp_path / "step=3.ckpt").read_bytes()) as server:
        rest = fitted(root, tmp_path, ckpt_path=f"{server.url}/run-1/step=3.ckpt")
    assert rest == whole[3:]


@pytest.mark.slow
def test_a_bucket_holds_checkpoints_and_a_fit_resumes_from_one(
    root: Path, tmp_path: Path, s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # of other tests' servers
    whole = fitted(root, tmp_path, checkpoints=f"{bucket}/run")
    assert fitted(root, tmp_path, ckpt_path=f"{bucket}/run/step=5.ckpt") == whole[5:]
    s3fs.S3FileSystem.clear_instance_cache()
