"""Branches that `vmap` leaves branches."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, PyTree

from ._trees import select

_Arrays = TypeVar("_Arrays", bound=PyTree[Array])


def made_where(due: Bool[Array, ""], make: Callable[[], _Arrays], old: _Arrays) -> _Arrays:
    """What `make` makes where it is due, else `old`.

    Of a `cond` whose condition differs along the axis of a `vmap`, both sides are computed at every
    call. Here `make` is computed only where it is due somewhere along the axis.
    """
    return jax.lax.cond(_somewhere(due), lambda: select(due, make(), old), lambda: old)


@custom_vmap
def _somewhere(due: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether `due` holds; under `vmap`, whether it does anywhere along its axis."""
    return due


@_somewhere.def_vmap
def _(size: int, is_batched: list[bool], due: Bool[Array, " size"]) -> tuple[Array, bool]:
    del size, is_batched
    return _somewhere(jnp.any(due, axis=0)), False
