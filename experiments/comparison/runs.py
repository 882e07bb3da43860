"""The runs of a comparison, made once."""

from collections.abc import Sequence
from pathlib import Path

from .curves import Curve, Ended, run
from .levels import reached
from .method import Method, Setting, label
from .problem import Problem
from .store import Made, kept
from .tuning import Tried, lowest, never, tune

SEEDS = (0, 1, 2, 3, 4)
TUNING_SEED = 100


class Runs:
    """Runs of a problem; those that are kept in `folder` are not made again."""

    def __init__(self, problem: Problem, folder: Path):
        self._problem, self._folder = problem, folder
        self._like = problem.initial_model(TUNING_SEED)

    def made(
        self,
        name: str,
        method: Method,
        setting: Setting,
        seed: int,
        *,
        until: float | None = None,
        late: Ended = never,
    ) -> Made:
        """A run of the method `name`, to the loss `until` or, with None, of all its steps."""

        def make() -> Made:
            return run(
                method.make(**setting),
                self._problem,
                seed,
                steps=setting.get("until", method.steps),
                every=method.every,
                ended=lambda curve: (
                    (until is not None and reached(curve, until) is not None) or late(curve)
                ),
            )

        file = f"{self._problem.name}_{name}_{label(setting)}_{seed}"
        return kept(self._folder / file.replace(" ", "_").replace(",", ""), make, self._like)

    def lowest(self, name: str, method: Method) -> tuple[Setting, list[Tried]]:
        """The setting with the lowest last loss on the tuning seed, and all that were tried."""
        return lowest(method, lambda setting: self.made(name, method, setting, TUNING_SEED)[0])

    def soonest(
        self, name: str, method: Method, levels: Sequence[float]
    ) -> tuple[Setting, list[Tried]]:
        """The best setting by `tune` on the tuning seed, and all that were tried."""

        def run(setting: Setting, late: Ended) -> Curve:
            return self.made(name, method, setting, TUNING_SEED, until=levels[-1], late=late)[0]

        return tune(method, run, levels)
