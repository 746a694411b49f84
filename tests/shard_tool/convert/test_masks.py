"""Masks as tools and image editors write them: class ids by colours, by values, or an error."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from shard_tool import ConvertOptions, convert
from shard_tool.errors import DataError, SourceError
from shard_tool.pictures.masks import voc_color
from shard_tool.sources.classes import ClassOptions
from tests.kit.datasets.converted import converted, samples_of
from tests.kit.datasets.wild import classes, counted, documents, folder, picture, xml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

Files = dict[str, bytes | str]
Color = tuple[int, int, int]

DRAWN = np.zeros((10, 20), np.uint8)
"""What is drawn: 0 background, 1 road, 2 car, 3 border."""
DRAWN[:6, :8], DRAWN[4:, 10:], DRAWN[:, 9] = 1, 2, 3
IDS = np.where(DRAWN == 3, 255, DRAWN).astype(np.uint8)

BLACK, ROAD, CAR, BORDER = (0, 0, 0), (10, 20, 30), (200, 0, 0), (224, 224, 192)
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:10,20,30::\ncar:200,0,0::\n"
SAY = (
    "put a labelmap.txt (lines name:red,green,blue::) beside the folder of masks; or, where values "
    "count the classes from 1, give these by --classes"
)


def png(image: Image.Image | NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def painted(*colors: Color, alpha: int | None = None) -> bytes:
    """RGB or RGBA: the colours of background, road, car and border."""
    pixels = np.array(colors, np.uint8)[np.minimum(DRAWN, len(colors) - 1)]
    if alpha is not None:
        pixels = np.dstack([pixels, np.full(DRAWN.shape, alpha, np.uint8)])
    return png(pixels)


def indexed(places: Mapping[int, Color], order: tuple[int, ...]) -> bytes:
    """A palette PNG: the index of background, road, car, border, and the palette's colours."""
    image = Image.fromarray(np.array(order, np.uint8)[DRAWN], "P")
    image.putpalette([channel for i in range(256) for channel in places.get(i, (7, 7, i))])
    return png(image)


def source(
    tmp_path: Path, mask: bytes, labelmap: str | None = LABELMAP, more: Files | None = None
) -> Path:
    files: Files = {"JPEGImages/a.jpg": picture(), "SegmentationClass/a.png": mask, **(more or {})}
    if labelmap is not None:
        files["labelmap.txt"] = labelmap
    return folder(tmp_path / "in", files)


def ids(dest: Path, key: str = "a") -> NDArray[np.uint8]:
    """The values of a sample's mask, whose palette shows VOC's colours where it has one."""
    with Image.open(io.BytesIO(samples_of(dest, "train")[key]["class.png"])) as mask:
        assert mask.mode in ("L", "P")
        return np.asarray(mask)


def read(tmp_path: Path, mask: bytes, **options: Any) -> NDArray[np.uint8]:
    converted(source(tmp_path, mask), tmp_path / "out", task="segmentation", **options)
    return ids(tmp_path / "out")


def refusal(its: Path, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        converted(its, tmp_path / "refused", task="segmentation", **options)
    return str(caught.value).removeprefix(f"{its}/SegmentationClass/a.png: ")


# By colour ----------------------------------------------------------------------------------------

VOC_LIKE = {0: BLACK, 1: ROAD, 2: CAR, 255: BORDER}
RENUMBERED = {7: BLACK, 3: ROAD, 9: CAR, 0: BORDER}


@pytest.mark.parametrize(
    ("mask", "code"),
    [
        (painted(BLACK, ROAD, CAR, BORDER), "mask-by-color"),
        (painted(BLACK, ROAD, CAR, BORDER, alpha=255), "mask-by-color"),
        (painted(BLACK, ROAD, CAR, BORDER, alpha=0), "mask-by-color"),
        (indexed(RENUMBERED, (7, 3, 9, 0)), "mask-by-color"),
        (indexed({0: BLACK, 1: CAR, 2: ROAD, 3: BORDER}, (0, 2, 1, 3)), "mask-by-color"),
        (indexed(VOC_LIKE, (0, 1, 2, 255)), None),
    ],
)
def test_classes_are_read_by_their_colours_whatever_the_indices(
    tmp_path: Path, mask: bytes, code: str | None
) -> None:
    assert np.array_equal(read(tmp_path, mask), IDS)
    assert classes(tmp_path / "out") == {"road": 1, "car": 2}
    assert counted(tmp_path / "out") == ({code: 1} if code else {})
    if code is None:
        assert samples_of(tmp_path / "out", "train")["a"]["class.png"] == mask


def test_palette_that_an_editor_renumbered_keeps_vocs_classes(tmp_path: Path) -> None:
    """Image editors sort a palette by use: index 1 is a dog then, and the colour says so."""
    dog, person = voc_color(12), voc_color(15)
    mask = indexed({0: BLACK, 1: person, 2: dog, 3: BORDER}, (0, 2, 1, 3))
    converted(source(tmp_path, mask, None), tmp_path / "out", task="segmentation")
    expected = np.array([0, 12, 15, 255])[DRAWN]
    assert np.array_equal(ids(tmp_path / "out"), expected)
    assert counted(tmp_path / "out") == {"mask-by-color": 1}


def test_colours_of_no_class_are_an_error_that_shows_them(tmp_path: Path) -> None:
    strange = painted(BLACK, ROAD, (9, 8, 7), (1, 1, 1))
    problem = "holds colours of no class: (1, 1, 1), (9, 8, 7)"
    assert refusal(source(tmp_path, strange), tmp_path) == f"{problem}; {SAY}"
    its = source(tmp_path / "p", indexed({0: BLACK, 1: ROAD, 2: (9, 8, 7)}, (0, 1, 2, 2)))
    assert refusal(its, tmp_path) == f"holds colours of no class: (9, 8, 7); {SAY}"


def test_smoothed_masks_are_named_as_such(tmp_path: Path) -> None:
    slope = np.dstack([np.arange(200, dtype=np.uint8).reshape(10, 20)] * 3)
    message = refusal(source(tmp_path, png(slope)), tmp_path)
    shown = "(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4), (5, 5, 5) and 194 more"
    told = f"holds colours of no class: {shown}; so many colours come of smoothing or of JPEG"
    assert message == f"{told}; {SAY}"


@pytest.mark.parametrize("name", ["void", "ignore", "__ignore__"])
def test_void_has_vocs_colour_and_the_one_that_the_labelmap_gives_it(
    tmp_path: Path, name: str
) -> None:
    its = source(tmp_path, painted(BLACK, ROAD, CAR, (9, 9, 9)), f"{LABELMAP}{name}:9,9,9::\n")
    converted(its, tmp_path / "out", task="segmentation")
    assert np.array_equal(ids(tmp_path / "out"), IDS)
    assert classes(tmp_path / "out") == {"road": 1, "car": 2}


def test_background_may_have_another_colour_than_black(tmp_path: Path) -> None:
    labelmap = LABELMAP.replace("background:0,0,0", "background:5,5,5")
    its = source(tmp_path, painted((5, 5, 5), ROAD, CAR, BORDER), labelmap)
    converted(its, tmp_path / "out", task="segmentation")
    assert np.array_equal(ids(tmp_path / "out"), IDS)


def test_renamed_and_merged_classes_keep_their_pixels(tmp_path: Path) -> None:
    rename = ClassOptions(rename=(("road", "ground"), ("car", "ground")))
    found = read(tmp_path, painted(BLACK, ROAD, CAR, BORDER), classes=rename)
    assert np.array_equal(found, np.array([0, 1, 1, 255])[DRAWN])
    assert classes(tmp_path / "out") == {"ground": 1}


def test_classes_in_another_order_keep_their_colours(tmp_path: Path) -> None:
    options = ClassOptions(classes=("tree", "car", "road"))
    found = read(tmp_path, painted(BLACK, ROAD, CAR, BORDER), classes=options)
    assert np.array_equal(found, np.array([0, 3, 2, 255])[DRAWN])


def test_colour_of_a_class_that_no_xml_has_names_the_option(tmp_path: Path) -> None:
    """The XML gives the classes; a labelmap may have more, of regions that nobody boxed."""
    more: Files = {
        "Annotations/a.xml": xml((20, 10), ("car", (10, 4, 20, 10)), ("kerb", (0, 0, 2, 2)))
    }
    its = source(tmp_path, painted(BLACK, ROAD, CAR, BORDER), more=more)
    way = "add --classes car,kerb,road"
    assert refusal(its, tmp_path) == f"holds colours of no class: (10, 20, 30) of 'road'; {way}"
    options = ClassOptions(classes=("car", "kerb", "road"))
    converted(its, tmp_path / "out", task="segmentation", classes=options)
    assert np.array_equal(ids(tmp_path / "out"), np.array([0, 3, 1, 255])[DRAWN])
    assert [its["name"] for its in documents(tmp_path / "out")["a"]["objects"]] == ["car", "kerb"]


# By value -----------------------------------------------------------------------------------------


def grey(*values: int, mode: str = "L") -> bytes:
    """A grey mask with these values for background, road, car and border."""
    image = Image.fromarray(np.array(values, np.uint8)[np.minimum(DRAWN, len(values) - 1)])
    if mode == "I;16":
        return png(np.array(image).astype(np.uint16))
    return png(image if mode == "L" else Image.merge("LA", [image, Image.new("L", image.size, 9)]))


@pytest.mark.parametrize(
    ("mode", "code"), [("L", None), ("LA", "mask-by-value"), ("I;16", "mask-by-value")]
)
def test_values_count_the_classes_in_the_order_of_the_labelmap(
    tmp_path: Path, mode: str, code: str | None
) -> None:
    """Road is the first, though not by the alphabet."""
    assert np.array_equal(read(tmp_path, grey(0, 1, 2, 255, mode=mode)), IDS)
    assert classes(tmp_path / "out") == {"road": 1, "car": 2}
    assert counted(tmp_path / "out") == ({code: 1} if code else {})


@pytest.mark.parametrize("bits", [2, 4])
def test_greys_of_few_bits_are_counted_and_not_scaled(tmp_path: Path, bits: int) -> None:
    """Pillow reads a grey of 2 bits as 0, 85, 170, 255."""
    values = np.minimum(DRAWN, 2)
    image = Image.fromarray(values, "P")
    image.putpalette([0, 0, 0] * 4)
    found = read(tmp_path, as_grey(png(image, bits=bits)))
    assert np.array_equal(found, values)


def as_grey(palette_png: bytes) -> bytes:
    """A palette PNG as a grey one of as many bits, without its palette."""
    content = bytearray(palette_png)
    content[25] = 0
    content[29:33] = crc32(bytes(content[12:29])).to_bytes(4, "big")
    at = content.index(b"PLTE") - 4
    del content[at : at + 12 + int.from_bytes(content[at : at + 4], "big")]
    return bytes(content)


def test_bits_are_one_class(tmp_path: Path) -> None:
    its = source(tmp_path, png(Image.fromarray((DRAWN == 1).astype(np.uint8) * 255).convert("1")))
    converted(its, tmp_path / "out", task="segmentation")
    assert np.array_equal(ids(tmp_path / "out"), DRAWN == 1)


def test_values_of_two_sources_are_joined_by_name(tmp_path: Path) -> None:
    """Value 1 is road in one and car in the other."""
    one = source(tmp_path / "1", grey(0, 1, 2, 255))
    swapped = "car:200,0,0::\nroad:10,20,30::\ntree:0,99,0::\n"
    files: Files = {
        "JPEGImages/b.jpg": picture(shade=7),
        "SegmentationClass/b.png": grey(0, 2, 1, 255),
    }
    two = folder(tmp_path / "2", files | {"labelmap.txt": swapped})
    names = [str(one), str(two)]
    dest = tmp_path / "out"
    convert(ConvertOptions(source=names, dest=str(dest), task="segmentation", workers=1))
    assert classes(dest) == {"road": 1, "car": 2, "tree": 3}
    assert np.array_equal(ids(dest, "a"), IDS)
    assert np.array_equal(ids(dest, "b"), IDS)


@pytest.mark.parametrize(
    ("values", "shown"), [((0, 1, 77, 255), "77"), ((0, 3, 77, 254), "3, 77, 254")]
)
def test_values_of_no_class_are_an_error_that_shows_them(
    tmp_path: Path, values: tuple[int, ...], shown: str
) -> None:
    problem = f"holds values of no class: {shown} (classes: 1 … 2, void 255)"
    assert refusal(source(tmp_path, grey(*values)), tmp_path) == f"{problem}; {SAY}"


def test_values_mean_vocs_classes_where_nothing_else_is_said(tmp_path: Path) -> None:
    its = source(tmp_path, grey(0, 12, 20, 255), None)
    converted(its, tmp_path / "out", task="segmentation")
    assert len(classes(tmp_path / "out")) == 20
    assert np.array_equal(ids(tmp_path / "out"), np.array([0, 12, 20, 255])[DRAWN])
    its = source(tmp_path / "more", grey(0, 12, 21, 255), None)
    problem = "holds values of no class: 21 (classes: 1 … 20, void 255)"
    assert refusal(its, tmp_path) == f"{problem}; {SAY}"


@pytest.mark.parametrize(
    "mask",
    [grey(0, 1, 2, 255), indexed({}, (0, 1, 2, 255)), painted(BLACK, (128, 0, 0), (0, 128, 0))],
)
def test_order_of_names_in_xml_says_nothing_about_masks(tmp_path: Path, mask: bytes) -> None:
    """Sorted names would make value 1 an ant, though the tool may have begun with bees."""
    more: Files = {
        "Annotations/a.xml": xml((20, 10), ("bee", (0, 0, 8, 6)), ("ant", (10, 4, 20, 10)))
    }
    its = source(tmp_path, mask, None, more)
    told = "values, and nothing says which class each of them is"
    message = refusal(its, tmp_path)
    assert message.endswith(f"; {SAY}")
    assert message.startswith(f"holds {told if mask[25] == 0 else 'colours of no class: '}")
    options = ClassOptions(classes=("bee", "ant"))
    converted(its, tmp_path / "out", task="segmentation", classes=options)
    expected = np.where(DRAWN == 3, 2, DRAWN) if mask[25] == 2 else IDS
    assert np.array_equal(ids(tmp_path / "out"), expected)


def test_black_and_white_masks_are_counted_since_255_is_void(tmp_path: Path) -> None:
    assert np.array_equal(read(tmp_path, grey(0, 255, 255, 0)), np.isin(DRAWN, (1, 2)) * 255)
    assert counted(tmp_path / "out") == {"mask-void-alone": 1}
    its = source(tmp_path / "empty", grey(0, 0, 0, 0))
    converted(its, tmp_path / "none", task="segmentation")
    assert counted(tmp_path / "none") == {}


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SegmentationClass", "SegmentationObject"])
def test_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path, kind: str) -> None:
    its = source(tmp_path, grey(0, 1, 2, 255), more={f"{kind}/a.png": png(DRAWN[:5])})
    message = refusal(its, tmp_path).removeprefix(f"{its}/{kind}/a.png: ")
    assert message == "is 20 x 5 px, its picture 20 x 10"


def test_object_masks_keep_their_bytes_and_colours_are_refused(tmp_path: Path) -> None:
    its = source(
        tmp_path, grey(0, 1, 2, 255), more={"SegmentationObject/a.png": grey(0, 9, 8, 255)}
    )
    converted(its, tmp_path / "out", task="segmentation")
    members = samples_of(tmp_path / "out", "train")["a"]
    assert members["object.png"] == grey(0, 9, 8, 255)
    colors = painted(BLACK, ROAD, CAR, BORDER)
    its = source(tmp_path / "rgb", grey(0, 1, 2, 255), more={"SegmentationObject/a.png": colors})
    assert refusal(its, tmp_path).endswith("a mask of objects has mode 'P' or 'L', not 'RGB'")


def test_objects_keep_their_numbers_in_the_object_mask_where_others_are_left_out(
    tmp_path: Path,
) -> None:
    """Only where their places no longer tell them: VOC's own sets keep their bytes."""
    things = [(name, (1, 1, 5, 5)) for name in ("road", "tree", "car", "road")]
    more: Files = {
        "SegmentationObject/a.png": grey(0, 1, 2, 255),
        "Annotations/a.xml": xml((20, 10), *things),
    }
    its = source(tmp_path, grey(0, 1, 2, 255), more=more)
    names = ClassOptions(classes=("road", "car"), other_classes="drop")
    converted(its, tmp_path / "out", task="segmentation", classes=names)
    (document,) = documents(tmp_path / "out").values()
    assert [(item["name"], item.get("number")) for item in document["objects"]] == [
        ("road", None),
        ("car", 3),
        ("road", 4),
    ]


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", png(DRAWN)[:60]])
def test_mask_that_is_no_png_is_refused(tmp_path: Path, content: bytes) -> None:
    message = refusal(source(tmp_path, content), tmp_path)
    assert message.startswith(("not a PNG picture (", "does not decode: "))


@pytest.mark.parametrize(
    ("labelmap", "told"),
    [
        ("road 1 2 3\n", "line 1 is 'road 1 2 3', expected name:red,green,blue::"),
        ("\nroad:1,2::\n", "line 2 is 'road:1,2::', expected name:red,green,blue::"),
        ("road:1,2,256::", "line 1 is 'road:1,2,256::', expected name:red,green,blue::"),
        ("road:1,2,3::\nroad:4,5,6::\n", "'road' or its colour (4, 5, 6) is there twice"),
        ("road:1,2,3::\ncar:1,2,3::\n", "'car' or its colour (1, 2, 3) is there twice"),
    ],
)
def test_bad_labelmaps_are_refused_with_their_line(
    tmp_path: Path, labelmap: str, told: str
) -> None:
    its = source(tmp_path, grey(0, 1, 2, 255), labelmap)
    with pytest.raises(SourceError) as caught:
        converted(its, tmp_path / "out", task="segmentation")
    assert str(caught.value) == f"{its}/labelmap.txt: {told}"


def test_labelmap_of_other_programs_does_not_disturb_boxes(tmp_path: Path) -> None:
    """TensorFlow's labelmap.txt is a list of names; without masks nobody reads it."""
    files: Files = {"a.jpg": picture(), "a.xml": xml((20, 10), ("ant", (1, 1, 5, 5)))}
    converted(folder(tmp_path / "in", files | {"labelmap.txt": "ant\nbee\n"}), tmp_path / "out")
    assert classes(tmp_path / "out") == {"ant": 1}


def test_masks_alone_are_no_boxes(tmp_path: Path) -> None:
    its = source(tmp_path, grey(0, 1, 2, 255))
    told = "has no annotations for {}: found masks beside the pictures, no XML, no lists"
    for task in ("detection", "classification", "layout", "action"):
        with pytest.raises(SourceError) as caught:
            converted(its, tmp_path / "out", task=task)
        assert str(caught.value) == f"{its}: {told.format(task)}; add --task segmentation"


# Tools --------------------------------------------------------------------------------------------


def test_cvats_masks_with_lists_labelmap_and_palette(tmp_path: Path) -> None:
    """CVAT, 'Segmentation mask 1.1' and VOC: datumaro's voc exporter, its names sorted."""
    labelmap = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:200,0,0::\nroad:10,20,30::"
    files: Files = {
        "JPEGImages/a.jpg": picture(),
        "SegmentationClass/a.png": painted(BLACK, ROAD, CAR),
        "SegmentationObject/a.png": grey(0, 1, 2, 3),
        "ImageSets/Segmentation/default.txt": "a\n",
        "labelmap.txt": labelmap,
    }
    converted(folder(tmp_path / "in", files), tmp_path / "out", task="segmentation")
    assert classes(tmp_path / "out") == {"car": 1, "road": 2}
    assert np.array_equal(ids(tmp_path / "out"), np.array([0, 2, 1, 1])[DRAWN])


def test_labelme2vocs_folders_and_class_names(tmp_path: Path) -> None:
    """Labelme, examples/semantic_segmentation/labelme2voc.py: VOC's palette, names by number."""
    palette = {number: voc_color(number) for number in (0, 1, 2, 255)}
    mask = indexed(palette, (0, 1, 2, 255))
    files: Files = {
        "JPEGImages/a.jpg": picture(),
        "SegmentationClass/a.npy": b"\x93NUMPY",
        "SegmentationClassPNG/a.png": mask,
        "SegmentationClassVisualization/a.jpg": picture(shade=9),
        "class_names.txt": "_background_\nroad\ncar\n",
    }
    converted(folder(tmp_path / "in", files), tmp_path / "out", task="segmentation")
    assert classes(tmp_path / "out") == {"road": 1, "car": 2}
    assert samples_of(tmp_path / "out", "train")["a"]["class.png"] == mask


def test_superviselys_adaptive_palettes_and_colors(tmp_path: Path) -> None:
    """Supervisely, export-to-pascal-voc, src/main.py and src/utils.py."""
    pixels = np.array([BLACK, ROAD, CAR, BORDER], np.uint8)[DRAWN]
    adaptive = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE)
    root = "1_project/VOCdevkit/VOC/"
    files: Files = {
        f"{root}JPEGImages/a.jpg": picture(),
        f"{root}SegmentationClass/a.png": png(adaptive),
        f"{root}SegmentationObject/a.png": png(adaptive),
        f"{root}Annotations/a.xml": xml(
            (20, 10), ("wet road", (0, 0, 7, 5)), ("car", (10, 4, 19, 9))
        ),
        f"{root}colors.txt": "neutral 224 224 192\ncar 200 0 0\nwet road 10 20 30\n",
        f"{root}ImageSets/Segmentation/train.txt": "a\n",
        f"{root}ImageSets/Segmentation/val.txt": "",
    }
    converted(folder(tmp_path / "in", files), tmp_path / "out", task="segmentation")
    del files[f"{root}Annotations/a.xml"]
    converted(folder(tmp_path / "bare", files), tmp_path / "masks", task="segmentation")
    for dest in (tmp_path / "out", tmp_path / "masks"):
        assert classes(dest) == {"car": 1, "wet road": 2}
        assert np.array_equal(ids(dest), np.array([0, 2, 1, 255])[DRAWN])
        assert counted(dest) == {"mask-by-color": 1}
