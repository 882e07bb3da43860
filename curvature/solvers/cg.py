import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .._checks import positive_int
from .._precision import full_precision
from .._trees import add_scaled, norm, select, vdot
from ._base import AbstractSymmetricSolver

# By this part of its norm the recursive residual may be off before it is computed anew.
_RESIDUAL_TOLERANCE = 0.1
# One product is taken to err by this many units of roundoff of ‖A‖‖v‖.
_PRODUCT_ROUNDING = 4.0
# With ‖J p‖ below this many units of roundoff of ‖J‖‖p‖, pᵀJᵀJp is but its own rounding error.
_FLAT = 100.0
# A recursive residual so far below its own rounding error says nothing: time to renew it.
_LOST = 1e-3
# A residual that a fresh start did not bring below this part of the last one has stagnated.
_STAGNATION = 0.5


_Map = Callable[[PyTree[Array]], PyTree[Array]]


class _Drift(eqx.Module):
    """A running estimate, from above, of ‖r − (b − A x)‖ for the recursive residual r."""

    estimate: Scalar
    operator_norm: Scalar  # the largest Rayleigh quotient met, ≤ ‖A‖
    direction_norm: Scalar
    x_norm: Scalar  # a bound on ‖x‖


class _State(eqx.Module):
    x: PyTree[Array]
    residual: PyTree[Array]
    residual_norm: Scalar
    renewed_norm: Scalar  # ‖b − A x‖ when it was last computed
    # Of the last step. The next direction is formed from them where it is used, so that XLA
    # writes it over the last one without a copy.
    direction: PyTree[Array]
    gamma: Scalar  # ⟨r, M r⟩; ∞ for a fresh start
    drift: _Drift
    quadratics: Float[Array, " history"] | None  # φ_0 … φ_i, for Martens' rule alone
    steps: Int[Array, ""]
    stopping: Bool[Array, ""]
    result: lx.RESULTS


class CG(AbstractSymmetricSolver):
    """Conjugate gradients for A x = b, A symmetric positive definite, made for truncation.

    Differs from `lineax.CG`, which gives NaN in float32 on networks of ordinary size:

    - A step is taken wherever pᵀAp > 0, as it is for C + λI with λ > 0; where it is ≤ 0, not
      finite, or but the rounding error of a product, the last x is returned with
      `RESULTS.breakdown`.
    - Converged means ‖b − A x‖₂ ≤ `rtol`·‖b‖₂.
    - The recursive residual is believed only while a running estimate of its rounding error
      (van der Vorst & Ye 2000, "Residual replacement strategies for Krylov subspace iterative
      methods") stays below a tenth of it; before anything is claimed beyond that, it is computed
      anew, at the price of a product, and the iteration goes on from there.
    - k steps from zero cost k products.

    `max_steps` reached is a result (`RESULTS.max_steps_reached`), normal for a truncated solve:
    use `throw=False`. `RESULTS.stagnation` says that rounding stops the residual above `rtol`.

    **Arguments:**

    - `rtol`: the relative tolerance, ≥ 0. With 0, `max_steps` are made.
    - `max_steps`: the most steps, a positive integer.
    - `progress`: ε of Martens' rule, or None (off): stop at step i > k where φ_i < 0 and
      (φ_i − φ_{i−k})/φ_i < kε, with k = max(10, ⌈0.1 i⌉) and φ(x) = ½xᵀAx − bᵀx (Martens 2010,
      section 4.4, where ε = 5e-4). This, too, is success.

    **Options:** `y0`, where to start, zero if absent (then one more product is spent on its
    residual); `preconditioner`, a positive definite operator approximating A⁻¹.

    **Statistics:** `num_steps`; `max_steps`; `residual`, ‖b − A x‖₂/‖b‖₂ (0 for b = 0);
    `quadratic`, φ(x) = −½ xᵀ(b + r).
    """

    rtol: float = 1e-5
    max_steps: int = 100
    progress: float | None = None

    def __check_init__(self):
        positive_int("CG(max_steps=...)", self.max_steps)
        if not 0 <= self.rtol < 1:
            raise ValueError(f"`CG(rtol=...)` must lie in [0, 1), got {self.rtol}.")
        if self.progress is not None and not 0 < self.progress < 1:
            raise ValueError(
                f"`CG(progress=...)` must lie in (0, 1) or be None, got {self.progress}."
            )

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> lx.AbstractLinearOperator:
        del options
        if not lx.is_positive_semidefinite(operator):
            raise ValueError(
                "`CG()` solves with positive definite operators alone, and lineax does not know "
                f"this {type(operator).__name__} to be one. Use `cv.damped`, or tag it."
            )
        return lx.linearise(operator)

    @full_precision
    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        # A x/s = b/s, with s the size of b: no inner product then over- or underflows.
        size = _size(vector)
        b, y0 = jtu.tree_map(lambda v: v / size.astype(v.dtype), (vector, options.get("y0")))
        b_norm = norm(b)
        tolerance = self.rtol * b_norm
        precondition = options["preconditioner"].mv if "preconditioner" in options else None

        def round_(carry: _State) -> _State:
            """Steps until one says stop, from the true residual if there is doubt about it."""
            carry = jax.lax.cond(
                _in_doubt(carry),
                lambda c: self._renew(c, state.mv, b, tolerance),
                lambda c: c,
                carry,
            )
            return jax.lax.while_loop(
                lambda c: ~c.stopping,
                lambda c: self._step(c, state.mv, tolerance, precondition),
                carry,
            )

        final = jax.lax.while_loop(
            lambda carry: ~carry.stopping | _in_doubt(carry),
            round_,
            self._start(b, b_norm, y0),
        )
        stats = {
            "num_steps": final.steps,
            "max_steps": self.max_steps,
            "residual": jnp.where(b_norm == 0, 0, final.residual_norm / b_norm),
            "quadratic": size**2 * _quadratic(final.x, b, final.residual),
        }
        return optax.tree.scale(size, final.x), final.result, stats

    def _start(self, b: PyTree[Array], b_norm: Scalar, y0: PyTree[Array] | None) -> _State:
        zeros, zero = jtu.tree_map(jnp.zeros_like, b), jnp.zeros_like(b_norm)
        if y0 is None:
            x, doubt = zeros, zero
        else:  # b is not the residual of y0: in doubt from the start
            x = jtu.tree_map(lambda y: jnp.where(b_norm > 0, y, 0), y0)
            doubt = jnp.where(b_norm > 0, jnp.inf, zero)
        finite = jnp.isfinite(b_norm)
        length = self.max_steps + 1
        return _State(
            x=x,
            residual=b,
            residual_norm=b_norm,
            renewed_norm=zero + jnp.inf,
            direction=zeros,
            gamma=zero + jnp.inf,
            drift=_Drift(doubt, zero, zero, norm(x)),
            quadratics=None if self.progress is None else jnp.zeros(length, b_norm.dtype),
            steps=jnp.zeros((), jnp.int32),
            stopping=~finite | (b_norm == 0),
            result=lx.RESULTS.where(finite, lx.RESULTS.successful, lx.RESULTS.nonfinite_input),
        )

    def _step(
        self, carry: _State, product: _Map, tolerance: Scalar, precondition: _Map | None
    ) -> _State:
        if precondition is None:
            z, z_norm, gamma = carry.residual, carry.residual_norm, carry.residual_norm**2
        else:
            z = precondition(carry.residual)
            z_norm, gamma = norm(z), vdot(carry.residual, z)
        beta = gamma / carry.gamma
        p = add_scaled(z, beta, carry.direction)
        Ap = product(p)
        pAp = vdot(p, Ap)
        alpha = gamma / pAp
        # ‖z + βp‖² = ‖z‖² + β²‖p‖² costs no pass over the vectors: exact for z = r, as r ⊥ p.
        direction_norm = jnp.hypot(z_norm, beta * carry.drift.direction_norm)
        noise = (_FLAT * _roundoff(gamma) * direction_norm) ** 2 * carry.drift.operator_norm
        possible = (pAp > noise) & (alpha > 0) & jnp.isfinite(alpha)
        # Without a possible step x and r stay as they are, whatever p and Ap hold.
        alpha = jnp.where(possible, alpha, 0)
        x = select(possible, add_scaled(carry.x, alpha, p), carry.x)
        residual = select(possible, add_scaled(carry.residual, -alpha, Ap), carry.residual)
        residual_norm = norm(residual)
        drift = _grown(carry.drift, direction_norm, alpha, pAp, residual_norm)
        steps = carry.steps + possible.astype(jnp.int32)
        quadratics = carry.quadratics
        if quadratics is not None:
            quadratics = quadratics.at[steps].set(quadratics[carry.steps] - alpha * gamma / 2)
        stopping, result = self._verdict(
            residual_norm <= tolerance,
            quadratics,
            steps,
            (residual_norm < _LOST * drift.estimate, lx.RESULTS.stagnation),
            (~possible | ~jnp.isfinite(residual_norm), lx.RESULTS.breakdown),
        )
        return _State(
            x=x,
            residual=residual,
            residual_norm=residual_norm,
            renewed_norm=carry.renewed_norm,
            direction=p,
            gamma=gamma,
            drift=drift,
            quadratics=quadratics,
            steps=steps,
            stopping=stopping,
            result=result,
        )

    def _renew(self, carry: _State, product: _Map, b: PyTree[Array], tolerance: Scalar) -> _State:
        """The same x with its true residual, for one product; the directions start afresh."""
        residual = add_scaled(b, jnp.asarray(-1), product(carry.x))
        residual_norm = norm(residual)
        quadratics = carry.quadratics
        if quadratics is not None:
            quadratics = quadratics.at[carry.steps].set(_quadratic(carry.x, b, residual))
        stagnated = residual_norm > _STAGNATION * carry.renewed_norm
        stopping, result = self._verdict(
            residual_norm <= tolerance,
            quadratics,
            carry.steps,
            (stagnated, lx.RESULTS.stagnation),
            (~jnp.isfinite(residual_norm), lx.RESULTS.breakdown),
        )
        return dataclasses.replace(
            carry,
            residual=residual,
            residual_norm=residual_norm,
            renewed_norm=residual_norm,
            gamma=jnp.full_like(carry.gamma, jnp.inf),
            drift=dataclasses.replace(carry.drift, estimate=jnp.zeros_like(residual_norm)),
            quadratics=quadratics,
            stopping=stopping,
            result=result,
        )

    def _verdict(
        self,
        converged: Bool[Array, ""],
        quadratics: Float[Array, " history"] | None,
        steps: Int[Array, ""],
        *failures: tuple[Bool[Array, ""], Any],
    ) -> tuple[Bool[Array, ""], lx.RESULTS]:
        """Whether to stop, and with what result: success first, then the step limit."""
        if quadratics is not None and self.progress is not None:
            converged |= _little_progress(quadratics, steps, self.progress)
        stopping, result = jnp.asarray(False), lx.RESULTS.successful
        for holds, failure in (*failures, (steps >= self.max_steps, lx.RESULTS.max_steps_reached)):
            stopping |= holds
            result = lx.RESULTS.where(holds, failure, result)
        return stopping | converged, lx.RESULTS.where(converged, lx.RESULTS.successful, result)


def _in_doubt(carry: _State) -> Bool[Array, ""]:
    return carry.drift.estimate > _RESIDUAL_TOLERANCE * carry.residual_norm


def _grown(
    drift: _Drift, direction_norm: Scalar, alpha: Scalar, pAp: Scalar, residual_norm: Scalar
) -> _Drift:
    """The drift after the step αp.

    Each step adds the rounding of x, of the product and of r. They are independent, so that their
    squares add up (their sum would be far too pessimistic for a long solve).
    """
    operator_norm = jnp.fmax(drift.operator_norm, pAp / direction_norm**2)
    step_norm = alpha * direction_norm
    x_norm = drift.x_norm + step_norm
    local = operator_norm * (x_norm + _PRODUCT_ROUNDING * step_norm) + residual_norm
    estimate = jnp.hypot(drift.estimate, _roundoff(local) * local)
    return _Drift(estimate, operator_norm, direction_norm, x_norm)


def _roundoff(x: Scalar) -> float:
    return float(jnp.finfo(x.dtype).eps) / 2


def _little_progress(
    quadratics: Float[Array, " history"], i: Int[Array, ""], progress: float
) -> Bool[Array, ""]:
    k = jnp.maximum(10, (i + 9) // 10)
    now, before = quadratics[i], quadratics[jnp.maximum(i - k, 0)]
    return (i > k) & (now < 0) & ((now - before) / now < k.astype(now.dtype) * progress)


def _quadratic(x: PyTree[Array], b: PyTree[Array], residual: PyTree[Array]) -> Scalar:
    """φ(x) = ½xᵀAx − bᵀx = −½ xᵀ(b + r), as A x = b − r."""
    return -(vdot(x, b) + vdot(x, residual)) / 2


def _size(b: PyTree[Array]) -> Scalar:
    """The power of two next below the largest |b_i|, so that dividing by it is exact.

    It is 1 where b is zero (or all of it subnormal) or not finite.
    """
    largest = jnp.asarray(optax.tree.max(jtu.tree_map(jnp.abs, b)))
    _, exponent = jnp.frexp(largest)
    scalable = (largest >= jnp.finfo(largest.dtype).tiny) & jnp.isfinite(largest)
    return jnp.ldexp(jnp.ones_like(largest), jnp.where(scalable, exponent - 1, 0))
