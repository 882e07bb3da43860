"""Figures of physics-informed networks: the solution, its error, and the error during training."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import data
from experiments.harness.curves import Curve
from experiments.harness.lines import lines

_REFERENCES = {"poisson2d": data.poisson2d, "heat": data.heat, "poisson5d": data.poisson5d}
_AXES = {"poisson2d": ("x", "y"), "heat": ("t", "x")}


def draw(file: Path, experiment: str, curves: dict[str, list[Curve]], model: eqx.Module) -> None:
    """Write a figure: error against steps and seconds for all seeds; u and u − u* of one model.

    In more than two dimensions, one panel with u − u* against u* replaces the last two.
    """
    figure, axes = plt.subplots(1, 4, figsize=(17, 3.6), layout="constrained")
    for axis, column, label in zip(
        axes, ("step", "seconds"), ("step", "seconds, without compilation")
    ):
        lines(axis, curves, column)
        axis.set(yscale="log", xlabel=label, ylabel="L2 error")
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_xscale("log")
    inputs, targets = _reference(experiment)
    outputs = _outputs(model, inputs)
    if experiment in _AXES:
        _map(axes[2], outputs, "u, seed 0", _AXES[experiment], "viridis", symmetric=False)
        _map(axes[3], outputs - targets, "u − u*, seed 0", _AXES[experiment], "RdBu_r")
    else:
        axes[2].plot(targets, outputs - targets, ".", markersize=1)
        axes[2].set(xlabel="u*", title="u − u*, seed 0")
        axes[3].hist(outputs - targets, bins=80)
        axes[3].set(xlabel="u − u*", ylabel="points", title="u − u*, seed 0")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _map(
    axis: Axes,
    values: np.ndarray,
    title: str,
    names: tuple[str, str],
    colours: str,
    *,
    symmetric: bool = True,
) -> None:
    """Draw values on the grid of 200 × 200 points; the first coordinate is the horizontal one."""
    most = float(np.abs(values).max()) if symmetric else None
    image = axis.imshow(
        values.reshape(200, 200).T,
        origin="lower",
        extent=(0, 1, 0, 1),
        cmap=colours,
        vmin=None if most is None else -most,
        vmax=most,
    )
    axis.set(xlabel=names[0], ylabel=names[1], title=title)
    axis.figure.colorbar(image, ax=axis, format="%.1e" if symmetric else "%.1f")


def _reference(experiment: str) -> tuple[np.ndarray, np.ndarray]:
    reference = _REFERENCES[experiment](seed=0).reference
    assert reference is not None
    inputs, targets = reference
    return inputs, targets[:, 0]


def _outputs(model: eqx.Module, inputs: np.ndarray) -> np.ndarray:
    """The outputs of a trained model at the points."""
    with jax.enable_x64(True):
        outputs = jax.vmap(model)(jnp.asarray(inputs))  # pyright: ignore[reportArgumentType]
        return np.asarray(outputs)[:, 0]
