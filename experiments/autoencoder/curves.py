"""The training loss of a run by steps and by seconds."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import curvature as cv
import models
from data import Dataset, batch_indices
from training.settings import MODEL_STREAM
from training.sources import batch_shapes, source
from training.stepper import Stepper

BATCH_SIZE = 1000


class Network(NamedTuple):
    """The layers of an encoder, which the decoder mirrors, and what is between them."""

    sizes: tuple[int, ...]
    activation: Callable[[Array], Array]


SMALL = Network((256, 64, 16), jnp.tanh)
DEEP = Network((1000, 500, 250, 30), jax.nn.relu)


class Point(NamedTuple):
    """Where a run stands after `step` steps.

    - `seconds`: of the steps alone; neither compilation nor evaluation is counted.
    - `processor_seconds`: the same by the processor's clock, which other programs do not bend.
    - `loss`: the mean over the whole training part.
    """

    step: int
    seconds: float
    processor_seconds: float
    loss: float


Curve = list[Point]


def initial_model(dataset: Dataset, seed: int, network: Network = SMALL) -> models.Autoencoder:
    """The weights with which `python train.py experiment=autoencoder seed=...` begins."""
    key = jax.random.fold_in(jax.random.key(seed), MODEL_STREAM)
    make = eqx.filter_jit(models.Autoencoder)
    return make(dataset.input_shape, dataset.output_size, **network._asdict(), key=key)


def run(
    optimiser: cv.AbstractOptimiser,
    dataset: Dataset,
    seed: int,
    *,
    steps: int,
    every: int,
    until: float,
    late: Callable[[Curve], bool] = lambda curve: False,
    network: Network = SMALL,
) -> tuple[Curve, eqx.Module]:
    """Train on the batches of `train.py`, and evaluate before the first and after `every` steps.

    **Arguments:** `steps`, the most steps; `until`, the loss below which the run ends; `late`,
    whether it ends in any case.

    **Returns:** the curve and the last model.
    """
    model = initial_model(dataset, seed, network)
    data, draw = source(dataset)
    loss = eqx.filter_jit(optimiser.objective.loss)
    assert dataset.num_train is not None
    per_epoch = dataset.num_train // BATCH_SIZE
    state = optimiser.init(model, batch=batch_shapes(dataset, model, BATCH_SIZE))
    stepper = Stepper(optimiser, model, state, data, seed, draw)
    stepper.compile(jax.ShapeDtypeStruct((per_epoch, BATCH_SIZE), jnp.int32))
    seconds, step = np.zeros(2), 0

    def point() -> Point:
        wall, processor = map(float, seconds)
        return Point(step, wall, processor, float(loss(stepper.model, data)))

    curve = [point()]
    while step < steps and until < curve[-1].loss < np.inf and not late(curve):
        began = _clocks()
        for _ in range(every):
            stepper.step(_batches(seed, step // per_epoch, dataset.num_train))
            step += 1
        jax.block_until_ready(stepper.leaves)
        seconds += _clocks() - began
        curve.append(point())
    return curve, stepper.model


@functools.lru_cache(maxsize=1)
def _batches(seed: int, epoch: int, n: int) -> Int[Array, "batches batch_size"]:
    return jnp.asarray(batch_indices(seed, epoch, n, BATCH_SIZE), jnp.int32)


def _clocks() -> Float[np.ndarray, " 2"]:
    return np.array([time.perf_counter(), time.process_time()])
