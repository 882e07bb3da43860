"""Single precision that is single precision on every device."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def full_precision(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`function`, whose products and convolutions are as precise as the type of its arrays.

    By default JAX lets a GPU round the operands of a float32 product to ten bits (TensorFloat-32),
    and a TPU to seven (bfloat16): enough for a stochastic gradient, but AᵀA then is no longer the
    square of A, and a solve is right to three digits while it reports seven.

    Whoever sets `jax_default_matmul_precision` has chosen, and is obeyed; the errors that are
    guaranteed elsewhere then hold for that precision.
    """

    @functools.wraps(function)
    def in_full_precision(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if jax.config.jax_default_matmul_precision is not None:  # pyright: ignore
            return function(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return in_full_precision
