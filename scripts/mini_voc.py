"""Draws a mini-VOC: a small, seeded dataset in the official PASCAL VOC layout.

It has the oddities of official files that readers must survive. `mini_voc_pictures` draws pictures
and measures objects, `mini_voc_shapes` draws one object, `mini_voc_annotations` writes lists and
XMLs, and this module writes masks and the archive. None imports `shard_tool`, so tests do not check
a reader against itself.

What holds:
- Equal arguments give equal bytes with equal versions of NumPy (generator streams) and Pillow
  (JPEG and PNG bytes follow its libjpeg and zlib). Never pin a digest of the archive in a test.
- Picture i depends on (seed, year, i) alone, never on how many pictures there are.
- Boxes, flags and masks are measured on the pixels drawn. `truncated`: some of the object lies
  outside the picture; `occluded`: a later object covers some of it; `difficult`: less than a third
  is visible, or it is tiny. Objects without a visible pixel are left out. In the masks a tiny
  object may be wholly void (255); object numbers still follow the order of the XML.
- Even pictures are train, odd ones val; every third is segmented. In 2008 and later, picture
  24, 51, 78 ... is in Segmentation only, has a `2007_` id and the pixels of mini-VOC2007's picture
  of that index, as some official ones do.

Oddities: picture i has `QUIRKS[i % 47]`, if there is one. So 20 pictures have each once, and 141
have each in both splits, with and without masks. Every box stays inside its picture.
    xmax_first     bndbox in the order xmax, xmin, ymax, ymin
    fraction       one xmax like 45.70000076293945
    no_size        no <size>
    other_filename <filename> of another file
    no_pose        neither pose nor truncated
    parts          a person with head, hand and foot parts, some reaching a little beyond it
    actions        a person with <actions>
    point          an object with a <point> on it
    lower_pose     'frontal' for 'Frontal'
    comments       XML comments, one of them holding an <object>
    empty          a picture without an object
    owner          <owner> and <flickrid>, which all XMLs of mini-VOC2007 have
    whole          an object behind the others with the box 1, 1, width, height
    box_first      bndbox before name
    gray           a grayscale JPEG (depth 1)
    progressive    a progressive JPEG
    tiny           a picture of 142 x 71 px
    one_column     an object of which one column of pixels is seen (label 0 in its class's list)
    indented       spaces for tabs, an XML declaration, CRLF line ends
    whole_numbers  every coordinate with a decimal point: 12.0
The `occluded` tag is absent where the picture is older than 2009. Lists have CRLF line ends in
mini-VOC2007, otherwise those in `CRLF_LISTS`; those in `BLANK_LISTS` have blank lines.
"""

import argparse
import functools
import io
import itertools
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.mini_voc_annotations import CLASSES, annotation, list_files
from scripts.mini_voc_pictures import Picture, Plan, Thing, draw_picture, plan_of
from scripts.mini_voc_shapes import ByteArray

YEARS = ("2007", "2008", "2009", "2010", "2011", "2012")
PARENTS = ("VOCdevkit", "VOCdevkit/VOC{year}")
FOLDERS = (
    *("Annotations", "ImageSets", "ImageSets/Main", "ImageSets/Segmentation"),
    *("JPEGImages", "SegmentationClass", "SegmentationObject"),
)
VOID = 255  # the value of the border round each object in a mask


def draw_archive(
    path: Path,
    *,
    num_pictures: int = 200,
    seed: int = 0,
    year: str = "2012",
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a mini-VOC as an uncompressed tar: folders first, then files, folder by folder.

    The pictures are held in memory until the last is drawn (about 25 kB each).

    Args:
        path: The tar to write; an existing file is replaced.
        num_pictures: How many pictures, Main and Segmentation together.
        seed: Another seed, other pictures.
        year: "2007" to "2012"; decides the ids, the inner folder and the age of the XMLs.
        on_progress: Called with (pictures drawn, num_pictures) after each picture.

    Raises:
        ValueError: There is no such year, or nothing to draw.
    """
    files = _draw_files(num_pictures, seed, year, on_progress)
    folders = [name.format(year=year) for name in PARENTS]
    folders += [f"{folders[-1]}/{name}" for name in FOLDERS]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in folders:
            member = tarfile.TarInfo(name)  # mtime, uid and gid are 0, names of owners empty
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))


def draw_tree(
    root: Path,
    *,
    num_pictures: int = 200,
    seed: int = 0,
    year: str = "2012",
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write what `draw_archive` writes as a folder, `root/VOCdevkit/VOC<year>`."""
    files = _draw_files(num_pictures, seed, year, on_progress)
    for name in FOLDERS:
        (root / PARENTS[-1].format(year=year) / name).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)


def _draw_files(
    num_pictures: int, seed: int, year: str, on_progress: Callable[[int, int], None] | None
) -> dict[str, bytes]:
    """Map each path inside the archive to its contents, in the archive's order."""
    if year not in YEARS:
        raise ValueError(f"year {year!r}: a mini-VOC is drawn for one of {', '.join(YEARS)}")
    if num_pictures < 1:
        raise ValueError(f"num_pictures {num_pictures}: at least 1")
    files: dict[str, bytes] = {}
    drawn: list[tuple[Plan, tuple[Thing, ...]]] = []
    for index in range(num_pictures):
        plan = plan_of(index, seed, year)
        picture = draw_picture(plan)
        drawn.append((plan, picture.things))
        files.update(_picture_files(plan, picture))
        if on_progress is not None:
            on_progress(index + 1, num_pictures)
    files.update(list_files(sorted(drawn, key=lambda pair: pair[0].key), year))
    return {f"VOCdevkit/VOC{year}/{name}": files[name] for name in sorted(files)}


def _picture_files(plan: Plan, picture: Picture) -> Iterator[tuple[str, bytes]]:
    quality = 76 + plan.index % 9
    progressive = plan.quirk == "progressive"
    yield (
        f"JPEGImages/{plan.key}.jpg",
        _encode(picture.image, "JPEG", quality=quality, progressive=progressive),
    )
    yield f"Annotations/{plan.key}.xml", annotation(plan, picture)
    if not plan.in_segmentation:
        return
    border = _border(picture.owner)
    numbers = np.array([0, *(CLASSES.index(thing.name) + 1 for thing in picture.things)], np.uint8)
    for folder, values in (("Class", numbers[picture.owner]), ("Object", picture.owner)):
        mask = Image.fromarray(np.where(border, np.uint8(VOID), values))
        mask.putpalette(list(_palette()))
        yield f"Segmentation{folder}/{plan.key}.png", _encode(mask, "PNG")


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _border(owner: ByteArray) -> npt.NDArray[np.bool_]:
    """Find pixels at most 2 px from another object: a border 4 px wide, half of it inside each."""
    height, width = owner.shape
    padded = np.pad(owner, 2, mode="edge")
    border = np.zeros(owner.shape, np.bool_)
    for down, across in itertools.product(range(5), range(5)):
        border |= padded[down : down + height, across : across + width] != owner
    return border


@functools.cache
def _palette() -> tuple[int, ...]:
    """VOC's colour map: a value's bits 0, 3, 6 go to red, 1, 4, 7 to green and 2, 5 to blue."""
    return tuple(
        sum((value >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
        for value in range(256)
        for channel in range(3)
    )


def main() -> None:
    """Draw an archive from the command line."""
    parser = argparse.ArgumentParser(description="Draw a mini-VOC: a small, seeded VOC archive.")
    parser.add_argument("out", type=Path, metavar="OUT.tar", help="the tar to write")
    parser.add_argument("--pictures", type=int, default=200, metavar="N", help="default: 200")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    parser.add_argument("--year", choices=YEARS, default="2012", help="default: 2012")
    options = parser.parse_args()
    if options.pictures < 1:
        parser.error(f"--pictures {options.pictures}: at least 1")
    draw_archive(options.out, num_pictures=options.pictures, seed=options.seed, year=options.year)
    print(f"{options.out}: {options.pictures} pictures, {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
