"""Where the first number that is not finite comes from."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array, PRNGKeyArray, PyTree

import curvature as cv

from .arrays import by_path

NOT_FINITE = frozenset(
    cv.RESULTS[result]
    for result in (
        *(cv.RESULTS.nonfinite_loss, cv.RESULTS.nonfinite_gradient),
        *(cv.RESULTS.nonfinite_direction, cv.RESULTS.nonfinite_candidate),
        cv.RESULTS.nonfinite_update,
    )
)
"""The sentences in `RESULTS` for steps that are rejected because a number is not finite."""

_LIBRARIES = (
    *("site-packages", "dist-packages"),
    *(str(Path(cv.__file__).parent), str(Path(__file__).parent)),
)


def origin_of_nan(
    objective: cv.AbstractObjective, model: eqx.Module, batch: PyTree[Array], key: PRNGKeyArray
) -> str:
    """One sentence: where in the batch, weights, loss or gradient the first NaN or infinity is.

    Repeats the computation, with a check of every operation.
    """
    for name, tree in (("batch", batch), ("weights", eqx.filter(model, eqx.is_inexact_array))):
        if found := _not_finite(tree):
            return f"There are numbers in the {name} that are not finite: {found}."

    def loss() -> Any:
        return objective.loss(model, batch, key=key)

    def gradient() -> Any:
        # Not by `linearise`: it evaluates a graph, whose operations have no lines of the model.
        return eqx.filter_grad(lambda model: objective.loss(model, batch, key=key))(model)

    for name, compute in (("loss", loss), ("gradient", gradient)):
        # A finite result may mask intermediate NaNs, which are harmless: do not report these.
        if _not_finite(compute()):
            return f"In the {name}, {_first_in(compute)}."
    return "Batch, weights, loss and gradient are finite: the solve or the step is not."


def _not_finite(tree: PyTree[Array]) -> str:
    counts = {
        path: int(np.sum(~np.isfinite(leaf)))
        for path, leaf in by_path(tree).items()
        if jnp.issubdtype(leaf.dtype, jnp.inexact)  # NumPy does not know bfloat16
    }
    return ", ".join(f"{count} in `{path}`" for path, count in counts.items() if count)


def _first_in(compute: Callable[[], Any]) -> str:
    error, _ = checkify.checkify(compute, errors=checkify.float_checks)()
    exception = error.get_exception()
    if exception is None:
        # `float_checks` finds NaNs and divisions by zero, but not an overflow of finite numbers.
        return "something overflows"
    frames = traceback.extract_tb(exception.traceback_info.as_python_traceback())
    # The innermost line outside of libraries and of this project's code around the model.
    own = [f for f in frames if not any(name in f.filename for name in _LIBRARIES)]
    # A function that JAX has traced before has no frames of the present call.
    found = own[-1] if own else frames[0]
    message = str(exception).rstrip(".")
    return f"{message} in `{found.name}` at {found.filename}:{found.lineno}, `{found.line}`"
