import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from ..._checks import positive_int
from ..._precision import full_precision
from ..._trees import add_scaled, norm, pack, scaled, select, vdot
from ...operators import DampedOperator
from .._base import AbstractSymmetricSolver, RightHandSide, Solution, relative_residual
from .drift import Drift, roundoff, update_drift
from .size import size_of

# Before the iteration ends, the residual is recomputed if its estimated rounding error is more than
# this fraction of its norm.
_RESIDUAL_TOLERANCE = 0.1
# If ‖J p‖ is below this many units of roundoff of ‖J‖‖p‖, pᵀJᵀJp is only rounding error.
_FLAT = 100.0
# A recursive residual below this fraction of its estimated rounding error is meaningless.
_LOST = 1e-3
# The iteration has stagnated if a recomputed residual exceeds this fraction of the previous
# recomputed one.
_STAGNATION = 0.5


_Map = Callable[[PyTree[Array]], PyTree[Array]]


class _State(eqx.Module):
    x: PyTree[Array]
    residual: PyTree[Array]
    residual_norm: Scalar
    renewed_norm: Scalar  # ‖b − A x‖ when it was last computed
    # The next product is with this vector: the direction p, or x to recompute the residual.
    vector: PyTree[Array]
    renewing: Bool[Array, ""]
    gamma: Scalar  # ⟨r, M r⟩
    drift: Drift
    quadratic: Scalar  # φ(x)
    quadratics: Float[Array, " history"] | None  # φ_0 … φ_i, used only by Martens' rule
    steps: Int[Array, ""]
    done: Bool[Array, ""]
    result: lx.RESULTS


class CG(AbstractSymmetricSolver):
    """Conjugate gradients for A x = b, A symmetric positive definite, with truncation in mind.

    `lineax.CG` gives NaN in float32 on networks of ordinary size. This solver differs from it:

    - A step is taken if pᵀAp > 0, which holds for C + λI with λ > 0. If pᵀAp is ≤ 0, not finite, or
      only the rounding error of a product, the last x is returned with `RESULTS.breakdown`.
    - Converged means ‖b − A x‖₂ ≤ `rtol`·‖b‖₂.
    - A running estimate bounds the rounding error of the recursive residual (van der Vorst & Ye
      2000, "Residual replacement strategies for Krylov subspace iterative methods"). If the
      iteration would end while the estimate is above a tenth of the residual, the true residual is
      computed first, which costs one product. The iteration then ends, or continues from there.
    - k steps from zero cost k products.

    `RESULTS.max_steps_reached` is normal for a truncated solve: use `throw=False`.
    `RESULTS.stagnation` means that rounding errors keep the residual above `rtol`.
    `RESULTS.nonfinite_input` means that b, or the first product with A or M, is not finite.

    **Arguments:**

    - `rtol`: the relative tolerance, ≥ 0. With 0, the solver takes `max_steps` steps.
    - `max_steps`: the most steps, a positive integer.
    - `progress`: ε of Martens' rule, or None (off): stop at step i > k if φ_i < 0 and
      (φ_i − φ_{i−k})/φ_i < kε, with k = max(10, ⌈0.1 i⌉) and φ(x) = ½xᵀAx − bᵀx (Martens 2010,
      section 4.4, where ε = 5e-4). The result is then `RESULTS.successful`.

    **Options:** `y0`, the first iterate, zero if absent; with a `y0`, its residual costs one more
    product; `preconditioner`, a positive definite operator that approximates A⁻¹.

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
                "`CG()` takes only positive definite operators, and lineax does not know "
                f"whether this {type(operator).__name__} is one. Use `cv.damped`, or tag the "
                "operator with `lineax.positive_semidefinite_tag`."
            )
        return lx.linearise(operator)

    @full_precision
    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        precondition = options["preconditioner"].mv if "preconditioner" in options else None
        b, unpack = pack(vector)
        size, b_norm, final = self._run(state, b, unpack, options.get("y0"), precondition)
        stats = {
            "num_steps": final.steps,
            "max_steps": self.max_steps,
            "residual": relative_residual(final.residual_norm, b_norm),
            "quadratic": size**2 * final.quadratic,
        }
        return unpack(scaled(size, final.x)), final.result, stats

    @full_precision
    def solve(
        self,
        operator: DampedOperator,
        b: RightHandSide,
        start: PyTree[Array] | None,
        preconditioner: lx.AbstractLinearOperator | None = None,
    ) -> Solution:
        vector, unpack = pack(b.vector())
        precondition = None if preconditioner is None else preconditioner.mv
        size, b_norm, final = self._run(operator, vector, unpack, start, precondition)
        direction = scaled(size, final.x)
        slope, squared_norm = vdot(direction, vector), vdot(direction, direction)
        # φ(d) = ½dᵀ(C + λI)d − bᵀd gives dᵀCd without another product. dᵀCd is then a difference,
        # whose error is a few units of roundoff of λ‖d‖².
        damped = 2 * (size**2 * final.quadratic + slope)
        return Solution(
            direction=unpack(direction),
            slope=slope,
            metric=jnp.maximum(damped - operator.damping.astype(slope.dtype) * squared_norm, 0),
            squared_norm=squared_norm,
            vector_norm=size * b_norm,
            residual=relative_residual(final.residual_norm, b_norm),
            steps=final.steps,
            result=final.result,
        )

    def _run(
        self,
        operator: lx.AbstractLinearOperator,
        vector: list[Array],
        unpack: _Map,
        y0: PyTree[Array] | None,
        preconditioner: _Map | None,
    ) -> tuple[Scalar, Scalar, _State]:
        """Runs the iteration for A x/s = b/s, and returns s, ‖b‖/s and the final state.

        s is near ‖b‖, so that no inner product over- or underflows.

        **Arguments:** `vector`, b, packed; the x of the final state is packed, too.
        """

        def packed(of_tree: _Map) -> _Map:
            return lambda v: pack(of_tree(unpack(v)))[0]

        product = packed(operator.mv)
        precondition = None if preconditioner is None else packed(preconditioner)
        size, b_norm = size_of(vector)
        start = None if y0 is None else pack(y0)[0]
        b, y0 = jtu.tree_map(lambda v: v / size.astype(v.dtype), (vector, start))
        final = jax.lax.while_loop(
            lambda carry: ~carry.done,
            lambda carry: self._iterate(
                carry, product, b, self.rtol * b_norm, precondition, warm=y0 is not None
            ),
            self._start(b, b_norm, y0, precondition),
        )
        if y0 is not None:  # φ(y0) may be so large that the decreases by the steps round to 0
            quadratic = -(vdot(final.x, b) + vdot(final.x, final.residual)) / 2
            final = dataclasses.replace(final, quadratic=quadratic)
        return size, b_norm, final

    def _start(
        self,
        b: PyTree[Array],
        b_norm: Scalar,
        y0: PyTree[Array] | None,
        precondition: _Map | None,
    ) -> _State:
        zero, finite = jnp.zeros_like(b_norm), jnp.isfinite(b_norm)
        x, x_norm, quadratic = jtu.tree_map(jnp.zeros_like, b), zero, zero
        if y0 is not None:  # b is not the residual of y0, which the first turn computes
            x = jtu.tree_map(lambda y: jnp.where(b_norm > 0, y, 0), y0)
            x_norm, quadratic = norm(x), -vdot(b, x)
        z, z_norm, gamma = _apply_preconditioner(b, b_norm, precondition)
        history = None if self.progress is None else jnp.zeros(self.max_steps + 1, b_norm.dtype)
        return _State(
            x=x,
            residual=b,
            residual_norm=b_norm,
            renewed_norm=zero + jnp.inf,
            vector=z if y0 is None else x,
            renewing=jnp.asarray(y0 is not None),
            gamma=gamma,
            drift=Drift(zero, zero, z_norm, x_norm),
            quadratic=quadratic,
            quadratics=history,
            steps=jnp.zeros((), jnp.int32),
            done=~finite | (b_norm == 0),
            result=lx.RESULTS.where(finite, lx.RESULTS.successful, lx.RESULTS.nonfinite_input),
        )

    def _iterate(
        self,
        carry: _State,
        product: _Map,
        b: PyTree[Array],
        tolerance: Scalar,
        precondition: _Map | None,
        warm: bool,
    ) -> _State:
        """One turn of the loop with one product: either a step or a renewal of the residual.

        A renewal computes the true residual b − A x. It happens where the iteration would end, but
        the recursive residual is not accurate enough. The search directions then start again from
        the residual. Step and renewal share one call of `product`, so that XLA compiles it once.
        """
        renewing, gamma = carry.renewing, carry.gamma
        image = product(carry.vector)
        curvature = vdot(carry.vector, image)  # pᵀAp of a step, xᵀAx of a renewal
        alpha = gamma / curvature
        noise = (_FLAT * roundoff(gamma) * carry.drift.direction_norm) ** 2
        possible = (curvature > noise * carry.drift.operator_norm) & (alpha > 0)
        possible &= ~renewing & jnp.isfinite(alpha)
        # Without a step x must not change, even if the vector or its image holds NaN: 0·NaN is NaN,
        # so α = 0 alone does not suffice, and `select` keeps x.
        alpha = jnp.where(possible, alpha, 0)
        x = select(possible, add_scaled(carry.x, alpha, carry.vector), carry.x)
        minuend = select(renewing, b, carry.residual)
        residual = add_scaled(minuend, -jnp.where(renewing, 1, alpha), image)
        residual_norm = norm(residual)
        drift = update_drift(carry.drift, alpha, curvature, residual_norm, possible)
        drift = dataclasses.replace(drift, estimate=jnp.where(renewing, 0, drift.estimate))
        steps = carry.steps + possible.astype(jnp.int32)
        # φ decreases by αγ/2 with each step. At y0, φ = ½xᵀAx − bᵀx; `_start` has stored −bᵀx.
        quadratic, quadratics = carry.quadratic - alpha * gamma / 2, carry.quadratics
        if warm:
            quadratic += jnp.where(renewing & jnp.isinf(carry.renewed_norm), curvature / 2, 0)
        broken = ~jnp.isfinite(residual_norm) | ~(possible | renewing)
        stagnated = jnp.where(
            renewing,
            residual_norm > _STAGNATION * carry.renewed_norm,
            residual_norm < _LOST * drift.estimate,
        )
        if quadratics is not None:
            quadratics = quadratics.at[steps].set(quadratic)
        stopping, result = self._verdict(
            residual_norm <= tolerance,
            quadratics,
            steps,
            (stagnated, lx.RESULTS.stagnation),
            (broken, lx.RESULTS.breakdown),
            # Not even the first product is finite, so matrix or preconditioner is not.
            (~jnp.isfinite(residual_norm) & (steps == 0), lx.RESULTS.nonfinite_input),
        )
        # After a breakdown r may hold NaN, so the norm at the last x is reported.
        known_norm = jnp.where(broken & ~renewing, carry.residual_norm, residual_norm)
        renew = stopping & (drift.estimate > _RESIDUAL_TOLERANCE * known_norm)
        z, z_norm, new_gamma = _apply_preconditioner(residual, residual_norm, precondition)
        beta = jnp.where(renewing, 0, new_gamma / gamma)
        # ‖z + βp‖² = ‖z‖² + β²‖p‖² needs no pass over the vectors. It is exact for z = r, since
        # r ⊥ p; with a preconditioner it is an approximation.
        direction_norm = jnp.hypot(z_norm, beta * carry.drift.direction_norm)
        return _State(
            x=x,
            residual=residual,
            residual_norm=known_norm,
            renewed_norm=jnp.where(renewing, residual_norm, carry.renewed_norm),
            vector=select(renew, x, add_scaled(z, beta, carry.vector)),
            renewing=renew,
            gamma=new_gamma,
            drift=dataclasses.replace(drift, direction_norm=direction_norm),
            quadratic=quadratic,
            quadratics=quadratics,
            steps=steps,
            done=stopping & ~renew,
            result=result,
        )

    def _verdict(
        self,
        converged: Bool[Array, ""],
        quadratics: Float[Array, " history"] | None,
        steps: Int[Array, ""],
        *failures: tuple[Bool[Array, ""], Any],
    ) -> tuple[Bool[Array, ""], lx.RESULTS]:
        """Whether to stop, and the result: success comes first, then the step limit."""
        if quadratics is not None and self.progress is not None:
            converged |= _little_progress(quadratics, steps, self.progress)
        stopping, result = jnp.asarray(False), lx.RESULTS.successful
        for holds, failure in (*failures, (steps >= self.max_steps, lx.RESULTS.max_steps_reached)):
            stopping |= holds
            result = lx.RESULTS.where(holds, failure, result)
        return stopping | converged, lx.RESULTS.where(converged, lx.RESULTS.successful, result)


def _apply_preconditioner(
    residual: PyTree[Array], residual_norm: Scalar, precondition: _Map | None
) -> tuple[PyTree[Array], Scalar, Scalar]:
    """The vector z = M r, ‖z‖ and ⟨r, z⟩."""
    if precondition is None:
        return residual, residual_norm, residual_norm**2
    z = precondition(residual)
    return z, norm(z), vdot(residual, z)


def _little_progress(
    quadratics: Float[Array, " history"], i: Int[Array, ""], progress: float
) -> Bool[Array, ""]:
    k = jnp.maximum(10, (i + 9) // 10)
    now, before = quadratics[i], quadratics[jnp.maximum(i - k, 0)]
    return (i > k) & (now < 0) & ((now - before) / now < k.astype(now.dtype) * progress)
