"""The runs of an experiment; each is made once and then read from its folder."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from .command import compose, run_once, run_seeds_once
from .curves import Curve, read_curve
from .method import Method, Setting, label
from .problem import Problem
from .tuning import Tried

SEEDS = (0, 1, 2, 3, 4)
TUNING_SEEDS = (100,)


class Runs:
    """Runs of a problem, in `folder`."""

    def __init__(self, problem: Problem, folder: Path):
        self._problem, self._folder = problem, folder.resolve()

    def run(self, method: Method, setting: Setting, seed: int) -> Path:
        """The folder of a run, which is made first if need be."""
        overrides = self._overrides(method, setting)
        name = f"{_stem(setting, overrides)}{seed}"
        return run_once(self._parent(method) / name, [*overrides, f"seed={seed}"])

    def run_seeds(self, method: Method, setting: Setting, seeds: Sequence[int]) -> list[Path]:
        """The folders of some runs; those that are missing are made in one program.

        It is several times faster than single runs, but does not measure the time of each.
        """
        overrides = self._overrides(method, setting)
        stem = _stem(setting, overrides)
        names = {seed: f"{stem}{seed}" for seed in seeds}
        return list(run_seeds_once(self._parent(method), names, overrides).values())

    def run_in_turns(self, chosen: Sequence[tuple[Method, Setting]]) -> dict[str, list[Path]]:
        """By the name of each method, the folders of its runs with all of `SEEDS`.

        All methods of a seed run in a row: the load on the machine changes with time, and must
        affect all methods alike.
        """
        found: dict[str, list[Path]] = {method.name: [] for method, _ in chosen}
        for seed in SEEDS:
            for method, setting in chosen:
                found[method.name].append(self.run(method, setting, seed))
        return found

    def curve(self, method: Method, setting: Setting, seed: int) -> Curve:
        """The losses of a run."""
        return read_curve(self.run(method, setting, seed), self._problem.part)

    def tried(self, method: Method, setting: Setting, seeds: Sequence[int] = TUNING_SEEDS) -> Tried:
        """The curves of a setting. The times are meaningful only with a single seed."""
        folders = self.run_seeds(method, setting, seeds)
        return Tried(setting, [read_curve(folder, self._problem.part) for folder in folders])

    def _parent(self, method: Method) -> Path:
        return self._folder / _file_name(self._problem.name) / _file_name(method.name)

    def _overrides(self, method: Method, setting: Setting) -> list[str]:
        steps, part = setting.get("until", method.steps), self._problem.part
        return [
            *self._problem.overrides,
            *method.overrides(**setting),
            f"max_steps={steps}",
            f"epochs={steps}",  # an epoch has at least one step, so `max_steps` ends the run
            f"evaluate_every={method.every}",
            f"evaluate_train={part == 'train'}",
            f"evaluate_test={part != 'validation'}",
        ]


def _stem(setting: Setting, overrides: Sequence[str]) -> str:
    """The name of a run's folder without the seed; another one for another configuration."""
    config = yaml.safe_dump(compose(overrides), sort_keys=True)
    digest = hashlib.sha256(config.encode()).hexdigest()[:8]
    return f"{_file_name(label(setting))}_{digest}_seed_"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name)
