"""The figure of the three vector fields."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from .field import CORNERS, fields, losses
from .problems import Problem

PATH_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def draw(problem: Problem, path: Path) -> None:
    """Draw one panel per direction: contours of the loss, arrows −d(w), and the four paths."""
    (slope_low, intercept_low), (slope_high, intercept_high) = CORNERS
    optimum = np.asarray(problem.optimum())
    grid, values = losses(problem)
    gap = values - float(problem.loss(problem.optimum()))
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.3), sharex=True, sharey=True)
    for axes, (name, field) in zip(panels, fields(problem).items(), strict=True):
        axes.contour(
            grid[..., 1], grid[..., 0], gap, levels=2.0 ** np.arange(-6, 8),
            colors="0.8", linewidths=0.7,
        )  # fmt: skip
        longest = np.linalg.norm(field.arrows, axis=-1).max()
        axes.quiver(
            field.grid[..., 1], field.grid[..., 0], field.arrows[..., 1], field.arrows[..., 0],
            color="0.35", angles="xy", scale_units="xy", scale=longest / 1.2, width=0.004,
        )  # fmt: skip
        for colour, points in zip(PATH_COLOURS, field.paths, strict=True):
            axes.plot(points[:, 1], points[:, 0], color=colour, linewidth=1.8)
            axes.plot(points[0, 1], points[0, 0], "o", color=colour, markersize=6)
        axes.plot(optimum[1], optimum[0], "*", color="black", markersize=11)
        axes.set(
            title=f"{name} (longest arrow {longest:.2g})",
            xlabel="intercept",
            xlim=(intercept_low, intercept_high),
            ylim=(slope_low, slope_high),
        )
    panels[0].set_ylabel("slope")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
