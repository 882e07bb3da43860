"""The steps to time, inside one scan over distinct batches, and as one call per step."""

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

from .problems import OBJECTIVE, Images, Problem, loss, sgd_step

Thing = Callable[[], object]


class Scan:
    """Steps `body(carry, batch)` inside one scan over the batches of a problem."""

    def __init__(
        self,
        problem: Problem | Images,
        body: Callable[[PyTree, Any], tuple[PyTree, Any]],
        carry: PyTree,
    ):
        # Carry and batches are arguments: if they were constants, XLA would fold computations with
        # them at compile time.
        self._run = jax.jit(lambda carry, batches: jax.lax.scan(body, carry, batches))
        self._carry, self._batches = carry, problem.data()

    def __call__(self) -> object:
        return self._run(self._carry, self._batches)

    def warm_up(self) -> "Scan":
        """The same scan after one pass over the batches, past the work of the first steps only."""
        self._carry, _ = self._run(self._carry, self._batches)
        return self

    def memory(self) -> int:
        """The bytes that XLA allocates for one step: arguments, results and temporary arrays."""
        one = jax.tree.map(lambda array: array[:1], self._batches)
        found = self._run.lower(self._carry, one).compile().memory_analysis()
        assert found is not None, "XLA says so on every platform"
        sizes = found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes
        return sum(sizes)


def _split(problem: Problem | Images) -> tuple[PyTree, PyTree]:
    return eqx.partition(problem.model(), eqx.is_array)


def scan_sgd(problem: Problem | Images) -> Scan:
    """Hand-written SGD steps."""
    params, static = _split(problem)
    return Scan(problem, lambda params, batch: sgd_step(params, static, batch), params)


def scan_gradient(problem: Problem | Images) -> Scan:
    """Gradients of the loss at fixed weights, summed so that XLA does not remove them."""
    params, static = _split(problem)

    def body(carry: tuple[PyTree, PyTree], batch: Any) -> Any:
        params, total = carry
        value, grad = jax.value_and_grad(lambda p: loss(eqx.combine(p, static), batch))(params)
        return (params, jax.tree.map(jnp.add, total, grad)), value

    return Scan(problem, body, (params, jax.tree.map(jnp.zeros_like, params)))


def scan_products(problem: Problem | Images, count: int) -> Scan:
    """A linearisation and `count` products with the Gauss–Newton matrix, per batch."""
    params, static = _split(problem)

    def body(params: PyTree, batch: Any) -> Any:
        linearisation = OBJECTIVE.linearise(eqx.combine(params, static), batch)
        operator = cv.GaussNewton().operator(linearisation)
        v = jax.lax.fori_loop(0, count, lambda _, v: operator.mv(v), linearisation.grad)
        return params, jax.tree.map(jnp.max, v)

    return Scan(problem, body, params)


def scan_steps(problem: Problem | Images, optimiser: cv.AbstractOptimiser) -> Scan:
    """Steps of an optimiser of this library."""
    params, static = _split(problem)
    state = optimiser.init(problem.model(), batch=_first(problem))

    def body(carry: tuple[PyTree, PyTree], batch: Any) -> Any:
        params, state = carry
        key = jax.random.key(0)
        model, state, info = optimiser.step(eqx.combine(params, static), batch, state, key=key)
        return (eqx.filter(model, eqx.is_array), state), info

    return Scan(problem, body, (params, state))


def scan_curvature(problem: Problem | Images, curvature: cv.AbstractCurvature) -> Scan:
    """The gradient and the state update of a curvature, per batch; its operator is not used."""
    params, static = _split(problem)

    def body(state: PyTree, batch: Any) -> Any:
        here = OBJECTIVE.linearise(eqx.combine(params, static), batch)
        _, state = curvature.update(here, state, key=jax.random.key(0))
        return state, jax.tree.map(jnp.max, here.grad)

    shapes = eqx.filter_eval_shape(OBJECTIVE.linearise, problem.model(), _first(problem))
    return Scan(problem, body, curvature.init(shapes))


def _first(problem: Problem | Images) -> Any:
    return jax.tree.map(lambda batches: batches[0], problem.data())


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
