"""Loss against steps and seconds, and the models' reconstructions of test digits."""

from pathlib import Path

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import data
from experiments.harness.curves import Curve
from experiments.harness.lines import lines

from .problem import LEVELS

TICKS = (60, 70, 80, 90, 120, 200, 400)
IMAGES = 10


def draw(
    curves: dict[str, list[Curve]],
    reconstructions: dict[str, eqx.Module],
    path: Path,
) -> None:
    """Draw two panels of curves, a line per seed, above rows of images.

    The rows show the originals, and the reconstructions of each model.

    **Arguments:** `curves` and `reconstructions`, by method. The models are from one seed, and may
    be of fewer methods than the curves.
    """
    images = np.asarray(data.mnist10k().test[0])[:IMAGES]
    rows = {"test images": images}
    for name, model in reconstructions.items():
        pixels = jax.nn.sigmoid(jax.vmap(model)(images))  # pyright: ignore[reportArgumentType]
        rows[name] = np.asarray(pixels).reshape(images.shape)
    figure, panels = plt.subplot_mosaic(
        [["step", "processor_seconds"], *([name, name] for name in rows)],
        figsize=(10, 4 + len(rows)),
        height_ratios=[4] + [1] * len(rows),
        layout="constrained",
    )
    _curves(panels["step"], curves, "step", "steps")
    label = "processor seconds, without compilation and evaluation"
    _curves(panels["processor_seconds"], curves, "processor_seconds", label)
    panels["step"].set_ylabel("training loss, whole part")
    panels["step"].legend()
    for name, row in rows.items():
        panels[name].imshow(np.hstack(list(row)), cmap="gray_r", vmin=0, vmax=1)
        panels[name].set(xticks=[], yticks=[])
        panels[name].set_title(name, loc="left", fontsize="medium")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _curves(axes: Axes, curves: dict[str, list[Curve]], column: str, label: str) -> None:
    lines(axes, curves, column)
    for level in LEVELS:
        axes.axhline(level, color="0.6", linewidth=0.7, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel=label)
    axes.set_yticks(TICKS, labels=map(str, TICKS))
    axes.minorticks_off()
