"""Makes folders of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from tests.kit.datasets.voc_tree import write
from tests.kit.datasets.wild import picture

if TYPE_CHECKING:
    from pathlib import Path


def pictures(*names: str) -> dict[str, bytes]:
    """Pictures of these names, no two alike."""
    return {name: picture(shade=crc32(name.encode())) for name in names}


def class_folders(root: Path) -> Path:
    """Pictures of two classes in two splits, for the guide; one lies in no class."""
    names = [f"train/{name}/{n}.jpg" for name in ("cat", "dog") for n in range(8)]
    names += [f"val/{name}/{n}.jpg" for name in ("cat", "dog") for n in range(8, 10)]
    for name in (*names, "train/both.jpg"):
        write(root / name, picture((64, 48), shade=crc32(name.encode())))
    return root
