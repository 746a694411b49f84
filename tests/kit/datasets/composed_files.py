"""Writes the files of a composition, and says of which pixels its pictures are."""

from __future__ import annotations

import io
import tarfile
import zipfile
from functools import lru_cache
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from tests.kit.datasets.voc_tree import write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.kit.datasets.compositions import Composition, Habit, Shot, Size, Thing

ORIENTATION = 0x0112
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def written(composition: Composition, root: Path) -> Path:
    """Write a composition below `root`; returns its folder or archive."""
    return packed(files_of(composition), root, composition.packing)


def packed(files: Mapping[str, bytes], root: Path, packing: str) -> Path:
    """Write files below `root`, as a folder, a zip, a tar or a tar.gz; returns where."""
    if packing == "folder":
        for name, content in files.items():
            write(root / "source" / name, content)
        return root / "source"
    path = root / f"source.{packing}"
    if packing == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '')}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def files_of(composition: Composition) -> dict[str, bytes]:
    """Path below the source to content."""
    files = {"README.dataset.txt": b"of a composition\n", ".DS_Store": b"\0"}
    for shot in composition.shots:
        files[picture_path(composition, shot)] = picture(shot)
        if shot.things is not None:
            files[annotation_path(composition, shot)] = annotation(shot)
    first = composition.shots[0]
    if composition.has_twin:
        other = ".png" if first.suffix != ".png" else ".webp"
        name = picture_path(composition, first).removesuffix(first.suffix) + other
        files[name] = encoded("PNG", (8, 8), 1, 99)
    if composition.stray:
        files[composition.stray] = encoded("JPEG", (8, 8), 1, 98)
    alone = ["orphan"] if composition.has_orphan else []
    alone += ["nobody"] if composition.lists_missing and composition.missing_has_xml else []
    for stem in alone:
        folder, slash, _ = annotation_path(composition, first).rpartition("/")
        content = annotation(first) if first.things is not None else b"<annotation/>"
        files[f"{folder}{slash}{stem}.xml"] = content
    for split, lines in lists_of(composition).items():
        name = composition.list_names.get(split, split)
        files[f"{composition.layout.lists}{name}.txt"] = "".join(f"{x}\n" for x in lines).encode()
    return files


def lists_of(composition: Composition) -> dict[str, list[str]]:
    """The lines of the list of each split; empty where there are no lists."""
    if not composition.layout.lists:
        return {}
    lists: dict[str, list[str]] = {split: [] for split in composition.list_names}
    for shot in composition.shots:
        if shot.listed:
            text = shot.listed.format(
                id=shot.stem,
                file=shot.stem + shot.suffix,
                path=picture_path(composition, shot),
                xml=annotation_path(composition, shot),
            )
            lists[shot.split] += text.split("\n")
    if composition.lists_missing:
        next(iter(lists.values())).append("nobody")
    if composition.lists_twice:
        splits = [split for split in lists if split != composition.shots[0].split]
        lists[splits[0]].append(composition.shots[0].stem)
    if composition.has_trainval:
        lists["trainval"] = [*lists.get("train", []), *lists.get("val", [])]
    return lists


def picture_path(composition: Composition, shot: Shot) -> str:
    layout = composition.layout
    folder = layout.pictures.format(split=layout.folders.get(shot.split))
    return f"{folder}{shot.stem}{shot.suffix}"


def annotation_path(composition: Composition, shot: Shot) -> str:
    layout = composition.layout
    folder = layout.annotations.format(split=layout.folders.get(shot.split))
    return f"{folder}{shot.stem}.xml"


# Pictures -----------------------------------------------------------------------------------------


def picture(shot: Shot) -> bytes:
    """The bytes of a picture; no two of a composition are equal."""
    if not shot.is_picture:
        return b"GIF9 or so" * shot.shade
    return encoded(shot.format, shot.wh, shot.orientation, shot.shade)


@lru_cache(4096)
def encoded(format_: str, wh: Size, orientation: int, shade: int) -> bytes:
    buffer, options = io.BytesIO(), {}
    if orientation != 1:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options = {"exif": exif}
    if format_ == "WEBP":
        options["lossless"] = True
    Image.fromarray(pixels_of(format_, wh, shade)).save(buffer, format_, **options)
    return buffer.getvalue()


def pixels_of(format_: str, wh: Size, shade: int) -> np.ndarray:
    """A gradient that no turn leaves as it is; grey in a GIF, which then keeps it exactly."""
    y, x = np.mgrid[: wh[1], : wh[0]]
    grey = (60 + 100 * x / wh[0] + 60 * y / wh[1] + 3 * shade).astype(np.uint8)
    if format_ == "GIF":
        return grey
    return np.stack([grey, np.full_like(grey, 40), grey // 2], -1)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The upright picture of a stored one: EXIF 2.32, 4.6.4 A, says where its 0th row and column
    belong."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips_rows = orientation in (3, 4, 7, 8)
    flips_columns = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]


# Annotations --------------------------------------------------------------------------------------


def annotation(shot: Shot) -> bytes:
    habit, things = shot.habit, shot.things or ()
    objects = "\n".join(_object(thing, habit) for thing in things)
    if habit.wrapper:
        objects = f"<objects>\n{objects}\n</objects>"
    if habit.bad == "hidden":
        objects = f"<labels><item><name>cat</name></item>{objects}</labels>"
    size = ""
    if shot.declared is not None:
        size = "<size><width>{}</width><height>{}</height><depth>3</depth></size>\n".format(
            *shot.declared
        )
    origin = f"<source><database>{habit.database}</database></source>\n" if habit.database else ""
    text = f"<annotation>\n<folder>x</folder>\n{origin}{size}{objects}\n</annotation>\n"
    return _bytes_of(text, habit)


def _bytes_of(text: str, habit: Habit) -> bytes:
    if habit.bad:
        return {
            "cut": text[: len(text) // 2],
            "entity": f'<!DOCTYPE annotation [<!ENTITY a "b">]>\n{text}',
            "hidden": text,
            "root": text.replace("annotation>", "html>"),
            "empty": "",
        }[habit.bad].encode()
    if habit.doctype:
        text = f"<!DOCTYPE annotation>\n{text}"
    if habit.encoding != "utf-8":
        text = f'<?xml version="1.0" encoding="{habit.encoding.removesuffix("-sig")}"?>\n{text}'
    return text.encode(habit.encoding)


def _object(thing: Thing, habit: Habit) -> str:
    corners = zip(CORNERS, thing.corners, strict=True)
    tags = [f"<{tag}>{text}</{tag}>" for tag, text in corners]
    if thing.broken == "word":
        tags[0] = "<xmin>left</xmin>"
    box = f"<bndbox>{''.join(tags[n] for n in habit.order)}</bndbox>"
    if thing.broken == "two-boxes":
        box += "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>7</xmax><ymax>6.5</ymax></bndbox>"
    inner = "" if thing.broken == "no-name" else f"<name>{escape(thing.name)}</name>"
    if thing.difficult:
        tag = "Difficult" if habit.title_case else "difficult"
        inner += f"<{tag}>{thing.difficult}</{tag}>"
    inner += "" if thing.broken == "no-box" else box
    if habit.polygon and thing.broken != "no-box":
        points = zip(("x1", "y1", "x2", "y2", "x3", "y3"), (1, 1, 5, 1, 5, 5), strict=True)
        inner += f"<polygon>{''.join(f'<{t}>{v}</{t}>' for t, v in points)}</polygon>"
    tag = "Object" if habit.title_case else "object"
    return f"<{tag}>{inner}</{tag}>"
