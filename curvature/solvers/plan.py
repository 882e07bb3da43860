from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array

from ..layers import operations
from ..operators import AbstractInvertibleOperator, DampedOperator, PullbackOperator
from ..rows import Cost, Layout, cost_of, memory_of
from ._base import Elementwise
from .auto import Auto
from .cg import CG
from .preconditioned import Preconditioned
from .sample_space import SampleSpace

# A pass through a model takes at least the time of so many operations, however small it is.
_PASS = 2_000_000
# How many columns of a dense matrix are made in one pass.
_COLUMNS = 64
# Solution, residual, direction, its product, and the best solution so far.
_CG_VECTORS = 5
# Factorising was measured to run at half the speed of matrix products.
_SLOWER = 2


@dataclass(frozen=True)
class Preconditioning:
    """What a preconditioner M costs.

    - `made`, `applied`: operations to make it at a step, and of a product with it.
    - `nbytes`: what it holds.
    - `structure`: which weights have which structure.
    """

    made: int
    applied: int
    nbytes: int
    structure: str

    @classmethod
    def of(
        cls, make: Callable[[], AbstractInvertibleOperator], damping: Array
    ) -> "Preconditioning":
        """The costs of P and (P + λI)⁻¹ by counting: `make` is traced, nothing is computed."""
        found, described = [], []

        def traced() -> list[Array]:
            P = make()
            described.append(P.describe())
            M = P.inverse(damping)
            vector = jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), M.in_structure())
            held = jtu.tree_leaves(eqx.filter(M, eqx.is_array))
            found.append(operations(jax.make_jaxpr(M.mv)(vector).jaxpr))
            found.append(sum(leaf.nbytes for leaf in held))
            return held

        made = operations(jax.make_jaxpr(traced)().jaxpr)
        applied, nbytes = found
        return cls(made + _PASS, applied, nbytes, *described)


@dataclass(frozen=True)
class Plan:
    """A solver for C + λI and what gradient and solve are predicted to cost, from shapes alone.

    - `solver`: the one that is used.
    - `parameters`, `rows`: P, and the m of C = AᵀA; None for an operator that is not made of rows.
    - `gradients`: what a step costs up to the search, in gradients of the loss on its batch, by
      counting operations; None for a solver or a C (a structure) of which nothing is known.
    - `nbytes`: the memory that the solve takes beside the model's; None for such a solver.
    - `others`: the same cost for other solvers, by their name.
    - `preconditioner`: the share of the preconditioner in `gradients`; None where there is none.
    - `structure`: which weights have which structure, of C or of the preconditioner; None without.
    """

    solver: lx.AbstractLinearSolver
    parameters: int
    rows: int | None
    gradients: float | None
    nbytes: int | None
    others: dict[str, float]
    preconditioner: float | None = None
    structure: str | None = None

    def __str__(self) -> str:
        rows = "" if self.rows is None else f", {self.rows:,} rows"
        said = [f"{self.parameters:,} parameters{rows}; {name_of(self.solver)}"]
        if self.nbytes is not None:
            said.append(f"about {self.nbytes / 2**20:,.3g} MiB")
        if self.gradients is not None:
            others = ", ".join(f"{name} {cost:,.3g}" for name, cost in self.others.items())
            most = "at most " if isinstance(self.solver, CG) else ""
            cost = f"a step is predicted to cost {most}{self.gradients:,.3g} gradients"
            if self.preconditioner is not None:
                cost += f", {self.preconditioner:,.3g} of them for the preconditioner"
            said.append(cost + (f" ({others})" if others else ""))
        structure = "" if self.structure is None else f"; {self.structure}"
        return ", ".join(said) + structure


class _Costs:
    """What each solver would cost for one operator."""

    def __init__(
        self, operator: lx.AbstractLinearOperator, preconditioning: Preconditioning | None
    ):
        self.preconditioning = preconditioning
        self.parameters = operator.in_size()
        inner = operator.operator if isinstance(operator, DampedOperator) else operator
        self.layout: Layout | None = None
        # Of an operator made of one matrix: a product with it.
        product = 2 * self.parameters**2
        matrix = product * self.parameters
        cost = Cost(product, by_products=matrix, by_rows=matrix, gram=0)
        if isinstance(inner, PullbackOperator):
            self.layout = inner.layout()
            cost = cost_of(self.layout)
        self.cost, self.diagonal = cost, lx.is_diagonal(operator)
        # What it costs to make a structure is more than to solve with it, and not known here.
        self.structured = isinstance(inner, AbstractInvertibleOperator)
        self.structure = None if preconditioning is None else preconditioning.structure
        if isinstance(inner, AbstractInvertibleOperator):
            self.structure = inner.describe()
        leaves = jtu.tree_leaves(operator.in_structure())
        self.itemsize = max((leaf.dtype.itemsize for leaf in leaves), default=0)

    def gradients(self, solver: lx.AbstractLinearSolver) -> float | None:
        """Gradient and solve, in gradients; of an iterative solver, the most that it may take."""
        if self.structured:
            return None
        gradient, P = self.cost.gradient + _PASS, self.parameters
        match solver:
            case Elementwise():
                solve = 0
            case CG():
                solve = solver.max_steps * gradient + self._preconditioner(solver)
            case Preconditioned():
                solve = self._preconditioner(solver)
            case lx.Cholesky():
                by_products = self.cost.by_products + -(-P // _COLUMNS) * _PASS
                solve = min(by_products, self.cost.by_rows + _PASS) + _SLOWER * P**3 // 3
            case SampleSpace() if self.layout is not None:
                solve = self.cost.gram + _PASS + _SLOWER * self.layout.size**3 // 3
            case _:
                return None
        return (gradient + solve) / gradient

    def _preconditioner(self, solver: CG | Preconditioned) -> int:
        """Operations of making the preconditioner, and of its products: of CG one after each step.

        CG's first product is before its first step.
        """
        if self.preconditioning is None:
            return 0
        steps = solver.max_steps if isinstance(solver, CG) else 0
        return self.preconditioning.made + (steps + 1) * self.preconditioning.applied

    def nbytes(self, solver: lx.AbstractLinearSolver) -> int | None:
        """The memory of the solve: matrices and vectors that live at once."""
        held = 0
        match solver:
            case Elementwise():
                vectors = 1
            case CG() if self.preconditioning is not None:
                vectors, held = _CG_VECTORS + 1, self.preconditioning.nbytes
            case CG():
                vectors = _CG_VECTORS
            case Preconditioned() if self.preconditioning is not None:
                vectors, held = 1, self.preconditioning.nbytes
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
        """The plan to use `solver`, where `others` were possible."""
        costs = {name_of(other): self.gradients(other) for other in others}
        share = None
        if self.preconditioning is not None and isinstance(solver, CG | Preconditioned):
            share = self._preconditioner(solver) / (self.cost.gradient + _PASS)
        return Plan(
            solver=solver,
            parameters=self.parameters,
            rows=None if self.layout is None else self.layout.size,
            gradients=self.gradients(solver),
            nbytes=self.nbytes(solver),
            others={name: cost for name, cost in costs.items() if cost is not None},
            preconditioner=share,
            structure=self.structure,
        )


def name_of(solver: lx.AbstractLinearSolver) -> str:
    """What a solver is called in records: its class."""
    return type(solver).__name__


def plan_for(
    solver: lx.AbstractLinearSolver,
    operator: lx.AbstractLinearOperator,
    *,
    positive_damping: bool,
    preconditioning: Preconditioning | None = None,
) -> Plan:
    """What a solver will do with an operator: its choice, where it chooses."""
    costs = _Costs(operator, preconditioning)
    if not isinstance(solver, Auto):
        return costs.plan(solver)
    chosen = solver.choose(
        operator,
        positive_damping=positive_damping,
        preconditioned=preconditioning is not None,
    )
    others = (solver.sample_space, lx.Cholesky(), solver.cg)
    different = tuple(other for other in others if type(other) is not type(chosen))
    return costs.plan(chosen, () if costs.diagonal else different)
