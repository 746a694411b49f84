"""Sizes and rates as people write them."""

from __future__ import annotations

import re

from shard_tool.errors import OptionError


def parse_size(text: str, option: str) -> int:
    """Bytes of a size such as '64MiB', '100 MB' or '4096'.

    Raises:
        OptionError: Not a size.

    >>> parse_size("64MiB", "--shard-size")
    67108864
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT]?)(i?)B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise OptionError(option, f"{text!r} is not a size", "write 64MiB or 100MB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index((match[2] or " ").upper()))


def parse_rate(text: str, option: str) -> float:
    """Bytes a second of a bandwidth such as '10Gbps' (bits) or '800MB/s' (bytes).

    Raises:
        OptionError: Not a bandwidth.

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
