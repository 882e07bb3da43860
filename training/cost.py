"""What steps cost in gradients of the loss on the same batch, by counting operations."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from ._base import Run
from .sources import batch_shapes
from .stepper import Stepper


class Cost(NamedTuple):
    """What one step costs, in gradient-equivalents: operations over those of a gradient.

    Operations are floating-point operations as XLA's cost analysis counts them. It counts a loop
    as one turn and a branch as its dearest, and factorisations by LAPACK as nothing.

    - `step`: the compiled step, drawing of the batch included, every loop turned once.
    - `turn`: one more turn of its iterative solver, taken to be a product with JᵀJ. What a search
        tries beyond its first step size is not counted.
    """

    step: float
    turn: float

    def of(self, solver_steps: int) -> float:
        """A step whose solver took so many."""
        return self.step + self.turn * max(solver_steps - 1, 0)


def cost_of(run: Run, stepper: Stepper) -> Cost:
    """The cost of the steps of a compiled `stepper`; NaN where XLA does not count."""
    objective, key = run.optimiser.objective, jax.random.key(0)
    params, static = eqx.partition(run.model, eqx.is_inexact_array)
    batch = batch_shapes(run.dataset, run.model, run.settings.batch_size)

    def loss(params: PyTree[Array], batch: PyTree[Array], key: Array) -> Array:
        return objective.loss(eqx.combine(params, static), batch, key=key)

    def products(count: int) -> Callable[..., PyTree[Array]]:
        def multiplied(params: PyTree[Array], batch: PyTree[Array], key: Array) -> PyTree[Array]:
            at = objective.linearise(eqx.combine(params, static), batch, key=key)
            vector = params
            for _ in range(count):
                vector = at.vjp(at.jvp(vector))
            return vector

        return multiplied

    def operations(function: Callable[..., Any]) -> float:
        # Before compilation, which takes its time and changes these counts by a percent or so.
        analysis = jax.jit(function).lower(params, batch, key).cost_analysis()
        return math.nan if analysis is None else analysis.get("flops", math.nan)

    gradient = operations(jax.grad(loss))
    product = operations(products(2)) - operations(products(1))
    return Cost(stepper.flops / gradient, product / gradient)
