"""Products of float32 arrays in full float32 precision on every device."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def full_precision(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`function` with matrix products and convolutions in the full precision of their arrays.

    By default, JAX lets a GPU round the operands of a float32 product to ten bits (TensorFloat-32),
    and a TPU to seven (bfloat16). This is enough for a stochastic gradient, but not for a solve:
    the computed AᵀA is then not the square of A, and a solve has three correct digits while it
    reports seven.

    If the user has set `jax_default_matmul_precision`, that setting is kept. The error bounds that
    other docstrings state then hold for that precision.
    """

    @functools.wraps(function)
    def in_full_precision(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if jax.config.jax_default_matmul_precision is not None:  # pyright: ignore
            return function(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return in_full_precision
