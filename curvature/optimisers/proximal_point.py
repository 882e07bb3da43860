from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar, ScalarLike

from .._checks import number, positive_int, scalar
from .._devices import automatic_sharding
from .._precision import full_precision
from .._rounding import rounding_error
from .._trees import add_scaled, cast_like, norm
from ..divergences import KL, bind
from ..likelihoods import AbstractLoss
from ..linearisation import LinearisedTerm, penalised
from ..objective import AbstractObjective, check_objective
from ..solvers import relative_residual
from ._base import (
    RESULTS,
    AbstractOptimiser,
    Info,
    Mask,
    as_filter,
    check_state,
    result_where,
    select,
    split,
    trainable_mask,
)


class ProximalPointState(eqx.Module):
    """The state has no arrays: nothing is carried from step to step."""

    mask: Mask = eqx.field(static=True)


class ProximalPoint(AbstractOptimiser):
    """w ← argmin_{w'} L(w') + λ D(w, w'): the exact step that the natural gradient approximates.

        D(w, w') = Σ_t weight_t/n_t Σ_i ρ(z_i(w), z_i(w'))

    measures in the divergence ρ how far the outputs on the batch move. To second order in
    δ = w' − w, D = ½δᵀCδ, with C the curvature `Divergence(rho)`. For large λ, the step therefore
    tends to δ = −(1/λ) C⁻¹g, the step of `NaturalGradient`, with a relative error of O(1/λ) (Amari
    1998, "Natural gradient works efficiently in learning"). This optimiser is a reference for that
    approximation, not a fast method: an iterative minimiser computes the step, starts at w, and
    needs about one gradient for each of its own steps.

    - If the minimiser reaches its step limit, this is not an error. The step is accepted if the
      proximal objective at its end is not above L(w).
    - In the `Info`, `damping` is λ; `solver` and `solver_steps` are those of the minimiser;
      `solver_residual` is ‖∇L(w') + λ∇D(w, w')‖₂/‖g‖₂; `metric_step` is D(w, w') itself, where
      other optimisers report its approximation ½δᵀCδ.

    **Arguments:**

    - `objective`: see `Supervised` and `Objective`.
    - `divergence`: ρ(z, z'), as for `Divergence`; default `KL()` of each term's likelihood.
    - `strength`: λ > 0; default 1.
    - `minimiser`: any optimistix minimiser; default `optimistix.LBFGS(rtol=1e-4, atol=1e-6)`.
    - `max_steps`: the most steps that the minimiser may take on one batch.
    """

    objective: AbstractObjective
    divergence: Callable[[Array, Array], Scalar]
    strength: ScalarLike
    minimiser: optx.AbstractMinimiser
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        objective: AbstractObjective,
        divergence: Callable[[Array, Array], Scalar] | None = None,
        strength: ScalarLike = 1.0,
        minimiser: optx.AbstractMinimiser | None = None,
        max_steps: int = 100,
    ):
        number("ProximalPoint(strength=...)", strength, positive=True)
        self.objective = objective
        self.divergence = KL() if divergence is None else divergence
        self.strength = scalar(strength)
        self.minimiser = optx.LBFGS(rtol=1e-4, atol=1e-6) if minimiser is None else minimiser
        self.max_steps = max_steps

    def __check_init__(self):
        check_objective("ProximalPoint", self.objective)
        positive_int("ProximalPoint(max_steps=...)", self.max_steps)

    def init(
        self,
        model: PyTree,
        trainable: PyTree = eqx.is_inexact_array,
        batch: PyTree | None = None,
    ) -> ProximalPointState:
        del batch
        return ProximalPointState(trainable_mask(model, trainable))

    @eqx.filter_jit
    @full_precision
    @automatic_sharding("model", "state", None)
    def step(
        self,
        model: PyTree,
        batch: PyTree,
        state: ProximalPointState,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PyTree, ProximalPointState, Info]:
        check_state(self, state, ProximalPointState)
        model_key, _ = split(key)
        trainable = as_filter(model, state.mask)
        params, frozen = eqx.partition(model, trainable)
        linearisation = self.objective.linearise(model, batch, trainable=trainable, key=model_key)
        loss, grad_norm = linearisation.loss, norm(linearisation.grad)
        strength = jnp.asarray(self.strength, loss.dtype)

        def proximal(candidate: PyTree[Array], args: None = None) -> tuple[Scalar, Scalar]:
            del args
            at, divergence = linearisation.over_terms(
                lambda terms: self._loss_and_divergence(terms, candidate)
            )
            at = penalised(at, candidate, linearisation.l2, linearisation.constant)
            return at + strength * divergence, divergence

        solution = optx.minimise(
            proximal,
            self.minimiser,
            linearisation.params,
            has_aux=True,
            max_steps=self.max_steps,
            throw=False,
        )
        new_params = solution.value
        (value, divergence), residual = eqx.filter_value_and_grad(proximal, has_aux=True)(
            new_params
        )
        step_norm = norm(add_scaled(new_params, jnp.asarray(-1), linearisation.params))
        result = result_where(
            (~linearisation.valid, RESULTS.invalid_targets),
            (~jnp.isfinite(loss), RESULTS.nonfinite_loss),
            (~jnp.isfinite(grad_norm), RESULTS.nonfinite_gradient),
            (grad_norm == 0, RESULTS.stationary),
            (~jnp.isfinite(value) | ~jnp.isfinite(step_norm), RESULTS.nonfinite_candidate),
            (
                (value > loss + rounding_error(loss)) | (step_norm == 0),
                RESULTS.no_proximal_reduction,
            ),
        )
        accepted = result == RESULTS.successful
        info = Info(
            loss=loss,
            grad_norm=grad_norm,
            step_norm=jnp.where(accepted, step_norm, 0),
            damping=strength,
            solver=type(self.minimiser).__name__,
            solver_steps=jnp.asarray(solution.stats["num_steps"], jnp.int32),
            solver_residual=relative_residual(norm(residual), grad_norm),
            reduction_ratio=None,
            metric_step=jnp.where(accepted, divergence, 0),
            accepted=accepted,
            result=result,
        )
        new_params = cast_like(select(accepted, new_params, linearisation.params), params)
        return eqx.combine(new_params, frozen), state, info

    def plan(
        self,
        model: PyTree,
        batch: PyTree,
        trainable: PyTree = eqx.is_inexact_array,
        *,
        key: PRNGKeyArray | None = None,
    ) -> None:
        del model, batch, trainable, key

    def _loss_and_divergence(
        self, terms: Sequence[LinearisedTerm], candidate: PyTree[Array]
    ) -> tuple[Scalar, Scalar]:
        """L(w') without the penalty, and D(w, w'), from one forward pass at w' = `candidate`."""
        losses, divergences = [], []
        for term in terms:
            z = term.outputs_at(candidate)
            apart = jax.vmap(lambda z, z2, y, of=term.likelihood: self._divergence(of, z, z2, y))
            losses.append(jnp.sum(term.scaled(jax.vmap(term.likelihood.nll)(z, term.targets))))
            divergences.append(jnp.sum(term.scaled(apart(term.outputs, z, term.targets))))
        return jnp.asarray(sum(losses)), jnp.asarray(sum(divergences))

    def _divergence(
        self, likelihood: AbstractLoss, z: Array, z2: Array, y: PyTree[Array]
    ) -> Scalar:
        """ρ between two outputs of one example; masked positions do not count."""
        one, two = likelihood.unmasked(z, y), likelihood.unmasked(z2, y)
        return bind(self.divergence, one.likelihood)(one.z, two.z)
