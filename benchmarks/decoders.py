"""Compares JPEG decoders: speed, exactness, threads, and how they treat odd files.

    VOC_SAMPLE_DIR=... .venv-bench/bin/python benchmarks/decoders.py [--rounds 9] [--pictures 150]

Each round runs every decoder over the same photographs and starts with another decoder. Figures are
medians over rounds. Writes `decoders.json` into the results folder, and prints the tables that
docs/concepts/pixels.md shows in part.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import simplejpeg
import torch
from PIL import Image

from benchmarks.harness import circumstances
from datamodules.pixels.decode import decode_image

RESULTS = Path(__file__).parent / "results/decoders.json"
Decoder = Callable[[bytes], Any]
"""Bytes to RGB uint8 [H, W, 3]."""


def by_simplejpeg(content: bytes) -> Any:
    """Decode by libjpeg-turbo with its defaults."""
    return simplejpeg.decode_jpeg(content, colorspace="RGB")


def by_simplejpeg_fast(content: bytes) -> Any:
    """Decode with the fast cosine transform and plain upsampling."""
    return simplejpeg.decode_jpeg(content, colorspace="RGB", fastdct=True, fastupsample=True)


def by_pillow(content: bytes) -> Any:
    """Decode by libjpeg-turbo as Pillow uses it."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def by_torchvision(content: bytes) -> Any:
    """Decode by `decode_jpeg`, which torchvision will remove."""
    from torchvision.io import ImageReadMode, decode_jpeg

    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated since 0.29
        return decode_jpeg(data, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()


def by_torchcodec(content: bytes) -> Any:
    """Decode by torchcodec, the successor of `decode_jpeg`."""
    from torchcodec.decoders import decode_image as decode

    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return decode(data, mode="RGB").permute(1, 2, 0).numpy()


def by_opencv(content: bytes) -> Any:
    """Decode without turning pictures by EXIF."""
    import cv2

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    found = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if found is None:
        raise ValueError("imdecode gave None")
    return found


def by_imagecodecs(content: bytes) -> Any:
    """Decode by libjpeg-turbo as imagecodecs uses it."""
    import imagecodecs

    return imagecodecs.jpeg8_decode(content, outcolorspace="RGB")


def by_ours(content: bytes) -> Any:
    """Decode by `decode_image`."""
    return decode_image(content, place="it").permute(1, 2, 0).numpy()


DECODERS: dict[str, Decoder] = {
    "ours": by_ours,
    "simplejpeg": by_simplejpeg,
    "simplejpeg, fast": by_simplejpeg_fast,
    "torchcodec": by_torchcodec,
    "opencv": by_opencv,
    "imagecodecs": by_imagecodecs,
    "torchvision": by_torchvision,
    "pillow": by_pillow,
}
REFERENCE = "pillow"
"""What the others' pixels are compared with: libjpeg-turbo's accurate ways."""


def main() -> None:
    """Measure, write and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--pictures", type=int, default=150)
    options.add_argument("--alone", nargs=2, help="decode a file by one decoder, for its memory")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.alone:
        print(outcome(DECODERS[chosen.alone[0]], Path(chosen.alone[1]).read_bytes(), None))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    folder = Path(os.environ["VOC_SAMPLE_DIR"]) / "VOCdevkit"
    photographs = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[: chosen.pictures]]
    decoders = {name: decoder for name, decoder in DECODERS.items() if is_there(decoder)}
    report = {
        **circumstances(),
        "pictures": len(photographs),
        **speeds(decoders, photographs, chosen.rounds),
        "exactness": exactness(decoders, photographs),
        "odd": {
            kind: {name: outcome(decoder, *pair) for name, decoder in decoders.items()}
            for kind, pair in odd_files(photographs[0]).items()
        },
    }
    report["odd"]["20,000 x 20,000 header"] = bombs(decoders, photographs[0])
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print_tables(report)


def is_there(decoder: Decoder) -> bool:
    """Whether its package is installed."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    try:
        decoder(file.getvalue())
    except ImportError as exc:
        print(f"left out: {exc}", file=sys.stderr)
        return False
    return True


def speeds(decoders: dict[str, Decoder], photographs: list[bytes], rounds: int) -> dict[str, Any]:
    """Photographs a second, in one thread and in two."""
    seconds: dict[str, dict[str, list[float]]] = {
        "one_thread": {name: [] for name in decoders},
        "two_threads": {name: [] for name in decoders},
    }
    names = list(decoders)
    with ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                decode = decoders[name]
                begun = time.perf_counter()
                for content in photographs:
                    decode(content)
                middle = time.perf_counter()
                list(pool.map(decode, photographs))
                end = time.perf_counter()
                seconds["one_thread"][name].append((middle - begun) / len(photographs))
                seconds["two_threads"][name].append((end - middle) / len(photographs))
    rates = {
        case: {name: 1 / median(values) for name, values in found.items()}
        for case, found in seconds.items()
    }
    return {"per_s": rates, "seconds": seconds}


def exactness(decoders: dict[str, Decoder], photographs: list[bytes]) -> dict[str, Any]:
    """Difference from the reference: mean and largest, in levels."""
    found: dict[str, list[Any]] = {name: [] for name in decoders}
    for content in photographs:
        expected = DECODERS[REFERENCE](content).astype(np.int16)
        for name, decoder in decoders.items():
            difference = np.abs(decoder(content).astype(np.int16) - expected)
            found[name].append((float(difference.mean()), int(difference.max())))
    return {
        name: {"mean": float(np.mean([m for m, _ in pairs])), "max": max(m for _, m in pairs)}
        for name, pairs in found.items()
    }


def odd_files(photograph: bytes) -> dict[str, tuple[bytes, Any]]:
    """Kind to (file, what is right; None: an error)."""
    picture = Image.open(io.BytesIO(photograph))
    picture.load()
    rotated = Image.Exif()
    rotated[0x0112] = 6
    deep = (np.asarray(picture.convert("L")).astype(np.uint16) << 8) + 7
    middle = len(photograph) // 2
    flipped = photograph[:middle] + bytes([photograph[middle] ^ 0x55]) + photograph[middle + 1 :]
    files = {
        "grey": saved(picture.convert("L"), "JPEG"),
        "CMYK": saved(picture.convert("CMYK"), "JPEG", quality=95),
        "progressive": saved(picture, "JPEG", progressive=True),
        "EXIF rotation": saved(picture, "JPEG", exif=rotated.tobytes()),
        "PNG": saved(picture, "PNG"),
        "16-bit PNG": saved(Image.fromarray(deep), "PNG"),
    }
    try:
        import imagecodecs

        inks = np.asarray(picture.convert("CMYK"))
        files["YCCK"] = imagecodecs.jpeg8_encode(
            inks, colorspace="CMYK", outcolorspace="YCCK", level=95
        )
    except ImportError:
        pass
    found: dict[str, tuple[bytes, Any]] = {
        kind: (file, by_pillow(file)) for kind, file in files.items()
    }
    deep_rgb = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2)
    found["16-bit PNG"] = (files["16-bit PNG"], deep_rgb)
    found["cut in the middle"] = (photograph[:middle], None)
    found["a byte altered"] = (flipped, None)
    found["no picture"] = (b"<html>" * 100, None)
    return found


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode a picture into a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def outcome(decoder: Decoder, content: bytes, expected: Any) -> str:
    """Say in a word or two what a decoder makes of a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = np.asarray(decoder(content))
    except Exception as exc:  # noqa: BLE001  (each has errors of its own)
        return f"error ({type(exc).__name__})"
    if expected is None:
        return "a picture"
    if found.shape != expected.shape:
        return f"shape {found.shape[0]} x {found.shape[1]}"
    largest = int(np.abs(found.astype(np.int16) - expected.astype(np.int16)).max())
    return "same" if not largest else f"within {largest}"


def bombs(decoders: dict[str, Decoder], photograph: bytes) -> dict[str, str]:
    """A small file whose header promises 1.2 GB of pixels, and the memory it took."""
    at = 2
    while photograph[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + struct.unpack(">H", photograph[at + 2 : at + 4])[0]
    bomb = photograph[: at + 5] + struct.pack(">HH", 20_000, 20_000) + photograph[at + 9 :]
    path = RESULTS.parent / ".bomb.jpg"
    path.write_bytes(bomb)
    found = {}
    try:
        for name in decoders:
            command = [sys.executable, __file__, "--alone", name, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            what, kilobytes = done.stdout.splitlines()[-2:]
            found[name] = f"{what}, {int(kilobytes) / 1e6:.1f} GB"
    finally:
        path.unlink()
    return found


def print_tables(report: dict[str, Any]) -> None:
    """Print the tables that docs/concepts/pixels.md shows in part."""
    per_s, exact = report["per_s"], report["exactness"]
    base = per_s["one_thread"]["simplejpeg"]
    print(
        "| decoder | speed | in two threads | differs from Pillow: mean, most |\n|---|---|---|---|"
    )
    for name, rate in per_s["one_thread"].items():
        threads = per_s["two_threads"][name] / rate
        difference = f"{exact[name]['mean']:.2f}, {exact[name]['max']}"
        print(f"| {name} | {rate / base:.2f} | {threads:.2f} x | {difference} |")
    names = list(per_s["one_thread"])
    print(f"\n| file | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for kind, found in report["odd"].items():
        print(f"| {kind} | {' | '.join(found[name] for name in names)} |")


if __name__ == "__main__":
    main()
