"""Expands the overrides of a sweep into those of its jobs."""

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.types import IntervalSweep, Override

from .errors import ConfigError


def expand(overrides: Sequence[Override], *, search: bool) -> list[list[str]]:
    """The overrides of each job, `key=value`; where a key is given twice, the last one counts.

    **Arguments:**

    - `overrides`: those of the command.
    - `search`: whether the sweeper chooses the values during the sweep. Then the result is not its
        jobs, but enough for a check: every value, and both ends of an interval, occur in one job.

    **Raises:** `ConfigError` for a sweep over nothing, for `shuffle`, and for an interval without a
    search.
    """
    given = {
        override.get_key_element(): _values(override, search=search)
        for override in overrides
        if not override.is_hydra_override()
    }
    if not search:
        return [list(job) for job in itertools.product(*given.values())]
    number = max(map(len, given.values()), default=1)
    return [[each[min(job, len(each) - 1)] for each in given.values()] for job in range(number)]


def _values(override: Override, *, search: bool) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        if not search:
            raise ConfigError(
                f"`{override.input_line}` is an interval, and only a sweeper that searches can "
                "use an interval. Add `hydra/sweeper=optuna`, or list the values."
            )
        return [f"{key}={end}" for end in (value.start, value.end)]
    if not search and getattr(value, "shuffle", False):
        raise ConfigError(
            f"`{override.input_line}` gives the jobs a new order each time it is read. List the "
            "values in an order."
        )
    values = [f"{key}={each}" for each in override.sweep_string_iterator()]
    if not values:
        raise ConfigError(f"`{override.input_line}` sweeps over no values. Give at least one.")
    return values
