"""The same steps inside one scan over distinct batches, and one call at a time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

import curvature as cv
from data import Dataset
from training.device import on_device
from training.stepper import Stepper

from .problems import OBJECTIVE, Problem, loss, sgd_step

Thing = Callable[[], object]


def _scan(
    problem: Problem, body: Callable[[PyTree, Any], tuple[PyTree, Any]], carry: PyTree
) -> Thing:
    # Carry and batches are arguments: as constants, XLA would fold them.
    run = jax.jit(lambda carry, batches: jax.lax.scan(body, carry, batches))
    batches = problem.data()
    return lambda: run(carry, batches)


def _split(problem: Problem) -> tuple[PyTree, PyTree]:
    return eqx.partition(problem.model(), eqx.is_array)


def scan_sgd(problem: Problem) -> Thing:
    """Hand-written SGD steps."""
    params, static = _split(problem)
    return _scan(problem, lambda params, batch: sgd_step(params, static, batch), params)


def scan_gradient(problem: Problem) -> Thing:
    """Gradients of the loss at fixed weights, added up so that none is optimised away."""
    params, static = _split(problem)

    def body(carry: tuple[PyTree, PyTree], batch: Any) -> Any:
        params, total = carry
        value, grad = jax.value_and_grad(lambda p: loss(eqx.combine(p, static), batch))(params)
        return (params, jax.tree.map(jnp.add, total, grad)), value

    return _scan(problem, body, (params, jax.tree.map(jnp.zeros_like, params)))


def scan_products(problem: Problem, count: int) -> Thing:
    """A linearisation and `count` products with the Gauss–Newton matrix, per batch."""
    params, static = _split(problem)

    def body(params: PyTree, batch: Any) -> Any:
        linearisation = OBJECTIVE.linearise(eqx.combine(params, static), batch)
        operator = cv.GaussNewton().operator(linearisation)
        v = jax.lax.fori_loop(0, count, lambda _, v: operator.mv(v), linearisation.grad)
        return params, jax.tree.map(jnp.max, v)

    return _scan(problem, body, params)


def scan_steps(problem: Problem, optimiser: cv.AbstractOptimiser) -> Thing:
    """Steps of an optimiser of this library."""
    params, static = _split(problem)
    state = optimiser.init(problem.model())

    def body(carry: tuple[PyTree, PyTree], batch: Any) -> Any:
        params, state = carry
        key = jax.random.key(0)
        model, state, info = optimiser.step(eqx.combine(params, static), batch, state, key=key)
        return (eqx.filter(model, eqx.is_array), state), info

    return _scan(problem, body, (params, state))


def call_sgd(problem: Problem) -> Thing:
    """Hand-written SGD steps, one jitted call each."""
    params, static = _split(problem)
    step = jax.jit(lambda params, batch: sgd_step(params, static, batch))
    xs, ys = problem.data()
    batches = list(zip(xs, ys, strict=True))

    def run() -> PyTree:
        carry = params
        for batch in batches:
            carry, _ = step(carry, batch)
        return carry

    return run


def call_steps(problem: Problem, optimiser: cv.AbstractOptimiser) -> Thing:
    """The steps as the training loop calls them, without its records."""
    dataset = as_dataset(problem)
    model = problem.model()
    data = on_device(dataset.train)
    stepper = Stepper(optimiser, model, optimiser.init(model), data, 0)
    n = problem.batches * problem.batch_size
    order = jnp.arange(n, dtype=jnp.int32).reshape(problem.batches, problem.batch_size)
    stepper.compile(order)
    return lambda: [stepper.step(order) for _ in range(problem.batches)]


def as_dataset(problem: Problem) -> Dataset:
    """The batches of a problem as the data of a training run."""
    xs, ys = (jax.device_get(part).reshape(-1, *part.shape[2:]) for part in problem.data())
    return Dataset("benchmark", (xs, ys), (xs[:1], ys[:1]), input_shape=(784,), output_size=10)
