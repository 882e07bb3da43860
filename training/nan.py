"""Where the first number that is not finite comes from."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

import curvature as cv

NOT_FINITE = frozenset(
    cv.RESULTS[result]
    for result in (
        *(cv.RESULTS.nonfinite_loss, cv.RESULTS.nonfinite_gradient),
        *(cv.RESULTS.nonfinite_direction, cv.RESULTS.nonfinite_candidate),
    )
)
"""The sentences of steps that were rejected because something was not finite."""

_LIBRARIES = ("site-packages", "dist-packages", str(Path(cv.__file__).parent))


def origin_of_nan(
    objective: cv.AbstractObjective, model: eqx.Module, batch: PyTree[Array], key: PRNGKeyArray
) -> str:
    """One sentence: what in the batch, the weights, the loss or its gradient is first not finite.

    The computation is done anew, one operation at a time, which takes seconds.
    """
    for name, tree in (("batch", batch), ("weights", eqx.filter(model, eqx.is_inexact_array))):
        if found := _not_finite(tree):
            return f"The {name} holds numbers that are not finite: {found}."

    def gradient() -> Any:
        return objective.linearise(model, batch, key=key).grad

    for name, compute in (
        ("loss", lambda: objective.loss(model, batch, key=key)),
        ("gradient", gradient),
    ):
        if found := _first_in(compute):
            return f"In the {name}, {found}."
    return "Batch, weights, loss and gradient are finite: it is the solve or the step that is not."


def _not_finite(tree: PyTree[Array]) -> str:
    leaves, _ = jtu.tree_flatten_with_path(tree)
    counts = {
        jtu.keystr(path, simple=True, separator="/"): int(np.sum(~np.isfinite(leaf)))
        for path, leaf in leaves
        if np.issubdtype(leaf.dtype, np.inexact)
    }
    return ", ".join(f"{count} in `{path}`" for path, count in counts.items() if count)


def _first_in(compute: Callable[[], Any]) -> str:
    try:
        with jax.disable_jit(), jax.debug_nans(True), jax.debug_infs(True):
            compute()
    except FloatingPointError as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not any(name in f.filename for name in _LIBRARIES)]
        # The innermost line that is neither of a library nor of this package: the model's.
        own = [f for f in own if Path(f.filename).parent != Path(__file__).parent]
        where = f" at {own[-1].filename}:{own[-1].lineno}, `{own[-1].line}`" if own else ""
        return f"{str(error).splitlines()[0].rstrip('.')}{where}"
    return ""
