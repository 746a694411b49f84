"""Makes samples to re-encode, re-encodes pictures and opens them."""

from __future__ import annotations

import io

from PIL import Image

from shard_tool.format.sample import Sample, SampleObject, Source
from shard_tool.pictures.reencode import Reencoding, reencoded

PLACE = "voc.tar: JPEGImages/000005.jpg"


def sample_of(width: int, height: int, *objects: SampleObject) -> Sample:
    return Sample(
        key="000005",
        width=width,
        height=height,
        objects=objects,
        segmented=True,
        image_sets=("Main/train",),
        source=Source(year="2007", archive=0),
    )


def wanted(longer_side: int | None = None, quality: int | None = None) -> Reencoding:
    return Reencoding(longer_side=longer_side, quality=quality)


def again(content: bytes, longer_side: int | None = None, quality: int | None = None) -> bytes:
    """Re-encode a picture and return its bytes."""
    with Image.open(io.BytesIO(content)) as picture:
        sample = sample_of(*picture.size)
    members, _ = reencoded(wanted(longer_side, quality), {"jpg": content}, sample, place=PLACE)
    return members["jpg"]


def opened(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture
