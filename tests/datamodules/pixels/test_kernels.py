"""The compiled file is used only if it is of this release and for this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datamodules.pixels import kernels as module
from datamodules.pixels.kernels import kernels

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def looked_for_again() -> Iterator[None]:
    kernels.cache_clear()
    yield
    kernels.cache_clear()


@pytest.fixture
def compiled() -> Path:
    found = [*Path(module.__file__).parent.glob("_kernels*")]
    if not found:
        pytest.skip("kernels.c was not compiled: there is no C compiler")
    return found[0]


@pytest.mark.usefixtures("looked_for_again")
def test_a_file_for_another_system_is_logged_and_not_used(
    compiled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "kernels.py"))
    (tmp_path / compiled.name).write_bytes(b"of another system")
    assert kernels() is None
    assert f"{compiled.name} cannot be used, pixels take longer: " in caplog.text


@pytest.mark.usefixtures("looked_for_again", "compiled")
def test_a_file_of_another_release_is_logged_and_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_VERSION", 0)
    assert kernels() is None
    assert "is of another release, pixels take longer: install again" in caplog.text


@pytest.mark.usefixtures("looked_for_again")
def test_a_missing_file_is_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "kernels.py"))
    assert kernels() is None
    assert not caplog.text
