from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array

from .._devices import has_several_devices
from ..layers import operations
from ..operators import AbstractInvertibleOperator, DampedOperator, PullbackOperator
from ..operators.blocks import BlockOperator
from ..rows import Cost, Layout, cost_of, memory_of
from ._base import Elementwise
from .auto import Auto
from .cg import CG
from .preconditioned import Preconditioned
from .sample_space import SampleSpace
from .structured import Structured

# One pass through a model, even a very small one, takes at least the time of so many operations.
_PASS = 2_000_000
# The number of columns of a dense matrix that one pass computes.
_COLUMNS = 64
# Solution, residual, direction, its product, and the best solution so far.
_CG_VECTORS = 5
# A factorisation was measured to run at half the speed of matrix products.
_SLOWER = 2

_ALL_AT_ONCE = (
    "; rows need the inputs and cotangents of all examples at once, whatever `micro_batch` is; "
    "`solver=cg` and `structure=kfac` do not"
)
_ON_EVERY_DEVICE = (
    "; every device factorises the whole matrix, and only the other work is divided among the "
    "devices"
)


@dataclass(frozen=True)
class StructureCost:
    """The cost of a structure in one step, as the curvature or as a preconditioner.

    - `operator`: the structure, with zeros in its arrays.
    - `made`, `applied`: operations to compute the structure and its damped inverse, and operations
      of one product with the inverse. Both are for a step that computes everything again.
    - `nbytes`: the memory of the inverse.
    """

    operator: AbstractInvertibleOperator
    made: int
    applied: int
    nbytes: int

    @classmethod
    def of(cls, make: Callable[[], AbstractInvertibleOperator], damping: Array) -> "StructureCost":
        """Counts the operations of P and (P + λI)⁻¹; `make` is traced, but nothing is computed."""
        P, made = _trace_and_count(make)
        M, inverted = _trace_and_count(lambda: P.inverse(damping))
        vector = jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), M.in_structure())
        applied = operations(jax.make_jaxpr(M.mv)(vector).jaxpr)
        nbytes = sum(leaf.nbytes for leaf in jtu.tree_leaves(eqx.filter(M, eqx.is_array)))
        return cls(P, made + inverted + _PASS, applied, nbytes)


def _trace_and_count(make: Callable[[], Any]) -> tuple[Any, int]:
    """The result of `make` with zeros in its arrays, and the number of operations of `make`."""
    jaxpr, shapes, static = eqx.filter_make_jaxpr(make)()
    zeros = jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return eqx.combine(zeros, static), operations(jaxpr.jaxpr)


@dataclass(frozen=True)
class Plan:
    """A solver for C + λI, with the predicted cost of gradient and solve, from shapes only.

    - `solver`: the solver that is used.
    - `parameters`, `rows`: the number of weights P, and the m of C = AᵀA; m is None for an operator
      that is not made of rows.
    - `gradients`: the cost of a step before the search, in gradients of the loss on its batch. The
      operations are counted, with the most steps that an iterative solver takes, and with all that
      a structure computes only at some steps. None if the cost of the solver or of C is not known.
    - `nbytes`: the memory of the solve beside that of the model; None if it is not known.
    - `others`: the same cost for other solvers, by name.
    - `preconditioner`: the part of `gradients` due to the preconditioner; None without one.
    - `structure`: which weights have which structure, of C or of the preconditioner; None without.
    - `all_at_once`: whether inputs and cotangents of all examples are held at once although
      `micro_batch` is less than the batch.
    - `on_every_device`: whether several devices share the batch, but each factorises the whole
      matrix. More devices do not make this factorisation faster.
    """

    solver: lx.AbstractLinearSolver
    parameters: int
    rows: int | None
    gradients: float | None
    nbytes: int | None
    others: dict[str, float]
    preconditioner: float | None = None
    structure: str | None = None
    all_at_once: bool = False
    on_every_device: bool = False

    def __str__(self) -> str:
        rows = "" if self.rows is None else f", {self.rows:,} rows"
        parts = [f"{self.parameters:,} parameters{rows}; {name_of(self.solver)}"]
        if self.nbytes is not None:
            parts.append(f"about {self.nbytes / 2**20:,.3g} MiB")
        if self.gradients is not None:
            others = ", ".join(f"{name} {cost:,.3g}" for name, cost in self.others.items())
            most = "at most " if isinstance(self.solver, CG | Structured) else ""
            cost = f"a step is predicted to cost {most}{self.gradients:,.3g} gradients"
            if self.preconditioner is not None:
                cost += f", {self.preconditioner:,.3g} of them for the preconditioner"
            parts.append(cost + (f" ({others})" if others else ""))
        structure = "" if self.structure is None else f"; {self.structure}"
        notes = (_ALL_AT_ONCE, self.all_at_once), (_ON_EVERY_DEVICE, self.on_every_device)
        return ", ".join(parts) + structure + "".join(note for note, holds in notes if holds)


class _Costs:
    """The costs of each solver for one operator."""

    def __init__(
        self,
        operator: lx.AbstractLinearOperator,
        structure: StructureCost | None,
        preconditioner: StructureCost | None,
        gradient: int | None,
        micro_batch: int | None,
    ):
        self.micro_batch = micro_batch
        self.of_structure, self.preconditioner = structure, preconditioner
        self.parameters = operator.in_size()
        inner = operator.operator if isinstance(operator, DampedOperator) else operator
        self.layout: Layout | None = None
        # The cost for an operator that is one dense matrix, P × P: that of a product with it.
        product = 2 * self.parameters**2
        matrix = product * self.parameters
        cost = Cost(gradient or product, by_products=matrix, by_rows=matrix, gram=0)
        if isinstance(inner, PullbackOperator):
            self.layout = inner.layout()
            cost = cost_of(self.layout)
        self.cost, self.diagonal = cost, lx.is_diagonal(operator)
        self.structured = isinstance(inner, AbstractInvertibleOperator)
        self.structure = None if preconditioner is None else preconditioner.operator.describe()
        if isinstance(inner, AbstractInvertibleOperator):
            self.structure = inner.describe()
        leaves = jtu.tree_leaves(operator.in_structure())
        self.itemsize = max((leaf.dtype.itemsize for leaf in leaves), default=0)

    def gradients(self, solver: lx.AbstractLinearSolver) -> float | None:
        """The cost of gradient and solve, in gradients; for an iterative solver, the most."""
        gradient, P = self.cost.gradient + _PASS, self.parameters
        if self.structured:
            return self._of_structure(solver, gradient)
        match solver:
            case Elementwise():
                solve = 0
            case CG():
                solve = solver.max_steps * gradient + self._preconditioning(solver)
            case Preconditioned():
                solve = self._preconditioning(solver)
            case lx.Cholesky():
                by_products = self.cost.by_products + -(-P // _COLUMNS) * _PASS
                solve = min(by_products, self.cost.by_rows + _PASS) + _SLOWER * P**3 // 3
            case SampleSpace() if self.layout is not None:
                solve = self.cost.gram + _PASS + _SLOWER * self.layout.size**3 // 3
            case _:
                return None
        return (gradient + solve) / gradient

    def _of_structure(self, solver: lx.AbstractLinearSolver, gradient: int) -> float | None:
        cost = self.of_structure
        if cost is None or not isinstance(solver, CG | Elementwise | Structured):
            return None
        products = solver.max_steps if isinstance(solver, CG) else 1
        return (gradient + cost.made + products * cost.applied) / gradient

    def _preconditioning(self, solver: CG | Preconditioned) -> int:
        """The operations to compute the preconditioner, and of all products with it.

        `CG` takes one product before its first step, and one after each step.
        """
        if self.preconditioner is None:
            return 0
        steps = solver.max_steps if isinstance(solver, CG) else 0
        return self.preconditioner.made + (steps + 1) * self.preconditioner.applied

    def nbytes(self, solver: lx.AbstractLinearSolver) -> int | None:
        """The memory of the solve: the matrices and vectors that exist at the same time."""
        held = 0
        match solver:
            case Elementwise():
                vectors = 1
            case CG() if self.preconditioner is not None:
                vectors, held = _CG_VECTORS + 1, self.preconditioner.nbytes
            case CG():
                vectors = _CG_VECTORS
            case Preconditioned() if self.preconditioner is not None:
                vectors, held = 1, self.preconditioner.nbytes
            case lx.Cholesky():
                vectors = 2 * self.parameters  # the matrix and its factor
            case SampleSpace() if self.layout is not None:
                return memory_of(self.layout)
            case _:
                return None
        return vectors * self.parameters * self.itemsize + held

    def plan(
        self, solver: lx.AbstractLinearSolver, others: tuple[lx.AbstractLinearSolver, ...] = ()
    ) -> Plan:
        """The plan for `solver`, with the costs of `others` for comparison."""
        costs = {name_of(other): self.gradients(other) for other in others}
        share = None
        if self.preconditioner is not None and isinstance(solver, CG | Preconditioned):
            share = self._preconditioning(solver) / (self.cost.gradient + _PASS)
        by_rows = self._has_rows(solver)
        return Plan(
            solver=solver,
            parameters=self.parameters,
            rows=None if self.layout is None else self.layout.size,
            gradients=self.gradients(solver),
            nbytes=self.nbytes(solver),
            others={name: cost for name, cost in costs.items() if cost is not None},
            preconditioner=share,
            structure=self.structure,
            all_at_once=self.micro_batch is not None and by_rows,
            on_every_device=has_several_devices() and (by_rows or isinstance(solver, lx.Cholesky)),
        )

    def _has_rows(self, solver: lx.AbstractLinearSolver) -> bool:
        parts = (self.of_structure, self.preconditioner)
        structures = [part.operator for part in parts if part is not None]
        by_rows = any(isinstance(P, BlockOperator) and P.has_rows for P in structures)
        return by_rows or isinstance(solver, SampleSpace)


def name_of(solver: lx.AbstractLinearSolver) -> str:
    """The name of a solver in records: its class."""
    return type(solver).__name__


def plan_for(
    solver: lx.AbstractLinearSolver,
    operator: lx.AbstractLinearOperator,
    *,
    positive_damping: bool,
    structure: StructureCost | None = None,
    preconditioner: StructureCost | None = None,
    gradient: int | None = None,
    micro_batch: int | None = None,
) -> Plan:
    """The plan of a solve with `operator`; `Auto` is replaced by the solver that it chooses.

    **Arguments:** `structure`, the cost of C if C is a structure; `gradient`, the operations of a
    gradient, needed with `structure`; `preconditioner`, its cost, or None; `micro_batch`, the most
    examples that are held at once.
    """
    costs = _Costs(operator, structure, preconditioner, gradient, micro_batch)
    if not isinstance(solver, Auto):
        return costs.plan(solver)
    chosen = solver.choose(
        operator,
        positive_damping=positive_damping,
        preconditioned=preconditioner is not None,
    )
    others = (solver.sample_space, lx.Cholesky(), solver.cg)
    different = tuple(other for other in others if type(other) is not type(chosen))
    return costs.plan(chosen, () if costs.diagonal or costs.structured else different)
