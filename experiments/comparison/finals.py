"""How soon some methods get to the losses at which others end."""

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
    """A method's setting, all that were tried on the tuning seed, and the curves of the seeds."""

    setting: Setting
    tried: Sequence[Tried]
    curves: list[Curve]


class Finals(NamedTuple):
    """What was found for one problem.

    - `rivals`: they make all of their steps; their setting is that of the lowest last loss.
    - `ours`: they end where they are below the last losses of all rivals with the same seed; their
      setting is that which gets there in the fewest processor seconds.
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
        """One row per rival, and below it one per method of ours: how soon it gets there.

        **Arguments:** `unit`, what losses are divided by.
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

    **Arguments:** `kept`, the folder of runs that are not made again.
    """
    runs = Runs(problem, kept)
    tuned = {name: runs.lowest(name, method) for name, method in rivals.items()}
    ends = [min(last_loss(each.curve) for each in tried) for _, tried in tuned.values()]
    levels = sorted(ends, reverse=True)
    tuned |= {name: runs.soonest(name, method, levels) for name, method in ours.items()}
    found = {name: Found(setting, tried, []) for name, (setting, tried) in tuned.items()}
    for seed in SEEDS:  # all methods of a seed in a row: other work on the machine comes and goes
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
