"""Loss by steps and by seconds, and what the models make of digits that they have not seen."""

from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from data import Dataset

from .curves import Curve
from .levels import LEVELS

COLOURS = ("#0072b2", "#d55e00")
TICKS = (60, 70, 80, 90, 120, 200, 400)
IMAGES = 10


def draw(
    curves: dict[str, Sequence[Curve]],
    reconstructions: dict[str, eqx.Module],
    dataset: Dataset,
    path: Path,
) -> None:
    """Two panels of curves, a line per seed, over rows of images: the originals, each model's.

    **Arguments:** `curves` and `reconstructions`, by method; the models, of one seed.
    """
    figure = plt.figure(figsize=(10, 7.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    by_steps, by_seconds = above.subplots(1, 2, sharey=True)
    _curves(by_steps, curves, "step", "steps")
    _curves(by_seconds, curves, "seconds", "seconds, without compilation and evaluation")
    by_steps.set_ylabel("training loss, whole part")
    by_steps.legend()
    images = np.asarray(dataset.test[0])[:IMAGES]
    rows = {"test images": images}
    for name, model in reconstructions.items():
        pixels = jax.nn.sigmoid(jax.vmap(model)(images))  # pyright: ignore[reportArgumentType]
        rows[name] = np.asarray(pixels).reshape(images.shape)
    panels = below.subplots(len(rows), 1)
    for axes, (name, row) in zip(panels, rows.items(), strict=True):
        axes.imshow(np.hstack(list(row)), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _curves(axes: Axes, curves: dict[str, Sequence[Curve]], column: str, label: str) -> None:
    for colour, (name, seeds) in zip(COLOURS, curves.items(), strict=True):
        for number, curve in enumerate(seeds):
            axes.plot(
                [getattr(point, column) for point in curve],
                [point.loss for point in curve],
                color=colour, linewidth=1, label=name if number == 0 else None,
            )  # fmt: skip
    for level in LEVELS:
        axes.axhline(level, color="0.6", linewidth=0.7, linestyle=":")
    # The start, of no steps, is left of every logarithmic axis.
    axes.set(xscale="log", yscale="log", xlabel=label)
    axes.set_yticks(TICKS, labels=map(str, TICKS))
    axes.minorticks_off()
