"""The curves of runs, reduced to few enough points to draw, and their mean over seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .runs import StoredRun, number

POINTS = 300
"""The maximum number of points of a curve."""


class Curve(NamedTuple):
    """y over x, x ascending; y may be NaN."""

    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not np.isfinite(self.y).any()


def curve(run: StoredRun, x: str, y: str) -> Curve:
    """One column of a run's records over another, in at most `POINTS` points.

    More records than that are averaged over stretches of equal length. Each mean is placed at the
    end of its stretch.
    """
    across, up = _abscissa(run, x), run.columns[y]
    known = np.isfinite(across)
    across, up = across[known], up[known]
    stretch = -(-len(across) // POINTS)
    if stretch < 2:
        return Curve(across, up)
    starts = np.arange(0, len(across), stretch)
    finite = np.isfinite(up)
    counts = np.add.reduceat(finite.astype(float), starts)
    sums = np.add.reduceat(np.where(finite, up, 0.0), starts)
    means = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
    return Curve(across[np.minimum(starts + stretch, len(across)) - 1], means)


def mean_curve(curves: Sequence[Curve]) -> Curve | None:
    """The mean of several curves, by linear interpolation, on the interval that all of them cover.

    None if there are fewer than two curves, or no common interval.
    """
    whole = [Curve(c.x[np.isfinite(c.y)], c.y[np.isfinite(c.y)]) for c in curves]
    whole = [c for c in whole if len(c.x) > 1]
    if len(whole) < 2:
        return None
    start, stop = max(c.x[0] for c in whole), min(c.x[-1] for c in whole)
    if start >= stop:
        return None
    x = np.linspace(start, stop, POINTS)
    return Curve(x, np.mean([np.interp(x, c.x, c.y) for c in whole], axis=0))


def _abscissa(run: StoredRun, name: str) -> Float[np.ndarray, " steps"]:
    """A column; for `seconds`, without the time of compilation.

    If a run has no summary, the time of its first step is taken as that of compilation.
    """
    column = run.columns[name]
    if name != "seconds" or not len(column):
        return column
    compiling = number(run.summary.get("compile_seconds"))
    # Without a summary `compiling` is NaN, and `fmin` then returns its other argument.
    return column - np.fmin(compiling, column[0])
