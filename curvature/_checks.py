"""Checks that every floor shares: facts that can be read off a value before anything runs."""

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

    **Arguments:** `name`, what the user wrote; `value`, a number, an array, or a traced array, of
    which only the shape can be looked at.

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
    """A number as it is held in a module: an array, so that its value is no part of the program.

    Plain numbers become NumPy's in double precision: they are rounded where they are used, in the
    precision of what they meet there, whether or not `jax_enable_x64` is set later.
    """
    return value if isinstance(value, jax.Array) else np.asarray(value, np.float64)


def fraction(name: str, value: Any, *, positive: bool = False, instead: str = "") -> None:
    """Raise unless `value` lies in [0, 1), or in (0, 1) if `positive`; see [`number`][].

    **Arguments:** `instead`, what else may be given, for the end of the sentence.
    """
    known = number(name, value, positive=positive)
    if known is not None and known >= 1:
        wanted = "(0, 1)" if positive else "[0, 1)"
        raise ValueError(f"`{name}` must lie in {wanted}, got {value}{instead}.")


def positive_int(name: str, value: object) -> None:
    """Raise unless `value` is an integer of at least 1; `name` is what the user wrote."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value}.")


def instance_of(name: str, value: object, kind: type, wanted: str, instead: str = "") -> None:
    """Raise unless `value` is one of a kind of parts; a class in the place of its object is not.

    **Arguments:** `name`, what the user wrote; `wanted`, in words, with an example; `instead`, what
    to do with what is given, as a sentence.
    """
    if isinstance(value, kind):
        return
    if isinstance(value, type):
        got = f"the class `{value.__name__}`"
        if issubclass(value, kind):
            instead = f"Make an object of it: `{value.__name__}(...)`."
    elif callable(value) and hasattr(value, "__name__"):
        got = f"the function `{value.__name__}`"
    else:
        got = (
            f"{value!r}" if isinstance(value, str | int | float) else f"a `{type(value).__name__}`"
        )
    raise ValueError(f"`{name}` must be {wanted}, got {got}. {instead}".rstrip())


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuses what is not among the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def takes_key(fn: Callable[..., Any]) -> bool:
    """Whether `fn` has a parameter called `key`."""
    try:
        return "key" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # builtins without a signature
        return False


def check_schedule(name: str, value: object) -> None:
    """Raise unless `value` can be called; `name` is what the user wrote."""
    if not callable(value):
        raise ValueError(
            f"`{name}` must be a function of the number of steps, such as an optax schedule, got "
            f"{value}."
        )
