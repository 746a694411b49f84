"""Scales and re-encodes pictures on request, and scales masks and annotations with them.

Nothing else changes the bytes of a picture; without a `Reencoding` a conversion does not call this
module. The same bytes in give the same bytes out on every machine with the same encoder. Pillow and
its libraries decide the bytes, so their versions belong to the options (`Reencoding.describe`), and
a process with other versions refuses to encode.
"""

from __future__ import annotations

import io
import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError, features

from shard_tool.errors import DataError, OptionError
from shard_tool.format.run_lengths import (
    counts_of_pixels,
    counts_string,
    pixels_of_counts,
    run_counts,
)
from shard_tool.format.sample import MAX_PIXELS, PICTURES, Part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from shard_tool.format.sample import Box, Sample, SampleObject

DEFAULT_QUALITY = 90
MIN_LONGER_SIDE = 16
_MASKS = ("class.png", "object.png")
_PNG_LEVEL = 6

Size = tuple[int, int]
"""(width, height) in pixels."""


@cache
def encoder() -> str:
    """Names and versions of the libraries of this process that decide the encoded bytes."""
    jpeg = features.version("libjpeg_turbo")
    deflate = features.version("zlib_ng")
    return ", ".join(
        (
            f"Pillow {PIL.__version__}",
            f"libjpeg-turbo {jpeg}" if jpeg else f"libjpeg {features.version('jpg')}",
            f"zlib-ng {deflate}" if deflate else f"zlib {features.version('zlib')}",
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reencoding:
    """The values of `--resize` and `--quality`; at least one is given.

    Raises:
        OptionError: Neither is given, or one is out of its range.
    """

    longer_side: int | None
    """Most pixels of a picture's longer side; larger pictures are scaled down to exactly this."""
    quality: int | None
    """JPEG quality, 1 to 100, of *every* picture; None: 90, for scaled pictures only."""
    encoder: str = field(default_factory=encoder)
    """Encoder of the process that planned; another one would write other bytes."""

    def __post_init__(self) -> None:
        if self.longer_side is None and self.quality is None:
            raise OptionError("--resize", "neither a size nor a quality is given")
        if self.longer_side is not None and self.longer_side < MIN_LONGER_SIDE:
            raise OptionError("--resize", f"{self.longer_side} px are below {MIN_LONGER_SIDE}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise OptionError("--quality", f"{self.quality} is not in 1 to 100")

    def describe(self) -> dict[str, int | str | None]:
        """Describe all that decides the bytes of pictures, for the manifest's `options`."""
        every = "larger pictures" if self.quality is None else "every picture"
        return {
            "resize": self.longer_side,
            "quality": self.quality or DEFAULT_QUALITY,
            "reencoded": every,
            "encoder": self.encoder,
        }

    def fitted(self, size_wh: Size) -> Size:
        """Compute the new size: never larger, no side below 1, the shorter side rounded.

        >>> Reencoding(longer_side=256, quality=None).fitted((500, 375))
        (256, 192)
        """
        longest = max(size_wh)
        side = longest if self.longer_side is None else min(self.longer_side, longest)
        # Whole numbers: floating-point units could round differently.
        width, height = (max(1, (2 * n * side + longest) // (2 * longest)) for n in size_wh)
        return width, height


def reencoded(
    reencoding: Reencoding, members: dict[str, bytes], sample: Sample, *, place: str
) -> tuple[dict[str, bytes], Sample]:
    """Re-encode a sample's picture and masks, and scale its annotation.

    A picture that is small enough keeps its bytes unless a quality is given; its masks and its
    annotation keep theirs in any case. A re-encoded JPEG keeps its colour model (grey, RGB, CMYK;
    YCCK becomes CMYK), ICC profile and EXIF block and may lose other metadata. An EXIF rotation is
    not applied: the picture is upright already, or annotations are in the stored orientation. CMYK
    stays CMYK, since its profile would be wrong for RGB. A PNG stays a PNG, without loss, and keeps
    its bytes unless it is scaled; a WebP is encoded at the quality. What the source says beside all
    that (`raw`, such as COCO's `area`) stays as written.

    Args:
        reencoding: The options.
        members: Extension to content: 'jpg', 'png' or 'webp', and 'class.png' and 'object.png' if
            there are masks.
        sample: The annotation; its size is the picture's.
        place: Name of the picture in errors.

    Returns:
        New members in the old order and a new sample; the old ones if nothing changes.

    Raises:
        DataError: The picture is not what its extension says, damaged or larger than `MAX_PIXELS`,
            a mask is not a palette or grey PNG of the picture's size, or run lengths are not of
            that size. Names the picture, and the mask or the object.
        OptionError: This process has another encoder than the one that planned.
    """
    if reencoding.encoder != encoder():
        problem = f"this process encodes with {encoder()}, the plan is for {reencoding.encoder}"
        raise OptionError("--resize, --quality", problem, "give every worker the same versions")
    old = (sample.width, sample.height)
    new = reencoding.fitted(old)
    if new == old and reencoding.quality is None:
        return members, sample
    quality = reencoding.quality or DEFAULT_QUALITY
    made = dict(members)
    extension = next(extension for extension in PICTURES if extension in members)
    if new != old or extension != "png":
        made[extension] = _picture(extension, members[extension], old, new, quality, place)
    if new == old:
        return made, sample
    for extension in _MASKS:
        if extension in members:
            made[extension] = _mask(members[extension], old, new, f"{place}: its {extension}")
    return made, _scaled_sample(sample, new, place)


def _picture(
    extension: str, content: bytes, old: Size, new: Size, quality: int, place: str
) -> bytes:
    """Decode, scale and encode a picture in its own format.

    Scales with Lanczos over all source pixels of a target pixel: it does not alias and keeps most
    detail, which matters because training transforms filter once more. It takes a third longer than
    bicubic. The decoder's own scaling (`draft`) and `reducing_gap` are faster and worse.
    """
    with _opened(content, PICTURES[extension], old, place) as picture:
        # RGB only, which becomes YCbCr: for CMYK Pillow would keep cyan sharp and halve black.
        sampling = {"subsampling": "4:2:0"} if picture.mode == "RGB" else {}
        options = {"png": {"compress_level": _PNG_LEVEL}, "webp": {"quality": quality}}
        scaled = picture if new == old else _lanczos(picture, new)
        buffer = io.BytesIO()
        scaled.save(
            buffer,
            PICTURES[extension],
            exif=picture.info.get("exif", b""),
            icc_profile=picture.info.get("icc_profile"),
            **options.get(extension, {"quality": quality, **sampling}),
        )
    return buffer.getvalue()


def _lanczos(picture: Image.Image, new: Size) -> Image.Image:
    """Scale a picture of any mode that PNG and WebP have."""
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode.startswith("I;16"):
        values = Image.fromarray(np.asarray(picture).astype(np.float32))
        scaled = np.asarray(values.resize(new, Image.Resampling.LANCZOS))
        return Image.fromarray(scaled.round().clip(0, 65535).astype(np.uint16))
    return picture.resize(new, Image.Resampling.LANCZOS)


def _mask(content: bytes, old: Size, new: Size, place: str) -> bytes:
    """Scale a mask by nearest neighbour, so that no new values appear.

    Whole numbers find the nearest pixel. Pillow adds up fractions and is one pixel off at times
    (1310 instead of 1311 for pixel 1196 of 2622 scaled to 2393).
    """
    with _opened(content, "PNG", old, place) as picture:
        if picture.mode not in {"P", "L"}:
            raise DataError(place, f"a mask has mode 'P' or 'L', this is {picture.mode!r}")
        values = np.asarray(picture)
        palette, transparency = picture.getpalette(), picture.info.get("transparency")
    columns, rows = (_centres(*sides) for sides in zip(old, new, strict=True))
    values = values[rows[:, None], columns]
    scaled = Image.fromarray(values)
    if palette is not None:
        # Pillow writes 8 bits a pixel only if the palette has enough colours.
        missing = 3 * (int(values.max()) + 1) - len(palette)
        scaled.putpalette(palette + [0] * missing)
    buffer = io.BytesIO()
    chosen = {} if transparency is None else {"transparency": transparency}
    scaled.save(buffer, "PNG", compress_level=_PNG_LEVEL, **chosen)
    return buffer.getvalue()


def _centres(old: int, new: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Index of the source pixel that holds the centre of each target pixel.

    >>> _centres(6, 3).tolist(), _centres(5, 5).tolist()
    ([1, 3, 5], [0, 1, 2, 3, 4])
    """
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)


@contextmanager
def _opened(content: bytes, format_: str, size_wh: Size, place: str) -> Iterator[Image.Image]:
    """Yield a decoded picture of the expected size; turn its errors into `DataError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # `_check_size` is stricter
            with Image.open(io.BytesIO(content), formats=(format_,)) as picture:
                _check_size(picture.size, size_wh, place)
                picture.load()
                yield picture
    except UnidentifiedImageError:  # its text holds the address of a buffer
        raise DataError(place, f"not a {format_} picture ({len(content)} bytes)") from None
    except Image.DecompressionBombError:
        raise DataError(place, f"has more than {MAX_PIXELS:,} px") from None
    except (OSError, ValueError, SyntaxError) as exc:
        raise DataError(place, f"cannot be re-encoded: {exc}") from exc


def _check_size(found: Size, expected: Size, place: str) -> None:
    width, height = found
    if width * height > MAX_PIXELS:
        raise DataError(place, f"has more than {MAX_PIXELS:,} px: {width} x {height}")
    if found != expected:
        problem = f"is {width} x {height} px, its sample {expected[0]} x {expected[1]}"
        raise DataError(place, problem)


def _scaled_sample(sample: Sample, new: Size, place: str) -> Sample:
    old = (sample.width, sample.height)
    objects = [
        _scaled_object(item, old, new, f"{place}: object {number}")
        for number, item in enumerate(sample.objects, start=1)
    ]
    return replace(sample, width=new[0], height=new[1], objects=tuple(objects))


def _scaled_object(item: SampleObject, old: Size, new: Size, place: str) -> SampleObject:
    point, parts, polygons = item.point, item.parts, item.polygons
    return replace(
        item,
        bbox=None if item.bbox is None else scaled_box(item.bbox, old, new),
        point=None
        if point is None
        else (_scaled(point[0], 0, old, new), _scaled(point[1], 1, old, new)),
        parts=None
        if parts is None
        else tuple(Part(name=part.name, bbox=scaled_box(part.bbox, old, new)) for part in parts),
        polygons=None
        if polygons is None
        else tuple(
            [
                tuple([_scaled(value, at % 2, old, new) for at, value in enumerate(polygon)])
                for polygon in polygons
            ]
        ),
        rle=None if item.rle is None else _scaled_runs(item.rle, old, new, place),
        raw=None if item.raw is None else _scaled_raw(item.raw, old, new),
    )


def _scaled_raw(raw: dict[str, Any], old: Size, new: Size) -> dict[str, Any] | None:
    """Scale COCO's `area`, by which its scores tell small objects; drop a box that was kept.

    Other values stay: what they mean is not known.
    """
    found = {name: value for name, value in raw.items() if name != "bbox"}
    area = found.get("area")
    if isinstance(area, int | float) and not isinstance(area, bool):
        found["area"] = area * (new[0] * new[1]) / (old[0] * old[1])
    return found or None


def _scaled_runs(rle: dict[str, Any], old: Size, new: Size, place: str) -> dict[str, Any]:
    """Scale run lengths as masks are scaled; a string stays a string, a list a list."""
    height, width = rle["size"]
    if (width, height) != old:
        problem = f"its run lengths are of {width} x {height} px, its picture has"
        raise DataError(place, f"{problem} {old[0]} x {old[1]}")
    try:
        pixels = pixels_of_counts(run_counts(rle), height)
    except ValueError as exc:
        raise DataError(place, f"its run lengths are wrong: {exc}") from exc
    columns, rows = (_centres(*sides) for sides in zip(old, new, strict=True))
    counts = counts_of_pixels(pixels[columns[:, None], rows].T.astype(bool))
    written = counts_string(counts) if isinstance(rle["counts"], str) else counts.tolist()
    return {**rle, "size": [new[1], new[0]], "counts": written}


def scaled_box(box: Box, old: Size, new: Size) -> Box:
    """Scale a box with its picture.

    A box inside the picture stays inside, to the last bit; a box with an area keeps one.

    >>> scaled_box((0.0, 30.0, 500.0, 375.0), (500, 375), (256, 192))
    (0.0, 15.36, 256.0, 192.0)
    """
    x0, y0, x1, y1 = box
    x0, x1 = _span(x0, x1, 0, old, new)
    y0, y1 = _span(y0, y1, 1, old, new)
    return (x0, y0, x1, y1)


def _span(start: float, stop: float, axis: int, old: Size, new: Size) -> tuple[float, float]:
    low, high = _scaled(start, axis, old, new), _scaled(stop, axis, old, new)
    if low < high or start >= stop:
        return low, high
    # Two neighbouring numbers became one. This is not at the far border: a number below the border
    # stays below it (tried for every size up to 8000 px), so the next number is inside.
    return low, math.nextafter(high, math.inf)


def _scaled(value: float, axis: int, old: Size, new: Size) -> float:
    """Scale a coordinate on an axis.

    Multiplies, then divides: both round monotonically and the border, old * new / old, is exact, so
    nothing leaves the picture.
    """
    return value * new[axis] / old[axis]
