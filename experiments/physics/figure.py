"""Figures of physics-informed networks: the solution, its error, and the error during training."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import data
from models import MLP

Curve = list[tuple[int, float, float]]

_REFERENCES = {"poisson2d": data.poisson2d, "heat": data.heat, "poisson5d": data.poisson5d}
_AXES = {"poisson2d": ("x", "y"), "heat": ("t", "x")}
_COLOURS = ("tab:blue", "tab:green", "tab:orange")


def draw(file: Path, experiment: str, curves: dict[str, list[Curve]], run: Path) -> None:
    """Write a figure: error against steps and seconds for all seeds; u and u − u* of one `run`.

    In more than two dimensions, one panel with u − u* against u* replaces the last two.
    """
    figure, axes = plt.subplots(1, 4, figsize=(17, 3.6), layout="constrained")
    for axis, column, label in ((axes[0], 0, "step"), (axes[1], 1, "seconds, without compilation")):
        _convergence(axis, curves, column, label)
    inputs, targets = _reference(experiment)
    outputs = _outputs(run, inputs)
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


def trained(run: Path, dimensions: int) -> MLP:
    """The trained model of a run."""
    like = MLP((dimensions,), 1, width=64, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    return eqx.tree_deserialise_leaves(run / "model.eqx", like)


def _convergence(axis: Axes, curves: dict[str, list[Curve]], column: int, label: str) -> None:
    for colour, (name, seeds) in zip(_COLOURS, curves.items(), strict=True):
        for number, curve in enumerate(seeds):
            points = np.asarray(curve)
            shown = name if number == 0 else None
            axis.plot(points[:, column], points[:, 2], color=colour, label=shown, linewidth=0.9)
    axis.set(yscale="log", xlabel=label, ylabel="L2 error")
    axis.grid(alpha=0.3)
    axis.legend()
    if column == 0:
        axis.set_xscale("log")


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


def _outputs(run: Path, inputs: np.ndarray) -> np.ndarray:
    """The outputs of the trained model of a run at the points."""
    with jax.enable_x64(True):
        model = trained(run, inputs.shape[1])
        return np.asarray(jax.vmap(model)(jnp.asarray(inputs)))[:, 0]
