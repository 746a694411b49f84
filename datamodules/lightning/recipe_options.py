"""Checks the data module's arguments about recipes, and makes a stage's transform from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from datamodules import presets
from datamodules.transforms.fused import check_places
from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datamodules.loading.items import Transform
    from datamodules.transforms.fused import FusedTransform


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOptions:
    """The recipe of stages whose transforms are not given: arguments of `VOCDataModule`.

    Raises:
        OptionError: A name, a place or a size that cannot be used.
    """

    name: str | None
    """Of `presets.RECIPES`; None: the task's default."""
    decode: str
    """'exact', 'fast' or 'cuda'."""
    recolor_on: str | None
    """'worker' or 'device'; None: where pictures are decoded."""
    image_size: int | list[int] | None
    """Pixels; a list: one is drawn for each training batch. None: the recipe's usual size."""

    def __post_init__(self) -> None:
        if self.name is not None and self.name not in list(presets.RECIPES):  # unhashable ones, too
            known = ", ".join(sorted(presets.RECIPES))
            hint = "give transforms themselves as train_transforms, val_transforms, test_transforms"
            raise OptionError("transforms", f"{self.name!r} is not one of {known}", hint)
        check_places(self.decode, self.recolor_on)
        if self.image_size is not None:
            _check_image_size(self.image_size)

    def given(self) -> dict[str, object]:
        """Arguments that differ from their defaults, by the names users know."""
        values = {
            "transforms": self.name,
            "image_size": self.image_size,
            "decode": None if self.decode == "exact" else self.decode,
            "recolor_on": self.recolor_on,
        }
        return {name: value for name, value in values.items() if value is not None}

    def check_beside(self, transforms: Iterable[Transform | None]) -> None:
        """Refuse arguments that no stage would use, or that transforms given beside them ignore.

        Args:
            transforms: Of each stage; None where the recipe is used.

        Raises:
            OptionError: Names the argument.
        """
        own = [transform is not None for transform in transforms]
        if any(own) and (self.decode == "cuda" or self.recolor_on == "device"):
            problem = "are for recipes by name, and transforms are given"
            hint = "give those as dataclasses.replace(recipe, decode=…, recolor_on=…)"
            raise OptionError("decode='cuda' and recolor_on='device'", problem, hint)
        unused = [item for item in self.given().items() if item[0] != "recolor_on"]
        if all(own) and unused:
            name, value = unused[0]
            hint = "leave it out, or leave out the transforms of a stage"
            problem = f"{value!r} is for a recipe, and all stages have transforms of their own"
            raise OptionError(name, problem, hint)

    def refuse_generic(self, *, normalize: bool) -> None:
        """Refuse arguments of recipes, for data that is generic and has none.

        Raises:
            OptionError: Names the argument.
        """
        for name, value in (self.given() | ({"normalize": True} if normalize else {})).items():
            problem = f"{value!r} is for pictures with boxes, a mask or labels"
            raise OptionError(name, problem, "give train_transforms and the like")

    def transform(self, task: str, *, train: bool) -> Transform:
        """Make the recipe of a stage; it draws its size if several are given."""

        def at(size: int | None) -> FusedTransform:
            recipe = presets.recipe_by_name(self.name, task, size=size, train=train)
            return replace(recipe, decode=self.decode, recolor_on=self.recolor_on)

        if not isinstance(self.image_size, list):
            return at(self.image_size)
        return presets.multi_scale(at, self.image_size) if train else at(max(self.image_size))


def _check_image_size(given: object) -> None:
    """Refuse all but a size or a list of sizes; a tuple would look like (height, width)."""
    sizes = given if isinstance(given, list) else [given]
    if not sizes:
        raise OptionError("image_size", "there is no size in the list")
    for size in sizes:
        if isinstance(size, bool) or not (isinstance(size, int) and size >= 1):
            hint = "give one number, or a list to draw one from for each batch"
            raise OptionError("image_size", f"{size!r} is not a number of pixels from 1", hint)
