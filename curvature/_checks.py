"""Checks that every floor shares: facts that can be read off a value before anything runs."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.core import Tracer


def concrete(value: Any) -> float | None:
    """`value` as a Python number, or None where it is traced and can't be looked at."""
    if isinstance(value, Tracer):
        return None
    value = np.asarray(value)
    return value.item() if value.ndim == 0 and value.dtype.kind in "biuf" else None


def positive_int(name: str, value: object) -> None:
    """Raise unless `value` is an integer of at least 1; `name` is what the user wrote."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value}.")


def takes_key(fn: Callable[..., Any]) -> bool:
    """Whether `fn` has a parameter called `key`."""
    try:
        return "key" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # builtins without a signature
        return False
