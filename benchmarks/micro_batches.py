"""Memory and time of micro-batches: `python -m benchmarks.micro_batches [--folder FOLDER]`.

Runs steps on one large batch, as a whole and in micro-batches. The figures are the memory of the
compiled step beside its arguments and results, and its time divided by that of the whole batch. All
times are from one run on one core; ratios are of times of the same round.
"""

import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax
import optimistix as optx
from jaxtyping import PyTree

import curvature as cv
import models

from .problems import Images, Problem
from .report import Report, parser
from .tables import mebibytes
from .timing import Rounds

NAME = "micro_batches"
BATCH, MICRO_BATCH = 16_384, 256
PROBLEMS = (
    Problem(1024, BATCH, 1),
    Images(
        f"convnet, 3 × 32 × 32 pixels, batch {BATCH:,}",
        lambda key: models.ConvNet((3, 32, 32), 10, key=key),
        batch_size=BATCH,
        batches=1,
        pixels=(3, 32, 32),
    ),
)


def _natural(objective: cv.Supervised, *parts: Any) -> cv.NaturalGradient:
    return cv.NaturalGradient(objective, *parts, damping=1e-2, search=optx.LearningRate(1e-3))


METHODS: dict[str, Callable[[cv.Supervised], cv.AbstractOptimiser]] = {
    "SGD": lambda objective: cv.FirstOrder(objective, optax.sgd(1e-3)),
    "Gauss–Newton, 5 steps of CG": lambda objective: _natural(
        objective, cv.GaussNewton(), cv.CG(max_steps=5)
    ),
    "K-FAC": lambda objective: _natural(objective, cv.KFAC(cv.SampledFisher(1))),
}


class Step:
    """A compiled step on one batch."""

    def __init__(self, problem: Problem | Images, optimiser: cv.AbstractOptimiser):
        model = problem.model()
        self._batch = jax.tree.map(lambda array: array[0], problem.data())
        state = optimiser.init(model, batch=self._batch)
        self._arrays, static = eqx.partition((model, state), eqx.is_array)

        def step(arrays: PyTree, batch: Any, key: Any) -> PyTree:
            model, state = eqx.combine(arrays, static)
            return eqx.filter(optimiser.step(model, batch, state, key=key), eqx.is_array)

        arguments = self._arrays, self._batch, jax.random.key(0)
        self._run = jax.jit(step).lower(*arguments).compile()

    def __call__(self) -> object:
        return self._run(self._arrays, self._batch, jax.random.key(0))

    def mebibytes(self) -> float:
        """The memory beside arguments and results, in MiB."""
        return mebibytes(self._run)


def measure(problem: Problem | Images, name: str, rounds: int) -> dict[str, Any]:
    """One row."""
    likelihood, make = cv.Categorical(), METHODS[name]
    whole = Step(problem, make(cv.Supervised(likelihood)))
    parts = Step(problem, make(cv.Supervised(likelihood, micro_batch=MICRO_BATCH)))
    times = Rounds({"whole": whole, "parts": parts}, rounds)
    return {
        "step": name,
        "whole batch, MiB": round(whole.mebibytes(), 1),
        "micro-batches, MiB": round(parts.mebibytes(), 1),
        "time over that of the whole": times.ratio("parts", "whole"),
    }


def main(argv: list[str]) -> None:
    """Measure, print each table when it is ready, and write at the end if asked to."""
    options = parser(NAME, __doc__, rounds=3).parse_args(argv)
    report, found = Report(NAME, options.folder), {}
    for problem in PROBLEMS:
        found[problem.name] = [measure(problem, name, options.rounds) for name in METHODS]
        report.show(f"{problem.name}, micro-batches of {MICRO_BATCH}", found[problem.name])
    report.write({"steps": found}, rounds=options.rounds, micro_batch=MICRO_BATCH, tables=found)


if __name__ == "__main__":
    main(sys.argv[1:])
