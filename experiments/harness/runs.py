"""The runs of an experiment; each is made once and then read from its folder."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from .command import made
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

    def made(self, method: Method, setting: Setting, seed: int) -> Path:
        """The folder of a run, which is made first if need be."""
        steps = setting.get("until", method.steps)
        overrides = [
            *self._problem.overrides,
            *method.overrides(**setting),
            f"seed={seed}",
            f"max_steps={steps}",
            f"epochs={steps}",  # an epoch has at least one step, so `max_steps` ends the run
            f"evaluate_every={method.every}",
            f"evaluate_train={self._problem.part == 'train'}",
        ]
        # With other overrides, a run has another folder.
        digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]
        names = (self._problem.name, method.name, f"{label(setting)} seed {seed} {digest}")
        return made(self._folder.joinpath(*map(_file_name, names)), overrides)

    def curve(self, method: Method, setting: Setting, seed: int) -> Curve:
        """The losses of a run."""
        return read_curve(self.made(method, setting, seed), self._problem.part)

    def tried(self, method: Method, setting: Setting, seeds: Sequence[int] = TUNING_SEEDS) -> Tried:
        """The curves of a setting."""
        return Tried(setting, [self.curve(method, setting, seed) for seed in seeds])


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name)
