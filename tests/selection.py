"""Marks the slow cases in a table of cases, and names the cases."""

from collections.abc import Collection, Iterable
from typing import Any

import equinox as eqx
import pytest


def slow_but(quick: Collection[Any], table: Iterable[Any]) -> list[Any]:
    """`table` for `pytest.mark.parametrize`; all cases that are not in `quick` are marked slow."""
    return [case if case in quick else _slow(case) for case in table]


def name_of(value: Any) -> str | None:
    """For `ids=`: the class name of a module; None for other values, which pytest names itself."""
    return type(value).__name__ if isinstance(value, eqx.Module) else None


def _slow(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
