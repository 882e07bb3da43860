"""What steps cost in gradients of the loss on the same batch, by counting operations."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
from jax.sharding import AbstractMesh, use_abstract_mesh
from jaxtyping import Array, PyTree

import curvature as cv

from ._base import Run
from .sources import batch_shapes


class Cost(NamedTuple):
    """What one step costs, in gradient-equivalents: operations over those of a gradient.

    Operations are floating-point operations as XLA's cost analysis counts them. It counts a loop
    as one turn and a branch as its dearest, and factorisations by LAPACK as nothing.

    - `step`: the compiled step, drawing of the batch included, every loop turned once.
    - `turn`: one more turn of its iterative solver, taken to be a product with JᵀJ; this and its
        gradient are counted before compilation. What a search tries beyond its first step size is
        not counted.
    """

    step: float
    turn: float

    def of(self, solver_steps: int) -> float:
        """A step whose solver took so many."""
        return self.step + self.turn * max(solver_steps - 1, 0)


def cost_of(
    run: Run,
    step: jax.stages.Compiled | None,
    *,
    solves: bool = True,
    devices: int = 1,
    runs: int = 1,
) -> Cost:
    """The cost of the compiled `step` of a run; NaN where XLA does not count, or is not asked.

    **Arguments:** `solves`: whether the step has an iterative solver. Without one `turn` is 0:
    tracing the products that it counts takes longer than all else in the start of a run by Adam.
    `devices`: how many share the step; XLA counts what one of them does. `runs`: of how many XLA
    counts the step.
    """
    if step is None:
        return Cost(math.nan, math.nan)
    # Arguments, not constants: as constants they would give every value its own program.
    numbers, without_numbers = eqx.partition(run.optimiser.objective, eqx.is_array)
    key = jax.random.key(0)
    params, static = eqx.partition(run.model, eqx.is_inexact_array)
    batch = batch_shapes(run.dataset, run.model, run.settings.batch_size)

    def loss(
        params: PyTree[Array], batch: PyTree[Array], key: Array, numbers: PyTree[Array]
    ) -> Array:
        objective = eqx.combine(numbers, without_numbers)
        return objective.loss(eqx.combine(params, static), batch, key=key)

    def linearise(
        params: PyTree[Array], batch: PyTree[Array], key: Array, numbers: PyTree[Array]
    ) -> cv.AbstractLinearisation:
        objective = eqx.combine(numbers, without_numbers)
        return objective.linearise(eqx.combine(params, static), batch, key=key)

    def product(shapes: PyTree[Array], vector: PyTree[Array]) -> PyTree[Array]:
        at = eqx.combine(shapes, others)
        return at.vjp(at.jvp(vector))

    turn = 0.0
    with use_abstract_mesh(AbstractMesh((), ())):  # on one device, wherever the step is made
        gradient = jax.jit(jax.grad(loss)).lower(params, batch, key, numbers)
        if solves:
            at = eqx.filter_eval_shape(linearise, params, batch, key, numbers)
            shapes, others = eqx.partition(at, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
            turn = flops(jax.jit(product).lower(shapes, params)) / flops(gradient)
        # Like by like: XLA's fusions compute cheap things twice rather than keep them, and count.
        gradient = gradient.compile()
    return Cost(devices * flops(step) / (runs * flops(gradient)), turn)


def flops(program: jax.stages.Lowered | jax.stages.Compiled) -> float:
    """The floating-point operations of a program, NaN where XLA does not count."""
    analysis = program.cost_analysis()
    return math.nan if analysis is None else analysis.get("flops", math.nan)
