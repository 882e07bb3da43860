"""Losses and accuracies against steps and seconds, and the figures of the control experiment."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from experiments.harness.curves import Curve

from .outcome import Outcome
from .rank_one import DAMPINGS, SHOWN, Lengths

COLOURS = ("black", "#999999", "#e69f00", "#56b4e9", "#0072b2", "#d55e00", "#009e73", "#cc79a7")


def curves(found: dict[str, dict[str, Outcome]], path: Path) -> None:
    """Draw one row per problem: training loss and test accuracy against steps and seconds."""
    figure, panels = plt.subplots(
        len(found), 4, figsize=(18, 4.2 * len(found)), layout="constrained", squeeze=False
    )
    colours = _colours(found.values())
    for row, (problem, outcomes) in zip(panels, found.items(), strict=True):
        for name, outcome in outcomes.items():
            colour = colours[name]
            loss = _padded([run.train for run in outcome.runs])
            accuracy = 100 * _padded([run.accuracy for run in outcome.runs])
            longest = max((run.train for run in outcome.runs), key=len)
            steps = np.array([p.step for p in longest])
            seconds = steps * outcome.seconds_per_step
            for axes, x, y in zip(
                row, (steps, seconds, steps, seconds), (loss, loss, accuracy, accuracy)
            ):
                _line(axes, x, y, colour, name)
        for axes, measure in zip(row, ("training loss", "test accuracy, %") * 2):
            axes.set(title=problem, ylabel=measure)
            axes.grid(alpha=0.3)
        for axes, x in zip(row, ("steps", "processor seconds, without compilation") * 2):
            axes.set_xlabel(x)
            if x != "steps":
                axes.set_xscale("log")
        for axes in row[:2]:
            axes.set_yscale("log")
        for axes in row[2:]:
            axes.set_ylim(80, 97)
        row[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def control(
    found: dict[str, Lengths],
    training: dict[str, Sequence[float]],
    path: Path,
) -> None:
    """Draw ‖d‖ against the damping at some weights, and the losses of training with ḡ/‖ḡ‖²."""
    figure, panels = plt.subplots(
        1, len(found) + 1, figsize=(5.2 * (len(found) + 1), 4.4), layout="constrained"
    )
    for axes, (title, lengths) in zip(panels, found.items()):
        for colour, (name, values) in zip(COLOURS, lengths.of.items()):
            wrong = name not in SHOWN
            style = "--" if wrong else "-"
            axes.plot(DAMPINGS, values, style, color=colour, label=name)
        axes.set(xscale="log", yscale="log", xlabel="damping λ", ylabel="‖(C + λI)⁻¹ḡ‖")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    for colour, (name, losses) in zip(COLOURS, training.items()):
        panels[-1].plot(np.arange(len(losses)), losses, color=colour, label=name)
    panels[-1].set(xlabel="step", ylabel="loss of the batch", yscale="log", title="training")
    panels[-1].grid(alpha=0.3)
    panels[-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def histograms(found: dict[str, dict[str, dict[str, Float[np.ndarray, " P"]]]], path: Path) -> None:
    """Draw one row per time, one panel per quantity, and one outline per method."""
    first = next(iter(found.values()))
    columns, colours = list(first), _colours(first.values())
    figure, panels = plt.subplots(
        len(found), len(columns), figsize=(5 * len(columns), 3.6 * len(found)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for row, (time, quantities) in zip(panels, found.items(), strict=True):
        for axes, (quantity, of) in zip(row, quantities.items(), strict=True):
            largest = max(np.abs(values).max() for values in of.values())
            for name, values in of.items():
                axes.hist(
                    values, bins=np.linspace(-largest, largest, 121), histtype="step",
                    color=colours[name], label=name,
                )  # fmt: skip
            axes.set(yscale="log", title=f"{quantity}, {time}", ylabel="how many")
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _colours(found: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """A colour for each name: the same in all panels."""
    names = dict.fromkeys(name for each in found for name in each)
    return dict(zip(names, COLOURS))


def _padded(curves: Sequence[Curve]) -> Float[np.ndarray, "seeds points"]:
    """The values of several curves; those of a run that ended early are continued with NaN."""
    values = np.full((len(curves), max(map(len, curves))), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[: len(curve)] = [point.value for point in curve]
    return values


def _line(
    axes: Axes,
    x: Float[np.ndarray, " points"],
    y: Float[np.ndarray, "seeds points"],
    colour: str,
    name: str,
) -> None:
    """Draw the median over the seeds, in a band from the smallest to the largest."""
    axes.plot(x, np.median(y, axis=0), color=colour, label=name, linewidth=1.4)
    axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.12, linewidth=0)
