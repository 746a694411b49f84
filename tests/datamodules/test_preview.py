"""Sheets of samples, with the names of any dataset's classes."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image, ImageFont

from datamodules import ShardDataset, VOCDataModule
from datamodules.preview import cell, class_text, legend, marked, named
from shard_tool.format.sample import VOC_CLASSES
from tests.kit.datasets.own_classes import BOXES, THREE, WH, many, own_classes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int | str | None, str, str]]

GREY = torch.full((3, WH[1], WH[0]), 128, dtype=torch.uint8)
LONG = "Ursus arctos horribilis of the north-western mountains"


def target_of(*labels: int) -> dict[str, torch.Tensor]:
    boxes = torch.tensor(BOXES[: len(labels)], dtype=torch.float32)
    return {
        "boxes": boxes,
        "labels": torch.tensor(labels),
        "difficult": torch.zeros(len(labels), dtype=torch.bool),
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, name) for name in VOC_CLASSES),
        ("Traffic light (red)", "Traffic light (red)"),
        ("24 characters, all drawn", "24 characters, all drawn"),
        (LONG, "#1 Ursus arctos horribilis…"),
        ("Bärenklau", "#1 Barenklau"),
        ("đom đóm", "#1"),
        ("собака", "#1"),
        ("狼 (grey)", "#1"),
        ("كلب", "#1"),
        ("🐕", "#1"),
        ("two\nlines", "#1"),
        (" dog", "#1 dog"),
        ("", "#1"),
        ("  ", "#1"),
    ],
)
def test_a_name_is_drawn_whole_or_with_its_label(name: str, text: str) -> None:
    assert class_text(1, [name]) == text
    assert legend([name]) == ({} if text == name else {text: name})


def test_without_names_and_beyond_them_the_label_is_drawn() -> None:
    assert (class_text(3), class_text(3, ["a", "b"]), class_text(0, ["a"])) == ("3", "3", "0")


def test_names_with_the_same_beginning_are_drawn_differently() -> None:
    texts = [class_text(k, [LONG + "A", LONG + "B", "Bar", "Bär"]) for k in (1, 2, 3, 4)]
    assert len(set(texts)) == 4


def test_pillow_s_font_has_all_that_is_drawn() -> None:
    font = ImageFont.load_default()

    def glyph(letter: str) -> tuple[Any, bytes]:
        mask = font.getmask(letter)
        return mask.size, bytes(mask)

    missing = glyph("\U0010ffff")
    drawn = string.ascii_letters + string.digits + string.punctuation + " …"
    assert [letter for letter in drawn if glyph(letter) == missing] == []
    assert glyph("ж") == missing, "class_text would be too careful"


@pytest.mark.parametrize("names", [None, THREE, many(300), [LONG] * 3, ["", "\n", "\x00"]])
def test_any_names_can_be_drawn_on_boxes_and_pictures(names: list[str] | None) -> None:
    for labels in ((1, 3), (2, 300)):
        drawn = marked(GREY, target_of(*labels), names)
        assert drawn.shape == GREY.shape
        assert not torch.equal(drawn, GREY)
    shown = named(GREY, torch.ones(300), names)
    assert shown.shape == GREY.shape
    assert cell(GREY, target_of(1), side=40, class_names=names).shape == (3, 40, 40)


def test_the_name_decides_what_is_drawn() -> None:
    plain, fox, bear = (marked(GREY, target_of(1), names) for names in (None, ["fox"], ["bear"]))
    assert not torch.equal(plain, fox)
    assert not torch.equal(fox, bear)
    assert torch.equal(marked(GREY, target_of(7), THREE), marked(GREY, target_of(7)))


def test_each_of_254_labels_of_a_mask_has_a_colour_of_its_own() -> None:
    mask = torch.arange(256, dtype=torch.uint8).reshape(8, 32)
    drawn = marked(torch.zeros(3, 8, 32, dtype=torch.uint8), mask)
    colours = {tuple(colour) for colour in drawn.reshape(3, -1).T[1:255].tolist()}
    assert len(colours) == 254
    assert drawn[:, 0, 0].tolist() == drawn[:, 7, 31].tolist() == [0, 0, 0]


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_preview_takes_names_from_the_dataset(run_here: Run, tmp_path: Path, task: str) -> None:
    root = own_classes(tmp_path / "own", ["red fox", "Bär", "狼"], task=task)
    sheet, same, other = (tmp_path / f"{name}.png" for name in ("sheet", "same", "other"))
    options = ["--samples", 2, "--epochs", 1, "--cell", 96]
    status, out, _ = run_here("preview", root, sheet, *options)
    assert (status, sheet.exists()) == (0, True)
    texts = "  drawn otherwise: #2 Bar is 'Bär', #3 is '狼'\n"
    assert out.partition("\n")[2] == ("" if task == "segmentation" else texts)
    _, out, _ = run_here("preview", root, same, *options, "--format", "json")
    expected = {} if task == "segmentation" else {"drawn_as": {"#2 Bar": "Bär", "#3": "狼"}}
    assert {k: v for k, v in json.loads(out).items() if k == "drawn_as"} == expected
    assert same.read_bytes() == sheet.read_bytes()
    renamed = own_classes(tmp_path / "renamed", ["grey fox", "Bär", "wolf"], task=task)
    run_here("preview", renamed, other, *options)
    for column in (0, 1):  # stored, and transformed
        area = (100 * column, 0, 100 * column + 100, 200)
        with Image.open(sheet) as one, Image.open(other) as two:
            is_equal = one.crop(area).tobytes() == two.crop(area).tobytes()
        assert is_equal == (task == "segmentation")


def test_show_batch_takes_names_from_the_dataset(tmp_path: Path) -> None:
    sheets = []
    for number, names in enumerate((THREE, THREE, ("grey fox", *THREE[1:]))):
        root = own_classes(tmp_path / str(number), names)
        data = VOCDataModule(str(root), batch_size=4, image_size=64)
        sheets.append(data.show_batch("val", side=96))
    assert isinstance(sheets[0], Image.Image)
    assert sheets[0].tobytes() == sheets[1].tobytes() != sheets[2].tobytes()


def test_a_contact_sheet_has_the_names_it_is_given(tmp_path: Path) -> None:
    from datamodules import ShardLoader
    from datamodules.presets import detection_eval
    from scripts.contact_sheet import contact_sheet

    root = own_classes(tmp_path / "own")
    dataset = ShardDataset(str(root), transform=detection_eval(96), shuffle=False)
    batch = next(iter(ShardLoader(dataset, batch_size=4)))
    contact_sheet(batch, tmp_path / "numbers.png")
    contact_sheet(batch, tmp_path / "names.png", class_names=dataset.class_names)
    assert (tmp_path / "numbers.png").read_bytes() != (tmp_path / "names.png").read_bytes()


def test_masks_of_objects_are_drawn_each_in_its_colour_and_crowds_in_red() -> None:
    masks = torch.zeros(2, WH[1], WH[0], dtype=torch.uint8)
    masks[0, 2:6, 2:6], masks[1, 10:14, 10:14] = 1, 1
    target = {**target_of(1, 2), "iscrowd": torch.tensor([0, 1])}
    plain = marked(GREY, target, THREE)
    drawn = marked(GREY, {**target, "masks": masks}, THREE)
    changed = (drawn != plain).any(0)
    for mask in masks:
        assert changed[mask.bool()].any()
    assert not changed[(masks == 0).all(0)].any()
    colors = {tuple(color) for color in plain.flatten(1).T.tolist()}
    assert {(255, 255, 0), (255, 0, 0)} <= colors
    side = 2 * max(WH)
    assert cell(GREY, {**target, "masks": masks}, side=side).shape == (3, side, side)
    nothing = {name: value[:0] for name, value in {**target, "masks": masks}.items()}
    assert torch.equal(marked(GREY, nothing), GREY)
    assert cell(GREY, nothing, side=side).shape == (3, side, side)
