"""The cost of a step in units of one gradient on the same batch, by counting operations."""

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
    """The cost of a step in gradient-equivalents: its operations divided by those of a gradient.

    Operations are floating-point operations, as XLA's cost analysis counts them. XLA counts one
    iteration of a loop, the most expensive branch of a `cond`, and nothing for factorisations by
    LAPACK.

    - `step`: the compiled step, including the drawing of the batch, with one iteration of each
        loop.
    - `iteration`: one more iteration of the iterative solver, counted as one product with JᵀJ. This
        product, and the gradient by which it is divided, are counted before compilation.

    A search may try more than one step size; only the first is counted.
    """

    step: float
    iteration: float

    def of(self, solver_steps: int) -> float:
        """The cost of a step whose solver took `solver_steps` iterations."""
        return self.step + self.iteration * max(solver_steps - 1, 0)


def cost_of(
    run: Run,
    step: jax.stages.Compiled | None,
    *,
    solves: bool = True,
    devices: int = 1,
    runs: int = 1,
) -> Cost:
    """The cost of the compiled `step` of a run; NaN where XLA gives no count or `step` is None.

    **Arguments:** `solves`: whether the step has an iterative solver. Without one, `iteration` is 0
    and its product is not traced: this would take longer than all else in the start of a run by
    Adam.
    `devices`: the number of devices that share the step; XLA counts the operations of one device.
    `runs`: the number of runs whose operations are in XLA's count of the step.
    """
    if step is None:
        return Cost(math.nan, math.nan)
    # Arrays are arguments, not constants: as a constant, each value would need its own program.
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
    with use_abstract_mesh(AbstractMesh((), ())):  # count for one device, whatever mesh is set
        gradient = jax.jit(jax.grad(loss)).lower(params, batch, key, numbers)
        if solves:
            at = eqx.filter_eval_shape(linearise, params, batch, key, numbers)
            shapes, others = eqx.partition(at, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
            turn = flops(jax.jit(product).lower(shapes, params)) / flops(gradient)
        # Compiled, as the step is: XLA's fusions recompute cheap values rather than store them, and
        # the count of a compiled program includes this.
        gradient = gradient.compile()
    return Cost(devices * flops(step) / (runs * flops(gradient)), turn)


def flops(program: jax.stages.Lowered | jax.stages.Compiled) -> float:
    """The floating-point operations of a program; NaN if XLA gives no count."""
    analysis = program.cost_analysis()
    return math.nan if analysis is None else analysis.get("flops", math.nan)
