from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree, Scalar

from ..._checks import number, positive_int
from ..._precision import full_precision
from ..._trees import add_scaled, scaled, vdot
from ...operators import DampedOperator, PullbackOperator
from ...rows import (
    Factor,
    Layout,
    LowerBlocks,
    Rows,
    columns_of,
    factorise,
    memory_of,
    split_gradient,
)
from .._base import (
    AbstractSymmetricSolver,
    Elementwise,
    RightHandSide,
    Solution,
    relative_residual,
    solve_with,
)
from .system import Refined, System, refine, row_norm

# d is a sum of terms. If the terms are more than this many times larger than d, d is refined: its
# residual is then about this many eps (‖C‖ + λ)‖d‖.
_AMPLIFIED = 10.0
# After refinement, a residual of more than so many eps (‖C‖ + λ)‖d‖ cannot come from rounding.
_UNEXPLAINED = 100.0

_NOT_A_PULLBACK = (
    "`SampleSpace()` solves with `cv.damped(C, λ)`, where C is the operator of an "
    "`AbstractPullback` or the identity, got {}. Use `Auto()` (`solver=auto`), which chooses a "
    "solver for it."
)

_TOO_MANY = (
    "`SampleSpace({name}={value})` is too small for this solve, which takes {found} "
    "({made_of}). Use a smaller batch, `CG()` (`solver=cg`), or a higher bound."
)


class _State(eqx.Module):
    rows: Rows
    gram: LowerBlocks
    factor: Factor
    damping: Scalar
    norm: Scalar

    def system(self, rho: Array, projected: Array | None, squared: Scalar | None) -> System:
        """The system for one right-hand side; the arguments are as in `System`."""
        parts = self.rows, self.gram, self.factor, self.damping, self.norm
        return System(*parts, rho, projected, squared)


class SampleSpace(AbstractSymmetricSolver):
    """The exact solve of (C + λI) d = b, C = AᵀA, through the m × m system AAᵀ + λI.

        d = Aᵀ (AAᵀ + λI)⁻¹ (ρ − A e/λ) + e/λ,    b = Aᵀρ + e

    (Woodbury's identity; ρ = 0 for an arbitrary vector b). A has one row per example and column of
    S. If A has fewer rows m than there are weights P, a solve costs a few gradients: A is not
    formed, and the Gram matrix AAᵀ of a dense layer needs only the layer's inputs and output
    cotangents. AAᵀ + λI is factorised by Cholesky's method. If AAᵀ + λI is numerically singular, a
    larger λ' is used in the factorisation, and iterative refinement solves for λ.

    **Error:** ‖b − (C + λI)d‖₂ is at most ten times eps (‖C‖ + λ)‖d‖, the error of a dense
    backward-stable solve in the same precision, with ‖C‖ in the Frobenius norm. If terms far larger
    than d cancel, the error may be larger, and d is refined by products with C. This takes two or
    three products, or about twenty if λ is below the rounding error of C. For any b but the
    gradient, refinement takes at least two products. If the error after refinement is more than a
    hundred times eps (‖C‖ + λ)‖d‖, products with C disagree with its rows, and the result is
    `RESULTS.stagnation`.

    With λ = 0 and C singular, the result is the least-squares solution of least norm, C⁺b up to
    rounding. If its residual is not zero up to rounding, the result is `RESULTS.singular`. If A has
    more rows than there are weights, AAᵀ is always singular. The residual may then be far above
    rounding although C is regular: with λ = 0 and so many rows, use `lineax.Cholesky`.

    **Arguments:**

    - `max_rows`: the largest m that is accepted, an integer.
    - `max_memory`: the most memory that Gram matrix and rows may take, in GiB. If a bound is
      exceeded, an error is raised while the step is traced, before anything is compiled.

    With t = (the size of the terms of b)/‖b‖, the relative error of the reported ‖b‖ is about
    eps (t + min(t², (‖C‖ + λ)/λ)). ‖b‖ is 0 only if all terms are.

    **Statistics:** `num_steps`, the number of products in refinement; `residual`, an estimate of
    ‖b − (C + λI)d‖₂/‖b‖₂ that includes rounding errors.
    """

    max_rows: int = 16384
    max_memory: float = 8.0

    def __check_init__(self):
        positive_int("SampleSpace(max_rows=...)", self.max_rows)
        number("SampleSpace(max_memory=...)", self.max_memory, positive=True)

    @full_precision
    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        del options
        if lx.is_diagonal(operator):
            return Elementwise().init(operator, {})
        pullback, damping = _split(operator)
        return _state(pullback.rows(self._layout(pullback)), damping)

    @full_precision
    def compute(
        self, state: Any, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        del options
        if not isinstance(state, _State):
            return Elementwise().compute(state, vector, {})
        found = _solve_any(state, vector)
        stats = {"num_steps": found.steps, "residual": found.residual}
        return found.direction, found.result, stats

    @full_precision
    def solve(
        self,
        operator: DampedOperator,
        b: RightHandSide,
        start: PyTree[Array] | None,
        preconditioner: lx.AbstractLinearOperator | None = None,
    ) -> Solution:
        """The solve of a step.

        If C has all examples of the batch, the gradient is a combination of the rows of A, plus a
        remainder. The gradient is then not formed: all computations except that of d are in the
        space of the samples.
        """
        del start, preconditioner
        if lx.is_diagonal(operator):
            return solve_with(Elementwise(), operator, b.vector())
        pullback, damping = _split(operator)
        layout, linearisation = self._layout(pullback), pullback.linearisation
        if b.cotangents is None or not linearisation.whole:
            return _solve_any(_state(pullback.rows(layout), damping), b.vector())
        columns = columns_of(linearisation, pullback.factors)
        split = split_gradient(linearisation, columns, pullback.coefficients)
        state = _state(pullback.rows(layout, split.remainder), damping)
        return _solve_gradient(state, b, split.coefficients, split.remainder)

    def refusal(self, layout: Layout) -> str | None:
        """The error sentence if the rows exceed a bound, else None."""
        if layout.size > self.max_rows:
            name, value, found = "max_rows", self.max_rows, f"{layout.size:,} rows"
        elif (nbytes := memory_of(layout)) > self.max_memory * 2**30:
            name, value, found = "max_memory", self.max_memory, f"about {nbytes / 2**30:.2g} GiB"
        else:
            return None
        terms = zip(layout.linearisation.terms, layout.ranks, strict=True)
        made_of = " + ".join(f"{term.size} examples × {rank}" for term, rank in terms)
        return _TOO_MANY.format(name=name, value=value, found=found, made_of=made_of)

    def _layout(self, pullback: PullbackOperator) -> Layout:
        layout = pullback.layout()
        if refusal := self.refusal(layout):
            raise ValueError(refusal)
        return layout


def _split(operator: lx.AbstractLinearOperator) -> tuple[PullbackOperator, Scalar]:
    pullback, damping = operator, jnp.zeros(())
    if isinstance(operator, DampedOperator):
        pullback, damping = operator.operator, operator.damping
    if not isinstance(pullback, PullbackOperator):
        raise ValueError(_NOT_A_PULLBACK.format(type(pullback).__name__))
    return pullback, damping


def _state(rows: Rows, damping: Scalar) -> _State:
    gram = rows.gram()
    damping = damping.astype(gram.columns[0].dtype)
    norm = gram.norm()
    return _State(rows, gram, factorise(gram, damping, norm), damping, norm)


def _solve_any(state: _State, b: PyTree[Array]) -> Solution:
    """Solves for an arbitrary b: e = b, and refinement starts from d = b/λ, w = 0."""
    projected, squared = state.rows.mv(b), vdot(b, b).astype(state.damping.dtype)
    rho = jnp.where(state.damping == 0, state.factor.solve(projected), 0)
    system = state.system(rho, projected, squared)
    refined = refine(
        system,
        scaled(system.share, b),
        jnp.zeros_like(rho),
        system.share * projected,
        system.share**2 * squared,
        enabled=jnp.asarray(True),
    )
    return _solution(system, refined, jnp.zeros_like(rho), jnp.sqrt(squared))


def _solve_gradient(
    state: _State,
    b: RightHandSide,
    rho: Array,
    remainder: tuple[Array, ...] | None,
) -> Solution:
    """Solves for b = Aᵀρ + e with e = Jᵀγ + v: γ is `remainder`, v is the offset of b."""
    projected, squared, terms = None, None, jnp.zeros_like(state.damping)
    if remainder is not None:
        projected, squared = state.rows.project()
        terms = jnp.sqrt(squared)
    if b.offset is not None:
        tangents = state.rows.linearisation.jvp(b.offset)
        v_squared = vdot(b.offset, b.offset).astype(terms.dtype)
        terms += jnp.sqrt(v_squared)
        of_offset = state.rows.combine(tangents)
        if projected is None or squared is None or remainder is None:
            projected, squared = of_offset, v_squared
        else:
            cross = sum(jnp.vdot(g, t) for g, t in zip(remainder, tangents, strict=True))
            projected, squared = projected + of_offset, squared + v_squared + 2 * cross
    effective = rho
    if projected is not None:
        undamped = state.damping == 0
        effective = rho + jnp.where(undamped, state.factor.solve(projected), 0)
    system = state.system(effective, projected, squared)
    weights, s = system.weights(), system.share
    K_rho, K_weights = state.gram.symmetric_mv(jnp.stack([rho, weights], axis=1)).T
    image = system.image(K_weights)
    squared_norm, b_squared = jnp.vdot(weights, image), jnp.vdot(rho, K_rho)
    combined = state.rows.cotangents(weights)
    if projected is not None and squared is not None:
        squared_norm += s * jnp.vdot(weights, projected) + s**2 * squared
        b_squared += 2 * jnp.vdot(rho, projected) + squared
    if remainder is not None:
        combined = tuple(s * gamma + c for gamma, c in zip(remainder, combined, strict=True))
    direction = state.rows.linearisation.vjp(combined)
    if b.offset is not None:
        direction = add_scaled(direction, s, b.offset)
    squared_norm = jnp.where(squared_norm < 0, 0, squared_norm)
    # Rounding errors are proportional to the terms of d. If these are much larger than d, the
    # relative error of d is large.
    length = jnp.sqrt(jnp.vdot(state.gram.diagonal(), weights**2)) + s * terms
    doubtful = length > _AMPLIFIED * jnp.sqrt(squared_norm)
    doubtful |= state.factor.damping > state.damping
    enabled = (state.damping > 0) & doubtful
    refined = refine(system, direction, weights, image, squared_norm, enabled=enabled)
    # If b is far shorter than its terms, ‖b‖² has a large rounding error. Then ‖b‖ is computed from
    # the solution, (A b)ᵀ(A d) + λ bᵀd, whose error depends on λ instead. It must not be 0, since
    # ‖b‖ = 0 means that there is nothing to solve.
    of_b = K_rho if projected is None else K_rho + projected
    by_solution = jnp.vdot(of_b, refined.image) + state.damping * _slope(system, refined)
    squared_terms = (jnp.sqrt(jnp.vdot(state.gram.diagonal(), rho**2)) + terms) ** 2
    is_short = b_squared * (state.norm + state.damping) < squared_terms * state.damping
    b_squared = jnp.where(is_short, by_solution, b_squared)
    least = float(jnp.finfo(b_squared.dtype).eps) ** 2 * squared_terms
    b_norm = jnp.sqrt(jnp.maximum(b_squared, least))
    return _solution(system, refined, rho, b_norm, length=length)


def _slope(system: System, found: Refined) -> Scalar:
    """dᵀb."""
    metric = jnp.vdot(found.image, found.image)
    return metric + system.damping * found.squared_norm + jnp.vdot(found.image, found.left)


def _solution(
    system: System,
    found: Refined,
    rho: Array,
    vector_norm: Scalar,
    length: Scalar | None = None,
) -> Solution:
    """The `Solution` for `found`; `length` is the size of the terms of d before refinement."""
    undamped, length_of_d = system.damping == 0, jnp.sqrt(found.squared_norm)
    # The rounding error of d is proportional to its terms, or to d itself after refinement.
    if length is not None:
        length_of_d = jnp.where(found.turns > 0, length_of_d, jnp.maximum(length, length_of_d))
    eps = float(jnp.finfo(length_of_d.dtype).eps)
    rounding = eps * (system.norm + system.damping) * length_of_d
    residual = row_norm(system.gram, found.left)
    if system.projected is not None and system.squared is not None:
        outside = rho - found.image  # for λ = 0: b − Cd = Aᵀ(ρ − A d) + e
        squared = row_norm(system.gram, outside) ** 2
        squared += 2 * jnp.vdot(outside, system.projected) + system.squared
        least = jnp.sqrt(jnp.where(squared < 0, 0, squared))
        residual = jnp.where(undamped, least, residual)
    metric = jnp.vdot(found.image, found.image)
    stagnated = (found.turns > 0) & ~undamped & (residual > _UNEXPLAINED * rounding)
    share = relative_residual(residual + rounding, vector_norm)
    result = lx.RESULTS.where(stagnated, lx.RESULTS.stagnation, lx.RESULTS.successful)
    # The residual for λ = 0 is the root of a difference, whose rounding error is a few √eps.
    unsolved = undamped & (share > 10 * eps**0.5)
    return Solution(
        direction=found.direction,
        slope=_slope(system, found),
        metric=metric,
        squared_norm=found.squared_norm,
        vector_norm=vector_norm,
        residual=share,
        steps=found.turns,
        result=lx.RESULTS.where(unsolved, lx.RESULTS.singular, result),
    )
