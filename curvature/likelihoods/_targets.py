"""Checks that the targets of many examples lie in the domain of a loss."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, PyTree

_BLOCK = 4096
"""Examples checked at a time, which bounds the memory. Full blocks have one shape and one trace."""

_SHOWN = 8
"""The maximum size of a target that is shown in full; a larger one: by its range and its sum."""


def check_targets(loss: Any, z_shape: tuple[int, ...], targets: PyTree, source: str) -> None:
    """Raise `ValueError` for the first of `targets` (leading axis n) that is not `in_domain`."""
    targets = jtu.tree_map(np.asarray, targets)
    n = min((len(leaf) for leaf in jtu.tree_leaves(targets)), default=0)
    for stop in range(_BLOCK, n + _BLOCK, _BLOCK):
        # The last block starts earlier to be full, too: another shape would be traced again. Only
        # fewer than `_BLOCK` targets make a block that is not full.
        stop = min(stop, n)
        start = max(stop - _BLOCK, 0)
        inside = np.asarray(_in_domain(loss, z_shape, _take(targets, slice(start, stop))))
        if not inside.all():
            raise ValueError(
                _sentence(loss, z_shape, targets, start + int(inside.argmin()), source)
            )


@eqx.filter_jit
def _in_domain(loss: Any, z_shape: tuple[int, ...], targets: PyTree[Array]) -> Bool[Array, " n"]:
    z = jnp.zeros(z_shape)
    return jax.vmap(lambda y: loss.in_domain(z, y))(targets)


def _sentence(loss: Any, z_shape: tuple[int, ...], targets: Any, index: int, source: str) -> str:
    y = _take(targets, index)
    fault = "do not fit"
    if isinstance(targets, np.ndarray):
        fault = f"run from {_number(targets.min())} to {_number(targets.max())}"
    shown = ", ".join(_describe(np.asarray(leaf)) for leaf in jtu.tree_leaves(y))
    return (
        f"`{type(loss).__name__}` needs {loss.domain(z_shape, y)}, but the targets of {source} "
        f"{fault}: the target of example {index} is {shown}."
    )


def _take(targets: PyTree, index: int | slice) -> Any:
    return jtu.tree_map(lambda leaf: leaf[index], targets)


def _describe(y: np.ndarray) -> str:
    if y.size <= _SHOWN:
        return str(y.tolist())
    return f"of shape {y.shape}, from {_number(y.min())} to {_number(y.max())}, of sum {y.sum():g}"


def _number(value: Any) -> str:
    return f"{value:g}" if np.issubdtype(value.dtype, np.inexact) else str(value)
