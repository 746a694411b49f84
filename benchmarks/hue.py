"""Draws docs/concepts/hue.png: hue turned around the axis of greys, and by torchvision's HSV.

.venv-bench/bin/python benchmarks/hue.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from matplotlib import colors
from matplotlib import pyplot as plt
from torchvision.transforms.v2 import functional

from datamodules.pixels.color import ColorChange, recolored

PLOT = Path(__file__).resolve().parents[1] / "docs/concepts/hue.png"
TURNS = 0.05
"""The most that SSD's recipe turns."""


def main() -> None:
    """Draw."""
    hues = np.linspace(0, 1, 361)
    figure, (curves, strips) = plt.subplots(
        2, 1, figsize=(7, 5), height_ratios=[3, 1], layout="constrained"
    )
    rows = []
    for saturation in (1.0, 0.5, 0.25):
        stored = np.stack([hues, np.full_like(hues, saturation), np.full_like(hues, 0.8)], -1)
        pixels = torch.from_numpy((colors.hsv_to_rgb(stored) * 255).round().astype(np.uint8))[None]
        ours = recolored(pixels, ColorChange(hue=TURNS))
        theirs = functional.adjust_hue(pixels.permute(2, 0, 1), TURNS).permute(1, 2, 0)
        mean = (ours.float() - theirs.float()).abs().mean(2)[0]
        curves.plot(hues * 360, mean, label=f"saturation {saturation}")
        print(
            f"saturation {saturation}: {mean.mean():.1f} levels in the mean, {mean.max():.1f} most"
        )
        if saturation == 1.0:
            rows = [pixels[0], ours[0], theirs[0]]
    curves.set(
        ylabel="difference, levels", xlabel="hue of the stored colour, degrees", xlim=(0, 360)
    )
    curves.set_title(f"Hue turned by {TURNS} (18 degrees): about the axis of greys, and in HSV")
    curves.legend()
    strips.imshow(np.repeat(np.stack(rows), 12, 0), aspect="auto", extent=(0, 360, 3, 0))
    strips.set_yticks([0.5, 1.5, 2.5], ["stored", "ours", "torchvision"])
    strips.set_xticks([])
    figure.savefig(PLOT, dpi=80)


if __name__ == "__main__":
    main()
