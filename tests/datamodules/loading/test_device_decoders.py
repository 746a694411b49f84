"""The device decodes colour JPEGs, workers all other files; the CPU helps where nvJPEG refuses."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules import presets
from datamodules.loading.batch import Packing
from datamodules.loading.on_device import check_decoder, finish
from datamodules.pixels import decode
from datamodules.pixels.decode import decode_by_nvjpeg, decode_image, is_for_device
from shard_tool.errors import OptionError, SampleError
from tests.kit.datasets.pictures import PHOTOGRAPH, encoded, odd_files, scene
from tests.kit.datasets.samples import ROUNDED, batch_of, load, raw_of, sample_of

CPU = torch.device("cpu")


def test_a_picture_that_fails_on_the_device_names_its_sample() -> None:
    broken = PHOTOGRAPH.replace(b"\xff\xdb", b"\xff\xfe")  # a comment in place of its tables
    recipe = replace(presets.resize(32), decode="cuda")
    assert is_for_device(broken), "its header is fine, and it has an end"
    packing = Packing(2, task="detection")
    for jpeg in (PHOTOGRAPH, broken):
        packing.add(load(recipe, raw=raw_of(sample_of([], wh=(120, 90)), jpg=jpeg)))
    with pytest.raises(SampleError, match=r"^sample 'a': does not decode: "):
        finish(packing.batch(epoch=0, start=0, stop=2))


def test_workers_decode_all_files_but_colour_jpegs() -> None:
    files = odd_files()
    assert {name for name, content in files.items() if is_for_device(content)} == set()
    assert not is_for_device(PHOTOGRAPH[:-30]), "cut"
    assert is_for_device(PHOTOGRAPH)
    assert is_for_device(encoded(scene(90, 120), progressive=True))
    recipe = presets.resize(50)
    jpegs = [PHOTOGRAPH, *files.values()]
    here = finish(batch_of([recipe] * 5, jpegs))
    batch = batch_of([replace(recipe, decode="cuda")] * 5, jpegs)
    assert [len(left.sent or ()) for left in batch.device_work] == [1, 3, 3, 3, 3]
    assert float((here.pixels - finish(batch).pixels).abs().max()) < ROUNDED / 255


def tensors(*contents: bytes) -> list[torch.Tensor]:
    return [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]


def test_files_that_nvjpeg_refuses_are_decoded_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    """torchvision's function also runs on a CPU, where it refuses other files than on a GPU."""
    files = tensors(PHOTOGRAPH, odd_files()["PNG"], encoded(scene(30, 40)))
    with caplog.at_level(logging.WARNING, "datamodules.pixels.decode"):
        found = decode_by_nvjpeg(files, CPU, places=["a", "b", "c"])
    for picture, content in zip(found, files, strict=True):
        assert torch.equal(picture, decode_image(content.numpy().data, place=""))
    assert [r.getMessage().partition(", nvJPEG said: ")[0] for r in caplog.records] == [
        "b: decoded on the CPU"
    ]
    with pytest.raises(SampleError, match=r"^b: is not a picture$"):
        decode_by_nvjpeg(tensors(PHOTOGRAPH, b"nothing"), CPU, places=["a", "b"])


def test_running_out_of_memory_is_raised_without_another_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(files: Any, mode: str, device: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(decode, "nvjpeg", lambda: full)
    with pytest.raises(torch.OutOfMemoryError):
        decode_by_nvjpeg(tensors(PHOTOGRAPH), CPU, places=["a"])


def test_without_nvjpeg_a_gpu_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(decode, "import_module", nothing)
    decode.nvjpeg.cache_clear()
    with pytest.raises(OptionError) as caught:
        check_decoder(torch.device("cuda"))
    problem = "decode: 'cuda' needs nvJPEG, and neither torchvision nor torchcodec has it; "
    assert str(caught.value) == problem + "install torchcodec, or take decode='exact'"


def test_exif_rotation_is_hidden_from_decoders_that_would_apply_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (content,) = tensors(encoded(scene(90, 120), exif=exif.tobytes()))
    seen: list[torch.Tensor] = []

    def recording(files: list[torch.Tensor], mode: str, device: Any) -> list[torch.Tensor]:
        seen.extend(files)
        return [decode_image(file.numpy().data, place="") for file in files]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "nvjpeg", lambda: recording)
        (picture,) = decode_by_nvjpeg([content], CPU, places=["a"])
    with Image.open(io.BytesIO(content.numpy().tobytes())) as before:
        assert before.getexif()[0x0112] == 6
    with Image.open(io.BytesIO(seen[0].numpy().tobytes())) as after:
        assert 0x0112 not in after.getexif()
    assert picture.shape == (3, 90, 120)
