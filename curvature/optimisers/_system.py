"""Makes C + λI of one batch and solves with it; shared by all second-order optimisers."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

from .._checks import instance_of
from .._trees import norm, scaled, stop_gradients, vdot
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
    choose_solver,
    plan_for,
    solve,
)

# The preconditioner must not have the same random samples as the curvature. The curvature folds the
# indices of terms and examples into its key; none of these indices is so large.
_PRECONDITIONER = 2**31 - 1

_NO_INVERSE = (
    "`preconditioner=...` must be a curvature with a damped inverse, such as the structure "
    "`Diagonal(...)`, got `{}`, and its operator `{}` has no `inverse`. Use a structure of this "
    "curvature."
)

_OTHER_SPACE = (
    "`{}.operator` must return a lineax operator from pytrees like the trainable weights to "
    "themselves, got {}. For a matrix on flat weights, use `lineax.FunctionLinearOperator` with "
    "`jax.flatten_util.ravel_pytree`."
)


class States(eqx.Module):
    """The states of the curvature and of the preconditioner."""

    curvature: PyTree[Array]
    preconditioner: PyTree[Array]


class System(eqx.Module):
    """Makes C and P of a batch, and solves with C + λI.

    - `curvature`: makes C; `solver`: any lineax solver for positive definite operators.
    - `preconditioner`: makes P; (P + λI)⁻¹ preconditions CG. None for no preconditioner.
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
        """The states before the first step, from shapes; None stands for no batch."""
        of_preconditioner = None
        if self.preconditioner is not None:
            of_preconditioner = self.preconditioner.init(linearisation)
        return States(self.curvature.init(linearisation), of_preconditioner)

    def update(
        self, linearisation: AbstractLinearisation, states: States, *, key: PRNGKeyArray | None
    ) -> tuple[lx.AbstractLinearOperator, AbstractInvertibleOperator | None, States]:
        """C without the penalty, P, and the next states."""
        C, of_curvature = _update_curvature(self.curvature, linearisation, states.curvature, key)
        if self.preconditioner is None:
            return C, None, States(of_curvature, None)
        P, of_preconditioner = _update_preconditioner(
            self.preconditioner, linearisation, states.preconditioner, key
        )
        return C, P, States(of_curvature, of_preconditioner)

    def refresh(
        self,
        C: lx.AbstractLinearOperator,
        P: AbstractInvertibleOperator | None,
        states: States,
        damping: Scalar,
    ) -> tuple[lx.AbstractLinearOperator, AbstractInvertibleOperator | None, States]:
        """C, P and the next states, updated for `damping`, which is λ plus the penalty's l2."""
        C, of_curvature = self.curvature.refresh(C, states.curvature, damping)
        if self.preconditioner is None or P is None:
            return C, P, States(of_curvature, None)
        new_P, state = self.preconditioner.refresh(
            P, states.preconditioner, stop_gradients(damping)
        )
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
        """The solver that is used for (C + λI) d = b, and its solution.

        **Arguments:** `C`, including the penalty; `start`, the first iterate of an iterative
        solver, None for zero; `positive_damping`, whether λ is known to be above zero.
        """
        whole = damped(C, damping)
        solver = choose_solver(
            self.solver, whole, positive_damping=positive_damping, preconditioned=P is not None
        )
        # `whole.damping` is λ of the step plus l2 of the penalty. A converged solve does not depend
        # on the preconditioner, so λ has no derivative here.
        M = None if P is None else P.inverse(stop_gradients(whole.damping))
        return solver, solve(whole, b, start, M, solver=solver)

    def plan(
        self,
        linearisation: AbstractLinearisation,
        *,
        positive_damping: bool,
        key: PRNGKeyArray | None,
    ) -> Plan:
        """The solver that a step will use, and the predicted cost."""
        states, one = self.init(linearisation), jnp.ones((), linearisation.loss.dtype)
        structure, of_preconditioner, preconditioner = None, None, self.preconditioner

        def made() -> Any:
            return _update_curvature(self.curvature, linearisation, states.curvature, key)[0]

        if isinstance(self.curvature, AbstractStructure):
            structure = StructureCost.of(made, one)
        if preconditioner is not None:
            of_preconditioner = StructureCost.of(
                lambda: _update_preconditioner(
                    preconditioner, linearisation, states.preconditioner, key
                )[0],
                one,
            )
        return plan_for(
            self.solver,
            damped(made() if structure is None else structure.operator, one),
            positive_damping=positive_damping,
            structure=structure,
            preconditioner=of_preconditioner,
            gradient=None if structure is None else gradient_operations(linearisation),
            micro_batch=linearisation.micro_batch,
        )


def _update_curvature(
    curvature: AbstractCurvature,
    linearisation: AbstractLinearisation,
    state: PyTree[Array],
    key: PRNGKeyArray | None,
) -> tuple[lx.AbstractLinearOperator, PyTree[Array]]:
    """C and its next state."""
    C, state = curvature.update(linearisation, state, key=key)
    got = f"a `{type(C).__name__}`"
    if isinstance(C, lx.AbstractLinearOperator):
        found = _shapes(C.in_structure())
        if found == _shapes(linearisation.params):
            return C, state
        got = f"{got} on a pytree of arrays with the shapes {found[1]}"
    raise ValueError(_OTHER_SPACE.format(type(curvature).__name__, got))


def _shapes(tree: PyTree) -> tuple[Any, list[tuple[int, ...]]]:
    return jtu.tree_structure(tree), [leaf.shape for leaf in jtu.tree_leaves(tree)]


def _update_preconditioner(
    preconditioner: AbstractCurvature,
    linearisation: AbstractLinearisation,
    state: PyTree[Array],
    key: PRNGKeyArray | None,
) -> tuple[AbstractInvertibleOperator, PyTree[Array]]:
    """P and its next state, without derivatives; `key` is that of the curvature."""
    key = None if key is None else jax.random.fold_in(key, _PRECONDITIONER)
    P, state = preconditioner.update(stop_gradients(linearisation), state, key=key)
    if not isinstance(P, AbstractInvertibleOperator):
        names = type(preconditioner).__name__, type(P).__name__
        raise ValueError(_NO_INVERSE.format(*names))
    return P, state


def shapes_of(
    objective: AbstractObjective, model: PyTree, batch: PyTree | None, trainable: PyTree
) -> AbstractLinearisation | None:
    """The linearisation with shapes instead of arrays; None without a batch."""
    if batch is None:
        return None
    key = jax.random.key(0)
    return eqx.filter_eval_shape(_linearise, objective, model, batch, trainable, key)


@eqx.filter_jit
def _linearise(
    objective: AbstractObjective, model: PyTree, batch: PyTree, trainable: PyTree, key: PRNGKeyArray
) -> AbstractLinearisation:
    """The linearisation, used for its shapes only; jitted, so that repeated calls trace once."""
    return objective.linearise(model, batch, trainable=trainable, key=key)


def batch_of(
    linearisation: AbstractLinearisation, C: lx.AbstractLinearOperator, steps: Any
) -> Batch:
    """The information that a damping may use; `C` is without the penalty."""
    return Batch(
        steps,
        linearisation.params,
        linearisation.loss,
        linearisation.loss_at,
        lambda: _rayleigh(linearisation, C),
    )


def _rayleigh(linearisation: AbstractLinearisation, C: lx.AbstractLinearOperator) -> Scalar:
    """gᵀCg/gᵀg without the penalty; NaN if g is zero or not finite.

    The gradient is computed here and not taken from `linearisation.grad`: in a step that does not
    use `linearisation.grad`, XLA can then remove it.
    """
    grad = linearisation.vjp(linearisation.cotangents)
    unit = scaled(1 / norm(grad), grad)  # normalised first, so that gᵀCg cannot overflow
    return vdot(unit, C.mv(unit))
