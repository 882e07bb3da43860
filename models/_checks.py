"""Checks of hyper-parameters that several models share; `name` is what the user wrote."""

from collections.abc import Sequence


def integer(name: str, value: object, *, least: int = 1) -> None:
    """Raise unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")


def integers(name: str, values: Sequence[object]) -> None:
    """Raise unless `values` are positive integers, at least one."""
    if not values:
        raise ValueError(f"`{name}` must have at least one size, got none.")
    for value in values:
        integer(name, value)


def probability(name: str, value: float) -> None:
    """Raise unless `value` is in [0, 1): with 1, dropout would leave nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be in [0, 1), got {value!r}.")
