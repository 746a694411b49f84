"""Keeps tests of this folder from asking official hosts."""

from __future__ import annotations

import pytest

from shard_tool.sources.voc import download


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "OFFICIAL_HOSTS", ())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
