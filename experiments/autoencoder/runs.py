"""The runs of the comparison, made once."""

from pathlib import Path

from data import Dataset

from .curves import initial_model, run
from .levels import LEVELS
from .methods import METHODS, Setting
from .store import Made, kept
from .tuning import Late, Tried, label, never, tune

SEEDS = (0, 1, 2, 3, 4)
TUNING_SEED = 100


class Runs:
    """Runs on a dataset; those that are kept in `folder` are not made again."""

    def __init__(self, dataset: Dataset, folder: Path):
        self._dataset, self._folder = dataset, folder
        self._like = initial_model(dataset, TUNING_SEED)

    def tuned(self, name: str) -> tuple[Setting, list[Tried]]:
        """The best setting of a method on the tuning seed, and all that were tried."""
        return tune(
            METHODS[name], lambda setting, late: self.made(name, setting, TUNING_SEED, late)[0]
        )

    def made(self, name: str, setting: Setting, seed: int, late: Late = never) -> Made:
        """A run of a method to the last level."""
        method = METHODS[name]

        def make() -> Made:
            return run(
                method.make(**setting),
                self._dataset,
                seed,
                steps=setting.get("until", method.steps),
                every=method.every,
                until=LEVELS[-1],
                late=late,
            )

        file = f"{name}_{label(setting)}_{seed}".replace(" ", "_").replace(",", "")
        return kept(self._folder / file, make, self._like)
