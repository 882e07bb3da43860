"""Checks of arguments that all layers of the library share; they run before anything is traced."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ScalarLike


def number(name: str, value: Any, *, positive: bool = False) -> float | None:
    """Raise unless `value` is one finite number ≥ 0 (> 0 if `positive`).

    **Arguments:** `name`, the argument as the user wrote it; `value`, a number, an array, or a
    traced array. Of a traced array only the shape is checked, since its value is not known.

    **Returns:** the value as a Python float, or None where it is traced.
    """
    if isinstance(value, Tracer) and value.ndim == 0:
        return None
    scalar = isinstance(value, int | float | np.number | np.ndarray | Array) and np.ndim(value) == 0
    found = float(value) if scalar and not isinstance(value, bool) else math.nan
    if not math.isfinite(found) or found < 0 or (positive and found == 0):
        wanted = "a positive finite number" if positive else "a finite number ≥ 0"
        raise ValueError(f"`{name}` must be {wanted}, got {value}.")
    return found


def scalar(value: ScalarLike) -> Any:
    """Converts a number into an array, so that another value does not cause a new compilation.

    A Python number becomes a NumPy array in double precision, not a JAX array: JAX would round the
    number to float32 here if `jax_enable_x64` is not set yet. The number is rounded where it is
    used, to the precision of the arrays there.
    """
    return value if isinstance(value, jax.Array) else np.asarray(value, np.float64)


def fraction(name: str, value: Any, *, positive: bool = False, instead: str = "") -> None:
    """Raise unless `value` lies in [0, 1), or in (0, 1) if `positive`; see [`number`][].

    **Arguments:** `instead`, the end of the error sentence: which other values are allowed.
    """
    known = number(name, value, positive=positive)
    # The value is used in the precision of the weights, in which 1 − value must not be 0.
    if known is not None and np.float32(known) >= 1:
        wanted = "(0, 1)" if positive else "[0, 1)"
        rounded = ", which is 1 in float32" if known < 1 else ""
        raise ValueError(f"`{name}` must lie in {wanted}, got {value}{rounded}{instead}.")


def positive_int(name: str, value: object) -> None:
    """Raise unless `value` is an integer ≥ 1; `name` is the argument as the user wrote it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value}.")


def instance_of(name: str, value: object, kind: type, wanted: str, instead: str = "") -> None:
    """Raise unless `value` is an instance of `kind`; a class instead of an instance is an error.

    **Arguments:** `name`, the argument as the user wrote it; `wanted`, the expected value in words,
    with an example; `instead`, a sentence that says how to convert the given value.
    """
    if isinstance(value, kind):
        return
    if isinstance(value, type):
        got = f"the class `{value.__name__}`"
        if issubclass(value, kind):
            instead = f"Pass an instance: `{value.__name__}(...)`."
    elif callable(value) and hasattr(value, "__name__"):
        got = f"the function `{value.__name__}`"
    else:
        got = (
            f"{value!r}" if isinstance(value, str | int | float) else f"a `{type(value).__name__}`"
        )
    raise ValueError(f"`{name}` must be {wanted}, got {got}. {instead}".rstrip())


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def takes_key(fn: Callable[..., Any]) -> bool:
    """Whether `fn` has a parameter called `key`."""
    try:
        return "key" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # builtins without a signature
        return False


def check_schedule(name: str, value: object) -> None:
    """Raise unless `value` can be called; `name` is the argument as the user wrote it."""
    if not callable(value):
        raise ValueError(
            f"`{name}` must be a function of the number of steps, such as an optax schedule, got "
            f"{value}."
        )
