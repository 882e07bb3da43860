"""A method of an experiment, and the settings to try."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

Setting: TypeAlias = dict[str, Any]
"""The keyword arguments of a method's `overrides`."""


class Method(NamedTuple):
    """An optimiser and its settings.

    - `name`: the name in tables and folders.
    - `overrides`: from a setting to the overrides of `python train.py` that choose the optimiser.
    - `grid`: the settings to try first.
    - `steps`: the number of steps; the entry `until` of a setting replaces it.
    - `every`: the steps between two evaluations.
    - `choices`: changes of the best setting, tried one after another; a change that helps is kept.
    - `scheduled`: whether a learning rate that grows and falls is tried as well.
    """

    name: str
    overrides: Callable[..., Sequence[str]]
    grid: Sequence[Setting]
    steps: int
    every: int
    choices: Sequence[Setting] = ()
    scheduled: bool = False


def settings(name: str, *values: float) -> list[Setting]:
    """A setting for each value of one number."""
    return [{name: value} for value in values]


def label(setting: Setting) -> str:
    """A setting in words; also used in the names of folders."""
    return ", ".join(f"{name} {value}" for name, value in setting.items()) or "no settings"
