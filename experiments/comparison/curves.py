"""The loss of a run against steps and seconds."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import curvature as cv
from data import batch_indices
from training.evaluate import evaluate
from training.sources import batch_shapes, source
from training.stepper import Stepper

from .problem import Problem


class Point(NamedTuple):
    """The state of a run after `step` steps.

    - `seconds`: the wall time of the steps, without compilation and evaluation.
    - `processor_seconds`: the CPU time of the same, which does not include that of other programs.
    - `loss`: the mean over the whole part of the dataset, `Problem.part`.
    """

    step: int
    seconds: float
    processor_seconds: float
    loss: float


Curve: TypeAlias = list[Point]
Ended: TypeAlias = Callable[[Curve], bool]


def rounded(curve: Curve) -> list[list[float]]:
    """A curve for publication: seconds to the millisecond, losses to five digits."""
    return [
        [p.step, round(p.seconds, 3), round(p.processor_seconds, 3), float(f"{p.loss:.5g}")]
        for p in curve
    ]


def run(
    optimiser: cv.AbstractOptimiser,
    problem: Problem,
    seed: int,
    *,
    steps: int,
    every: int,
    ended: Ended = lambda curve: False,
) -> tuple[Curve, eqx.Module]:
    """Train on the batches of `train.py`; evaluate at the start and after every `every` steps.

    **Arguments:** `steps`, the most steps; `ended`, a function of the curve so far that returns
    whether the run ends early. A run whose loss is not finite always ends.

    **Returns:** the curve and the last model.
    """
    dataset, model = problem.dataset, problem.initial_model(seed)
    data, draw = source(dataset)
    part = getattr(dataset, problem.part)
    assert dataset.num_train is not None
    per_epoch = dataset.num_train // problem.batch_size
    state = optimiser.init(model, batch=batch_shapes(dataset, model, problem.batch_size))
    stepper = Stepper(optimiser, model, state, data, seed, draw)
    stepper.compile(jax.ShapeDtypeStruct((per_epoch, problem.batch_size), jnp.int32))
    seconds, step = np.zeros(2), 0

    def point() -> Point:
        wall, processor = map(float, seconds)
        loss = evaluate(optimiser.objective, stepper.evaluated, part)["loss"]
        return Point(step, wall, processor, loss)

    curve = [point()]
    while step < steps and np.isfinite(curve[-1].loss) and not ended(curve):
        began = _clocks()
        for _ in range(min(every, steps - step)):
            epoch = step // per_epoch
            stepper.step(_batches(seed, epoch, dataset.num_train, problem.batch_size))
            step += 1
        jax.block_until_ready(stepper.leaves)
        seconds += _clocks() - began
        curve.append(point())
    return curve, stepper.model


@functools.lru_cache(maxsize=1)
def _batches(seed: int, epoch: int, n: int, batch_size: int) -> Int[Array, "batches batch_size"]:
    return jnp.asarray(batch_indices(seed, epoch, n, batch_size), jnp.int32)


def _clocks() -> Float[np.ndarray, " 2"]:
    return np.array([time.perf_counter(), time.process_time()])
