"""A `cond` that remains a `cond` under `vmap`."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, PyTree

from ._trees import select

_Arrays = TypeVar("_Arrays", bound=PyTree[Array])


def update_where(due: Bool[Array, ""], make: Callable[[], _Arrays], old: _Arrays) -> _Arrays:
    """Returns `make()` where `due` holds, else `old`.

    Under `vmap`, a `cond` with a batched condition becomes a `select`, which computes both branches
    at every call. Here `make` is computed only if `due` holds somewhere along the axis.
    """
    return jax.lax.cond(_somewhere(due), lambda: select(due, make(), old), lambda: old)


@custom_vmap
def _somewhere(due: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether `due` holds; under `vmap`, whether `due` holds anywhere along the axis."""
    return due


@_somewhere.def_vmap
def _(size: int, is_batched: list[bool], due: Bool[Array, " size"]) -> tuple[Array, bool]:
    del size, is_batched
    # The result is declared as not batched, so the condition of the `cond` remains one scalar.
    return _somewhere(jnp.any(due, axis=0)), False
