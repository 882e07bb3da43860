"""The figures of a report: a line per run, a colour per configuration."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .configurations import Configuration
from .curves import Curve, curve, mean_curve

WIDTH, HEIGHT, DPI = 5.0, 3.6, 160
"""Inches, inches, dots per inch. On the screen of a phone, labels are as large as its text."""
LEGEND_ENTRIES, LEGEND_LETTERS = 10, 70
MARKED = 20
"""A curve of at most this many points is drawn with markers."""


class Plot(NamedTuple):
    """What a figure shows: the column `y` over the column `x`, with a name for its file."""

    name: str
    title: str
    x: str
    y: str
    x_label: str
    scale: str


STEPS = "steps"
PLOTS = (
    Plot("loss_by_steps", "Loss by steps", "step", "loss", STEPS, "log"),
    Plot(
        *("loss_by_seconds", "Loss by seconds", "seconds", "loss"),
        *("seconds of training, without compilation", "log"),
    ),
    Plot(
        *("loss_by_gradient_equivalents", "Loss by gradient-equivalents"),
        *("gradient_equivalents", "loss", "gradient-equivalents", "log"),
    ),
    Plot("damping", "Damping", "step", "damping", STEPS, "log"),
    Plot("solver_steps", "Solver steps", "step", "solver_steps", STEPS, "linear"),
    Plot("reduction_ratio", "Reduction ratio", "step", "reduction_ratio", STEPS, "symlog"),
)


def colours(count: int) -> list[str]:
    """A colour for each of `count` configurations."""
    if count <= LEGEND_ENTRIES:
        return [to_hex(colour) for colour in mpl.colormaps["tab10"].colors[:count]]  # pyright: ignore
    return [to_hex(colour) for colour in mpl.colormaps["turbo"](np.linspace(0.05, 0.95, count))]


def draw(plot: Plot, configurations: Sequence[Configuration]) -> Figure | None:
    """Draw a plot; None if no run has a number to show.

    Every run is a thin line, with a cross at its end if the run did not finish. The mean of the
    finished runs is a thick line.
    """
    drawn = [
        (group, curves, colour)
        for group, colour in zip(configurations, colours(len(configurations)))
        if (curves := [curve(run, plot.x, plot.y) for run in group.runs])
        and not all(found.is_empty for found in curves)
    ]
    if not drawn:
        return None
    legend = _legend([group.label for group, _, _ in drawn])
    lines = sum(label.count("\n") + 1 for label in legend)
    figure = Figure(figsize=(WIDTH, HEIGHT + 0.17 * lines), layout="constrained")
    axes = figure.subplots()
    handles = [_draw_group(axes, *parts) for parts in drawn]
    _scale(axes, plot.scale, [found for _, curves, _ in drawn for found in curves])
    axes.set(xlabel=plot.x_label, ylabel=plot.title.partition(" by ")[0].lower())
    axes.grid(alpha=0.25)
    handles = [*handles[:LEGEND_ENTRIES], Line2D([], [], linestyle="")][: len(legend)]
    figure.legend(handles, legend, loc="outside lower center", fontsize=8, frameon=False)
    return figure


def _draw_group(axes: Axes, group: Configuration, curves: Sequence[Curve], colour: str) -> Artist:
    """Draw the runs of a configuration; returns their handle for the legend."""
    mean = mean_curve([c for c, run in zip(curves, group.runs) if run.is_finished])
    alpha, width = (1.0, 1.4) if mean is None else (max(0.05, 0.6 / len(curves) ** 0.5), 0.8)
    for found, run in zip(curves, group.runs):
        if found.is_empty:
            continue
        marker = "." if len(found.x) <= MARKED and mean is None else ""
        axes.plot(*found, color=colour, marker=marker, alpha=alpha, linewidth=width)
        if not run.is_finished:
            last = np.flatnonzero(np.isfinite(found.y))[-1]
            axes.plot(found.x[last], found.y[last], color=colour, marker="x", linestyle="")
    if mean is not None:
        axes.plot(*mean, color=colour, linewidth=1.8)
    return Line2D([], [], color=colour)


def _scale(axes: Axes, scale: str, curves: Sequence[Curve]) -> None:
    values = np.concatenate([found.y for found in curves])
    if scale == "log" and np.nanmin(values) <= 0:
        return
    # symlog: a reduction ratio is near 1 where the quadratic model is good, and elsewhere it may be
    # very large or negative.
    axes.set_yscale(scale, **({"linthresh": 2.0} if scale == "symlog" else {}))


def _legend(labels: Sequence[str]) -> list[str]:
    shown = [textwrap.fill(label, LEGEND_LETTERS) for label in labels]
    if len(shown) <= LEGEND_ENTRIES:
        return shown
    left = len(shown) - LEGEND_ENTRIES
    return [*shown[:LEGEND_ENTRIES], f"… and {left} more, in the colours of the table"]
