"""The runs of a comparison; each is made once and then read from disk."""

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
    """Runs of a problem; a run that is already in `folder` is not repeated."""

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
        """A run of the method `name` until its loss is `until`; with None, all steps."""

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
        """The setting with the lowest last loss on the tuning seed, and all settings tried."""
        return lowest(method, lambda setting: self.made(name, method, setting, TUNING_SEED)[0])

    def soonest(
        self, name: str, method: Method, levels: Sequence[float]
    ) -> tuple[Setting, list[Tried]]:
        """The setting that `tune` chooses on the tuning seed, and all settings tried."""

        def run(setting: Setting, late: Ended) -> Curve:
            return self.made(name, method, setting, TUNING_SEED, until=levels[-1], late=late)[0]

        return tune(method, run, levels)
