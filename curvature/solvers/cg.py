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
from ._base import AbstractSymmetricSolver

# By this part of its norm the residual may be off before it is computed anew.
_RESIDUAL_TOLERANCE = 0.02
# One product is taken to err by this many units of roundoff of ‖A‖‖v‖.
_PRODUCT_ROUNDING = 4.0
# A residual that a fresh start did not bring below this part of the last one has stagnated.
_STAGNATION = 0.5


_Map = Callable[[PyTree[Array]], PyTree[Array]]


class _Drift(eqx.Module):
    """A running bound on ‖r − (b − A x)‖ for the recursive residual r."""

    bound: Scalar
    operator_norm: Scalar  # the largest Rayleigh quotient met, ≤ ‖A‖
    x_norm: Scalar  # a bound on ‖x‖


class _State(eqx.Module):
    x: PyTree[Array]
    residual: PyTree[Array]
    direction: PyTree[Array]
    gamma: Scalar  # ⟨r, M r⟩
    residual_norm: Scalar
    verified_norm: Scalar  # ‖b − A x‖ when it was last computed
    drift: _Drift
    quadratics: Float[Array, " max_steps+1"] | None  # φ_0 … φ_i, for Martens' rule alone
    steps: Int[Array, ""]
    verify: Bool[Array, ""]  # spend the next product on b − A x
    done: Bool[Array, ""]
    result: lx.RESULTS


class CG(AbstractSymmetricSolver):
    """Conjugate gradients for A x = b, A symmetric positive definite, made for truncation.

    Differs from `lineax.CG`, which gives NaN in float32 on networks of ordinary size:

    - A step is taken wherever pᵀAp > 0, as it is for C + λI with λ > 0; where rounding makes it
      ≤ 0 or non-finite, the last x is returned with `RESULTS.breakdown`.
    - Converged means ‖b − A x‖₂ ≤ `rtol`·‖b‖₂.
    - The recursive residual is believed only while a running bound on its rounding error
      (van der Vorst & Ye 2000, "Residual replacement strategies for Krylov subspace iterative
      methods") stays below 2 % of it; before anything is claimed of it beyond that, it is computed
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
            raise ValueError(f"`CG(progress=...)` must lie in (0, 1) or be None, got {self.progress}.")

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

    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        b_norm = optax.tree.norm(vector)
        precondition = options["preconditioner"].mv if "preconditioner" in options else _same
        final = jax.lax.while_loop(
            lambda carry: ~carry.done,
            lambda carry: self._step(carry, state.mv, vector, b_norm, precondition),
            self._start(vector, b_norm, options.get("y0"), precondition),
        )
        stats = {
            "num_steps": final.steps,
            "max_steps": self.max_steps,
            "residual": jnp.where(b_norm > 0, final.residual_norm / b_norm, 0),
            "quadratic": _quadratic(final.x, vector, final.residual),
        }
        return final.x, final.result, stats

    def _start(
        self, b: PyTree[Array], b_norm: Scalar, y0: PyTree[Array] | None, precondition: _Map
    ) -> _State:
        warm = y0 is not None
        x = y0 if warm else jtu.tree_map(jnp.zeros_like, b)
        direction = precondition(b)
        zero = jnp.zeros_like(b_norm)
        finite = jnp.isfinite(b_norm)
        return _State(
            x=x,
            residual=b,
            direction=direction,
            gamma=optax.tree.vdot(b, direction),
            residual_norm=b_norm,
            verified_norm=jnp.full_like(b_norm, jnp.inf),
            drift=_Drift(zero, zero, optax.tree.norm(x) if warm else zero),
            quadratics=None
            if self.progress is None
            else jnp.zeros(self.max_steps + 1, b_norm.dtype),
            steps=jnp.zeros((), jnp.int32),
            verify=jnp.asarray(warm),
            done=~finite | ((b_norm == 0) & (not warm)),
            result=lx.RESULTS.where(finite, lx.RESULTS.successful, lx.RESULTS.nonfinite_input),
        )

    def _step(
        self,
        carry: _State,
        product: _Map,
        b: PyTree[Array],
        b_norm: Scalar,
        precondition: _Map,
    ) -> _State:
        """Spends one product: on a step along the direction, or on the residual of x."""
        verify = carry.verify
        v = _select(verify, carry.x, carry.direction)
        Av = product(v)
        vAv, vv = optax.tree.vdot(v, Av), optax.tree.vdot(v, v)

        ratio = carry.gamma / vAv
        advance = ~verify & (vAv > 0) & (ratio > 0) & jnp.isfinite(ratio)
        alpha = jnp.where(advance, ratio, 0)
        x = _add(carry.x, alpha, carry.direction)
        residual = _select(
            advance | verify,
            _add(_select(verify, b, carry.residual), -jnp.where(verify, 1, alpha), Av),
            carry.residual,
        )
        z = precondition(residual)
        gamma = optax.tree.vdot(residual, z)
        beta = jnp.where(advance, gamma / carry.gamma, 0)
        residual_norm = optax.tree.norm(residual)
        steps = carry.steps + advance
        drift = _grow(carry.drift, verify, alpha * jnp.sqrt(vv), vAv / vv, residual_norm)
        quadratics = carry.quadratics
        if quadratics is not None:
            stepped = quadratics[carry.steps] - alpha * carry.gamma / 2
            value = jnp.where(verify, _quadratic(x, b, residual), stepped)
            quadratics = quadratics.at[steps].set(value)

        converged = residual_norm <= self.rtol * b_norm
        satisfied = converged | _little_progress(quadratics, steps, self.progress)
        exhausted = steps >= self.max_steps
        broken = ~(advance | verify) | ~jnp.isfinite(residual_norm)
        stopping = satisfied | exhausted | broken
        trusted = verify | (drift.bound <= _RESIDUAL_TOLERANCE * residual_norm) | (
            residual_norm == 0
        )
        stagnated = verify & (residual_norm > _STAGNATION * carry.verified_norm)
        result = lx.RESULTS.where(
            satisfied,
            lx.RESULTS.successful,
            lx.RESULTS.where(
                exhausted,
                lx.RESULTS.max_steps_reached,
                lx.RESULTS.where(broken, lx.RESULTS.breakdown, lx.RESULTS.stagnation),
            ),
        )
        return _State(
            x=x,
            residual=residual,
            direction=_add(z, beta, carry.direction),
            gamma=gamma,
            residual_norm=residual_norm,
            verified_norm=jnp.where(verify, residual_norm, carry.verified_norm),
            drift=drift,
            quadratics=quadratics,
            steps=steps,
            verify=stopping & ~trusted,
            done=(stopping & trusted) | stagnated,
            result=result,
        )


def _grow(
    drift: _Drift, verify: Bool[Array, ""], step_norm: Scalar, rayleigh: Scalar, r_norm: Scalar
) -> _Drift:
    """The bound after a step of norm `step_norm`; zero after the residual was computed anew."""
    roundoff = jnp.finfo(r_norm.dtype).eps / 2
    operator_norm = jnp.fmax(drift.operator_norm, rayleigh)
    x_norm = drift.x_norm + step_norm
    local = operator_norm * (x_norm + _PRODUCT_ROUNDING * step_norm) + r_norm
    return _Drift(
        jnp.where(verify, 0, drift.bound + roundoff * local), operator_norm, x_norm
    )


def _little_progress(
    quadratics: Float[Array, " max_steps+1"] | None, i: Int[Array, ""], progress: float | None
) -> Bool[Array, ""]:
    if quadratics is None or progress is None:
        return jnp.asarray(False)
    k = jnp.maximum(10, (i + 9) // 10)
    now, before = quadratics[i], quadratics[jnp.maximum(i - k, 0)]
    return (i > k) & (now < 0) & ((now - before) / now < k * progress)


def _quadratic(x: PyTree[Array], b: PyTree[Array], residual: PyTree[Array]) -> Scalar:
    """φ(x) = ½xᵀAx − bᵀx = −½ xᵀ(b + r), as A x = b − r."""
    return -(optax.tree.vdot(x, b) + optax.tree.vdot(x, residual)) / 2


def _select(pred: Bool[Array, ""], a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
    return jtu.tree_map(lambda x, y: jnp.where(pred, x, y), a, b)


def _add(a: PyTree[Array], scalar: Scalar, b: PyTree[Array]) -> PyTree[Array]:
    """a + scalar·b."""
    return jtu.tree_map(lambda x, y: x + scalar.astype(x.dtype) * y, a, b)


def _same(v: PyTree[Array]) -> PyTree[Array]:
    return v
