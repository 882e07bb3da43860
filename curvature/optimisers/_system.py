"""C + λI of one batch and the solve with it, for everything that takes a direction from them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

from .._checks import instance_of
from .._trees import constant, norm, scaled, vdot
from ..curvatures import AbstractCurvature, AbstractStructure
from ..damping import Batch
from ..linearisation import AbstractLinearisation
from ..objective import AbstractObjective
from ..operators import AbstractInvertibleOperator, damped
from ..rows import gradient_operations
from ..solvers import (
    Plan,
    RightHandSide,
    Solution,
    StructureCost,
    check_preconditioned,
    chosen,
    plan_for,
    solve,
)

# The preconditioner's draws must not be those of the curvature, which makes its keys by the indices
# of terms and examples: none of them is so large.
_PRECONDITIONER = 2**31 - 1

_NO_INVERSE = (
    "`preconditioner=...` must be a curvature whose damped inverse is known, such as the structure "
    "`Diagonal(...)`; got `{}`, whose operator is a `{}` without `inverse`: give a structure of it."
)


class States(eqx.Module):
    """The states of the curvature and of the preconditioner."""

    curvature: PyTree[Array]
    preconditioner: PyTree[Array]


class System(eqx.Module):
    """The parts that make C and P of a batch, and solve with C + λI.

    - `curvature`: makes C; `solver`: any lineax solver for positive definite operators.
    - `preconditioner`: makes P, whose (P + λI)⁻¹ preconditions CG; None for none.
    """

    curvature: AbstractCurvature
    solver: lx.AbstractLinearSolver
    preconditioner: AbstractCurvature | None

    def __check_init__(self):
        wanted = "a curvature, such as `GaussNewton()`"
        instance_of("curvature=...", self.curvature, AbstractCurvature, wanted)
        wanted = "a solver, such as `Auto()` or `CG()`"
        instance_of("solver=...", self.solver, lx.AbstractLinearSolver, wanted)
        if self.preconditioner is not None:
            wanted = "a curvature, such as `KFAC(SampledFisher())`, or None"
            instance_of("preconditioner=...", self.preconditioner, AbstractCurvature, wanted)
        check_preconditioned(self.solver, self.preconditioner is not None)

    def init(self, linearisation: AbstractLinearisation | None) -> States:
        """The states before the first step, by shapes; None where no batch was given."""
        of_preconditioner = None
        if self.preconditioner is not None:
            of_preconditioner = self.preconditioner.init(linearisation)
        return States(self.curvature.init(linearisation), of_preconditioner)

    def update(
        self, here: AbstractLinearisation, states: States, *, key: PRNGKeyArray | None
    ) -> tuple[lx.AbstractLinearOperator, AbstractInvertibleOperator | None, States]:
        """C without the penalty, P, and the next states."""
        C, of_curvature = self.curvature.update(here, states.curvature, key=key)
        if self.preconditioner is None:
            return C, None, States(of_curvature, None)
        P, of_preconditioner = _updated(self.preconditioner, here, states.preconditioner, key)
        return C, P, States(of_curvature, of_preconditioner)

    def refresh(
        self,
        C: lx.AbstractLinearOperator,
        P: AbstractInvertibleOperator | None,
        states: States,
        damping: Scalar,
    ) -> tuple[lx.AbstractLinearOperator, AbstractInvertibleOperator | None, States]:
        """C, P and the next states with what depends on λ, the penalty's included."""
        C, of_curvature = self.curvature.refresh(C, states.curvature, damping)
        if self.preconditioner is None or P is None:
            return C, P, States(of_curvature, None)
        new_P, state = self.preconditioner.refresh(P, states.preconditioner, constant(damping))
        assert isinstance(new_P, AbstractInvertibleOperator)
        return C, new_P, States(of_curvature, state)

    def solve(
        self,
        C: lx.AbstractLinearOperator,
        P: AbstractInvertibleOperator | None,
        damping: Scalar,
        b: RightHandSide,
        start: PyTree[Array] | None,
        *,
        positive_damping: bool,
    ) -> tuple[lx.AbstractLinearSolver, Solution]:
        """The solver that is used for (C + λI) d = b, and what it found.

        **Arguments:** `C`, with the penalty; `start`, where an iterative solver starts, None for
        zero; `positive_damping`, whether λ is known to be above zero.
        """
        whole = damped(C, damping)
        solver = chosen(
            self.solver, whole, positive_damping=positive_damping, preconditioned=P is not None
        )
        # Of the λ of the step and of the penalty; a converged solve does not depend on it.
        M = None if P is None else P.inverse(constant(whole.damping))
        return solver, solve(whole, b, start, M, solver=solver)

    def plan(
        self,
        here: AbstractLinearisation,
        *,
        positive_damping: bool,
        key: PRNGKeyArray | None,
    ) -> Plan:
        """How a step will solve, and what that is predicted to cost."""
        states, one = self.init(here), jnp.ones((), here.loss.dtype)
        structure, of_preconditioner, preconditioner = None, None, self.preconditioner

        def made() -> Any:
            return self.curvature.update(here, states.curvature, key=key)[0]

        if isinstance(self.curvature, AbstractStructure):
            structure = StructureCost.of(made, one)
        if preconditioner is not None:
            of_preconditioner = StructureCost.of(
                lambda: _updated(preconditioner, here, states.preconditioner, key)[0], one
            )
        return plan_for(
            self.solver,
            damped(made() if structure is None else structure.operator, one),
            positive_damping=positive_damping,
            structure=structure,
            preconditioner=of_preconditioner,
            gradient=None if structure is None else gradient_operations(here),
            micro_batch=here.micro_batch,
        )


def _updated(
    preconditioner: AbstractCurvature,
    here: AbstractLinearisation,
    state: PyTree[Array],
    key: PRNGKeyArray | None,
) -> tuple[AbstractInvertibleOperator, PyTree[Array]]:
    """P and its next state, without derivatives; `key`, the curvature's."""
    key = None if key is None else jax.random.fold_in(key, _PRECONDITIONER)
    P, state = preconditioner.update(constant(here), state, key=key)
    if not isinstance(P, AbstractInvertibleOperator):
        names = type(preconditioner).__name__, type(P).__name__
        raise ValueError(_NO_INVERSE.format(*names))
    return P, state


def shapes_of(
    objective: AbstractObjective, model: PyTree, batch: PyTree | None, trainable: PyTree
) -> AbstractLinearisation | None:
    """The linearisation by shapes alone; None without a batch."""
    if batch is None:
        return None
    key = jax.random.key(0)
    return eqx.filter_eval_shape(_linearised, objective, model, batch, trainable, key)


@eqx.filter_jit
def _linearised(
    objective: AbstractObjective, model: PyTree, batch: PyTree, trainable: PyTree, key: PRNGKeyArray
) -> AbstractLinearisation:
    """The linearisation, for its shapes alone: jitted, so that it is traced once."""
    return objective.linearise(model, batch, trainable=trainable, key=key)


def batch_of(here: AbstractLinearisation, C: lx.AbstractLinearOperator, steps: Any) -> Batch:
    """What a damping may ask of a batch; `C`, without the penalty."""
    return Batch(steps, here.params, here.loss, here.loss_at, lambda: _rayleigh(here, C))


def _rayleigh(here: AbstractLinearisation, C: lx.AbstractLinearOperator) -> Scalar:
    """gᵀCg/gᵀg of the terms; NaN where g is zero or not finite.

    The gradient is made anew: where this is not called it need not be made at all.
    """
    grad = here.vjp(here.cotangents)
    unit = scaled(1 / norm(grad), grad)  # nothing is squared that could overflow
    return vdot(unit, C.mv(unit))
