"""COCO data give the same samples from folders and archives, here and elsewhere, by any workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.datasets.archives import counting_server, tar_with, zip_with
from tests.kit.datasets.coco_files import one_of_each, orchard_folder, written
from tests.kit.datasets.converted import converted, files_of, samples_of, shards_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("make", [tar_with, zip_with])
def test_archives_give_the_samples_of_the_folder(
    tmp_path: Path, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    root = orchard_folder(tmp_path / "in")
    content = make(files_of(root))
    path = tmp_path / ("in.tar" if make is tar_with else "in.zip")
    path.write_bytes(content)
    converted(root, tmp_path / "of-folder")
    converted(path, tmp_path / "of-archive")
    with counting_server(content) as server:
        url = f"{server.url}/{path.name}"
        converted(url, tmp_path / "of-url")  # type: ignore[arg-type]
    for split in ("train", "val"):
        samples = samples_of(tmp_path / "of-folder", split)
        assert samples_of(tmp_path / "of-archive", split) == samples
        assert samples_of(tmp_path / "of-url", split) == samples


@pytest.mark.slow
def test_workers_change_no_byte(tmp_path: Path) -> None:
    stems = [f"{number:05d}" for number in range(1600)]  # fewer are read in this process
    pictures = [f"train/{stem}.jpg" for stem in stems]
    root = written(tmp_path / "in", {"annotations/train.json": one_of_each(*stems)}, pictures)
    for workers in (1, 2):
        converted(root, tmp_path / f"{workers}", workers=workers, shard_bytes=1 << 20)
    assert len(shards_of(tmp_path / "1")) > 2
    assert shards_of(tmp_path / "1") == shards_of(tmp_path / "2")
