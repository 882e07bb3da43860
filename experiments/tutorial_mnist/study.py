"""Tunes, runs and times every method."""

import functools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.timing import Ratio, Rounds

from .methods import Method
from .runs import Run, Task, Trainer

Setting = tuple[float, ...]


class Outcome(NamedTuple):
    """The results of a method.

    - `setting`: the chosen setting; `tried`: the final training losses of every setting, by seed.
    - `runs`: one run per reported seed.
    - `seconds`: the time of a whole compiled run, the median of the rounds; `cost`: this time
      divided by that of the baseline.
    """

    name: str
    task: Task
    names: tuple[str, ...]
    setting: Setting
    tried: dict[Setting, list[float]]
    runs: list[Run]
    seconds: float
    cost: Ratio

    def written(self, setting: Setting) -> str:
        """A setting in words."""
        return ", ".join(f"{name} = {value:g}" for name, value in zip(self.names, setting))


def study(
    task: Task,
    methods: Sequence[Method],
    seeds: Sequence[int],
    tuning_seeds: Sequence[int],
    *,
    rounds: int,
    kept: Path,
) -> dict[str, Outcome]:
    """The outcome of every method; the first method is the baseline of the times.

    Results of an earlier call in the file `kept` are not measured again.
    """
    if kept.exists():
        return pickle.loads(kept.read_bytes())
    trainers = {method.name: Trainer(method.make, task) for method in methods}
    tried, chosen, runs = {}, {}, {}
    for method in methods:
        name, trainer = method.name, trainers[method.name]
        tried[name] = _tried(method, trainer, tuning_seeds)
        chosen[name] = best(tried[name])
        runs[name] = [trainer.run(seed, chosen[name]) for seed in seeds]
        ends = [round(float(run.train_loss[-1]), 4) for run in runs[name]]
        print(task.batch_size, name, chosen[name], ends, flush=True)
    once: dict[str, Callable[[], object]] = {
        name: functools.partial(trainer.weights, seeds[0], chosen[name])
        for name, trainer in trainers.items()
    }
    times, baseline = Rounds(once, rounds), methods[0].name
    found = {
        name: Outcome(
            name, task, names, chosen[name], tried[name], runs[name],
            times.median(name), times.ratio(name, baseline),
        )
        for name, names in ((method.name, method.names) for method in methods)
    }  # fmt: skip
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(pickle.dumps(found))
    return found


def best(tried: dict[Setting, list[float]]) -> Setting:
    """The setting with the least mean final loss; a loss that is not finite counts as worst."""
    if len(tried) == 1:
        return next(iter(tried))
    means = {setting: float(np.mean(losses)) for setting, losses in tried.items()}
    return min(means, key=lambda s: means[s] if np.isfinite(means[s]) else np.inf)


def _tried(method: Method, trainer: Trainer, seeds: Sequence[int]) -> dict[Setting, list[float]]:
    if len(method.settings) == 1:
        return {method.settings[0]: []}
    return {
        setting: [trainer.final_loss(seed, setting) for seed in seeds]
        for setting in method.settings
    }
