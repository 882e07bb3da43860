"""What of a table of cases the quick run takes, and what its cases are called."""

from collections.abc import Collection, Iterable
from typing import Any

import equinox as eqx
import pytest


def slow_but(quick: Collection[Any], table: Iterable[Any]) -> list[Any]:
    """`table` for `pytest.mark.parametrize`, with all marked as slow but the cases of `quick`."""
    return [case if case in quick else _slow(case) for case in table]


def name_of(value: Any) -> str | None:
    """For `ids=`: a module goes by the name of its class, anything else as pytest has it."""
    return type(value).__name__ if isinstance(value, eqx.Module) else None


def _slow(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
