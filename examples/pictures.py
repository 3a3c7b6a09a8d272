"""Rows of small images, for the examples."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def rows(path, table, limits=(-1.0, 1.0)):
    """Write a picture of a table, label -> list of (title, image (h, w) or (1, h, w))."""
    wide = max(len(images) for images in table.values())
    figure, axes = plt.subplots(
        len(table), wide, figsize=(1.3 * wide, 1.5 * len(table)), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (label, images) in zip(axes, table.items(), strict=True):
        line[0].text(-0.15, 0.5, label, transform=line[0].transAxes, rotation=90,
                     ha="center", va="center", fontsize=8)  # fmt: skip
        for axis, (title, image) in zip(line, images, strict=False):
            axis.imshow(image.squeeze(), cmap="gray", vmin=limits[0], vmax=limits[1])
            axis.set_title(title, fontsize=8)
    figure.savefig(Path(path), dpi=150, bbox_inches="tight")
    plt.close(figure)
