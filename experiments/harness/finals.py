"""How soon some methods reach the final losses of others."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .curves import Curve, Point, read_curve
from .levels import ratio, reached, spread
from .markdown import table
from .method import Method, Setting
from .problem import Problem
from .runs import Runs
from .tables import NUMBERS, format_spread
from .tuning import Tried, lowest, soonest


class Found(NamedTuple):
    """A method's chosen setting, all settings tried on the tuning seeds, and a curve per seed."""

    setting: Setting
    tried: Sequence[Tried]
    curves: list[Curve]


class Finals(NamedTuple):
    """The results for one problem.

    - `rivals`: by name; the setting is the one with the lowest last loss.
    - `ours`: the setting is the one that is soonest below the last losses of all rivals.
    - `levels`: the last losses of the rivals on the tuning seeds, the highest first.
    """

    problem: Problem
    rivals: dict[str, Found]
    ours: dict[str, Found]
    levels: list[float]

    def all(self) -> dict[str, Found]:
        """All methods, the rivals first."""
        return self.rivals | self.ours

    def table(self, unit: float = 1.0) -> str:
        """One row per rival, followed by rows for our methods: when each reaches the rival's loss.

        The loss of a rival is its last one. The rival may have reached it before its last step. A
        rival that diverged has no loss to reach.

        **Arguments:** `unit`, a divisor for the losses.
        """
        rows = []
        for name, rival in self.rivals.items():
            levels = [curve[-1].value for curve in rival.curves]
            ends = _reach(rival.curves, levels)
            rows.append([f"**{name}**", *_cells(ends, unit), ""])
            for method, found in self.ours.items():
                points = _reach(found.curves, levels)
                share = format_spread(ratio(points, ends, "processor_seconds"))
                row = [*_cells(points, unit), share]
                if None in points:
                    made = len(points) - points.count(None)
                    last = _cells([curve[-1] for curve in found.curves], unit)[-1]
                    row = [f"{made} of {len(points)} seeds", "–", "–", last, share]
                rows.append([f"{method} to there", *row])
        return table(["", *NUMBERS.values(), "loss", "processor seconds over the rival's"], rows)


def _reach(curves: Sequence[Curve], levels: Sequence[float]) -> list[Point | None]:
    """The first point of each curve at its level."""
    return [reached(curve, level) for curve, level in zip(curves, levels, strict=True)]


def _cells(points: Sequence[Point | None], unit: float) -> list[str]:
    losses = [
        None if point is None else point._replace(value=point.value / unit) for point in points
    ]
    return [format_spread(spread(losses, number)) for number in (*NUMBERS, "value")]


def compare(
    problem: Problem, rivals: Sequence[Method], ours: Sequence[Method], kept: Path
) -> Finals:
    """Tune all methods on the tuning seeds, and run them on others.

    **Arguments:** `kept`, the folder of previous runs, which are not repeated.
    """
    runs = Runs(problem, kept)
    tuned = {
        method.name: lowest(method, functools.partial(runs.tried, method)) for method in rivals
    }
    ends = []
    for method, (setting, tried) in zip(rivals, tuned.values(), strict=True):
        # `lowest` tries nothing for a rival with one setting; its last loss is a level, too.
        ends.append(min(each.last_loss for each in tried or [runs.tried(method, setting)]))
    levels = sorted(ends, reverse=True)
    tuned |= {
        method.name: soonest(method, functools.partial(runs.tried, method), levels)
        for method in ours
    }
    chosen = [(method, tuned[method.name][0]) for method in (*rivals, *ours)]
    folders = runs.run_in_turns(chosen)
    found = {
        name: Found(*tuned[name], [read_curve(folder, problem.part) for folder in made])
        for name, made in folders.items()
    }
    by_rivals, by_ours = (
        {method.name: found[method.name] for method in methods} for methods in (rivals, ours)
    )
    return Finals(problem, by_rivals, by_ours, levels)
