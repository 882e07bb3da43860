"""How soon some methods reach the final losses of others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.markdown import table

from .curves import Curve, Point
from .levels import last_loss, ratio, reached, spread
from .method import Method, Setting
from .problem import Problem
from .runs import SEEDS, Runs
from .tables import NUMBERS, written
from .tuning import Tried


class Found(NamedTuple):
    """A method's chosen setting, all settings tried on the tuning seed, and a curve per seed."""

    setting: Setting
    tried: Sequence[Tried]
    curves: list[Curve]


class Finals(NamedTuple):
    """The results for one problem.

    - `rivals`: each run makes all its steps. The setting is the one with the lowest last loss.
    - `ours`: a run ends when its loss is below the last losses of all rivals with the same seed.
      The setting is the one that reaches this in the fewest processor seconds.
    - `levels`: the last losses of the rivals on the tuning seed, the highest first.
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

        **Arguments:** `unit`, a divisor for the losses.
        """
        rows = []
        for name, rival in self.rivals.items():
            ends = [curve[-1] for curve in rival.curves]
            rows.append([f"**{name}**", *_cells(ends, unit), ""])
            for method, found in self.ours.items():
                points = [
                    reached(curve, end.loss) for curve, end in zip(found.curves, ends, strict=True)
                ]
                share = written(ratio(points, ends, "processor_seconds"))
                row = [*_cells(points, unit), share]
                if None in points:
                    made = len(points) - points.count(None)
                    last = _cells([curve[-1] for curve in found.curves], unit)[-1]
                    row = [f"{made} of {len(points)} seeds", "–", "–", last, share]
                rows.append([f"{method} to there", *row])
        return table(["", *NUMBERS.values(), "loss", "processor seconds over the rival's"], rows)


def _cells(points: Sequence[Point | None], unit: float) -> list[str]:
    losses = [None if point is None else point._replace(loss=point.loss / unit) for point in points]
    return [written(spread(losses, number)) for number in (*NUMBERS, "loss")]


def compare(
    problem: Problem, rivals: Mapping[str, Method], ours: Mapping[str, Method], kept: Path
) -> Finals:
    """Tune all methods on one seed, and run them on others.

    **Arguments:** `kept`, the folder of previous runs, which are not repeated.
    """
    runs = Runs(problem, kept)
    tuned = {name: runs.lowest(name, method) for name, method in rivals.items()}
    ends = [min(last_loss(each.curve) for each in tried) for _, tried in tuned.values()]
    levels = sorted(ends, reverse=True)
    tuned |= {name: runs.soonest(name, method, levels) for name, method in ours.items()}
    found = {name: Found(setting, tried, []) for name, (setting, tried) in tuned.items()}
    # All methods of a seed in a row: the load on the machine changes with time, and must affect all
    # methods alike.
    for seed in SEEDS:
        last = None
        for name, method in rivals.items():
            curve, _ = runs.made(name, method, found[name].setting, seed)
            found[name].curves.append(curve)
            last = curve[-1].loss if last is None else min(last, curve[-1].loss)
        for name, method in ours.items():
            curve, _ = runs.made(name, method, found[name].setting, seed, until=last)
            found[name].curves.append(curve)
    by_rivals, by_ours = ({name: found[name] for name in names} for names in (rivals, ours))
    return Finals(problem, by_rivals, by_ours, levels)
