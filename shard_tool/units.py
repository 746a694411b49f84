"""Parses sizes and bandwidths that people type, and formats sizes and times for them.

The parsers are our own: pydantic's `ByteSize` reads '1,5MB' as 1 byte, humanfriendly would be a
new dependency, and neither knows bandwidths.
"""

from __future__ import annotations

import re

from rich.filesize import pick_unit_and_suffix

from shard_tool.errors import OptionError


def parse_size(text: str, option: str) -> int:
    """Parse a size in bytes such as '64MiB', '100 MB' or '4096'.

    Raises:
        OptionError: The text is not a size; the message names `option`.

    >>> parse_size("64MiB", "--shard-size")
    67108864
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT]?)(i?)B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise OptionError(option, f"{text!r} is not a size", "write 64MiB or 100MB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index((match[2] or " ").upper()))


def parse_rate(text: str, option: str) -> float:
    """Parse a bandwidth in bytes per second such as '10Gbps' (bits) or '800MB/s' (bytes).

    Raises:
        OptionError: The text is not a bandwidth; the message names `option`.

    >>> parse_rate("10Gbps", "--bandwidth")
    1250000000.0
    """
    bits = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:bps|bit/s)", text.strip(), re.IGNORECASE)
    if bits:
        thousands = " KMGT".index((bits[2] or " ").upper())
        return float(bits[1]) * float(1000**thousands) / 8
    if not text.strip().endswith("/s"):
        raise OptionError(option, f"{text!r} is not a bandwidth", "write 10Gbps or 800MB/s")
    return float(parse_size(text.strip().removesuffix("/s"), option))


def human_bytes(num_bytes: float) -> str:
    """Format a size in binary units.

    >>> human_bytes(67_108_864)
    '64.0 MiB'
    """
    unit, suffix = pick_unit_and_suffix(int(num_bytes), ["B", "KiB", "MiB", "GiB", "TiB"], 1024)
    return f"{num_bytes / unit:.{1 if unit > 1 else 0}f} {suffix}"


def human_seconds(seconds: float) -> str:
    """Format a time, no finer than an estimate is.

    >>> [human_seconds(s) for s in (0.2, 89, 90, 5399, 5400, 172_799, 172_800, 1e6)]
    ['1 s', '89 s', '2 min', '90 min', '1 h 30 min', '47 h 59 min', '2 d 0 h', '11 d 13 h']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if seconds < 5400:
        return f"{minutes} min"
    if seconds < 172_800:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{int(seconds // 86_400)} d {int(seconds % 86_400 // 3600)} h"
