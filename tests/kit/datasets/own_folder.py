"""Makes small folders of own pictures, as people have them; the guide of own data shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kit.datasets.voc_tools import labelimg
from tests.kit.datasets.voc_tree import jpeg, write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.datasets.voc_tools import Item

SIZE = (64, 48)


def _add(root: Path, name: str, shade: int, *items: Item, size: tuple[int, int] = SIZE) -> None:
    write(root / "images" / f"{name}.jpg", jpeg(SIZE, shade))
    write(root / "annotations" / f"{name}.xml", labelimg(f"{name}.jpg", size, items))


def tidy_folder(root: Path) -> Path:
    """Pictures of foxes and badgers that labelImg annotated."""
    for number in range(12):
        fox, badger = ("fox", (4, 6, 30, 40)), ("badger", (20, 10, 60, 44))
        _add(root, f"IMG {number:02d}", number, fox, *([badger] if number % 3 else []))
    write(root / "images/IMG 12.jpg", jpeg(SIZE, 12))
    return root


def messy_folder(root: Path) -> Path:
    """The same with a typing error, a box outside, and a size of another picture."""
    tidy_folder(root)
    _add(root, "IMG 20", 20, ("badgr", (4, 6, 30, 40)))
    _add(root, "IMG 21", 21, ("fox", (4, 6, 72, 40)))
    _add(root, "IMG 22", 22, ("fox", (8, 12, 60, 80)), size=(128, 96))
    return root
