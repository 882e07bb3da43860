from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from ..._checks import number, positive_int
from ..._precision import full_precision
from ..._trees import add_scaled, norm, vdot
from ...operators import DampedOperator, PullbackOperator
from ...rows import Layout, LowerBlocks, Rows, cost_of
from .._base import AbstractSymmetricSolver, Elementwise
from .factor import Factor, factorise
from .forms import Numbers, Solution, covered, partly_covered
from .refinement import refine

# A solution whose terms are so many times larger than itself is corrected: its residual is about
# so many eps (‖C‖ + λ)‖d‖. Beyond the second bound, where its numbers suffer, too, it is refined by
# products with C.
_CORRECTED, _REFINED = 10.0, 50.0
# A residual of so many eps (‖C‖ + λ)‖d‖ after refinement is not explained by rounding.
_UNEXPLAINED = 100.0

_NOT_A_PULLBACK = (
    "`SampleSpace()` solves with `cv.damped(C, λ)` for a curvature C made of rows (an "
    "`AbstractPullback`) or for the identity, got {}. Use `CG()` or `lineax.Cholesky()`."
)

_TOO_MANY = (
    "`SampleSpace({name}={value})` refuses this solve, which takes {found} ({made_of}): use a "
    "smaller batch, `CG()` (`solver=cg`), or a higher bound."
)


class _State(eqx.Module):
    operator: lx.AbstractLinearOperator
    damping: Scalar
    rows: Rows
    gram: LowerBlocks
    factor: Factor

    @property
    def operator_norm(self) -> Scalar:
        """‖AAᵀ‖, from below."""
        ones = jnp.ones((self.gram.size, 1), self.damping.dtype)

        def longer(_: Any, pair: tuple[Array, Array]) -> tuple[Array, Array]:
            return pair[1], self.gram.symmetric_mv(pair[1])

        # A loop, that the product is compiled once.
        once, twice = jax.lax.fori_loop(0, 2, longer, (ones, ones))
        by_power = jnp.linalg.norm(twice) / jnp.linalg.norm(once)
        return jnp.fmax(by_power, jnp.max(self.gram.diagonal()))

    def inverse(self, vector: PyTree[Array]) -> PyTree[Array]:
        """(C + λ'I)⁻¹v for any vector v, or C⁺v where λ = 0.

        With u = (K + λ'I)⁻¹A v it is (v − Aᵀu)/λ', a difference that would be divided by a small
        number. As v = Aᵀu + w it is Aᵀ(K + λ'I)⁻¹u + (w − Aᵀ(K + λ'I)⁻¹A w)/λ' as well, where w
        has next to nothing of the row space: cancellation costs eps‖w‖/λ', not eps‖v‖/λ'.
        """
        undamped, one = self.damping == 0, jnp.ones_like(self.damping)
        damping = jnp.where(undamped, 1, self.factor.damping)
        u = self.factor.solve(self.rows.mv(vector)[:, None])
        w = add_scaled(vector, -one, self.rows.transpose_mv(u[:, 0]))
        weights = self.factor.solve(u)
        outside = self.factor.solve(self.rows.mv(w)[:, None]) / damping
        weights = weights - jnp.where(undamped, 0, outside)
        return add_scaled(
            self.rows.transpose_mv(weights[:, 0]), jnp.where(undamped, 0, 1 / damping), w
        )


class _Answer(eqx.Module):
    """D, its numbers, how many products refinement took, and whether it led nowhere."""

    direction: PyTree[Array]
    numbers: Numbers
    steps: Int[Array, ""]
    stagnated: Bool[Array, ""]


class SampleSpace(AbstractSymmetricSolver):
    """The exact solve of (C + λI) d = g, C = AᵀA, through the m × m system AAᵀ + λI.

        d = Aᵀ (AAᵀ + λI)⁻¹ ρ + (v − Aᵀ (AAᵀ + λI)⁻¹ A v)/λ,    g = Aᵀρ + v

    (Woodbury's identity; ρ = 0 for a vector of which nothing is known). It costs a few gradients
    as long as the m rows of A, one per example and column of S, are fewer than the P weights: A
    is not formed, and AAᵀ of a dense layer is made of its inputs and of the cotangents of its
    outputs. AAᵀ + λI is factorised by Cholesky's method, or by its eigenvalues where it is
    numerically singular.

    **Error:** ‖g − (C + λI)d‖₂ is within ten times that which a dense backward-stable solve in the
    same precision warrants, eps (‖C‖ + λ)‖d‖. A solution for which that is in doubt, since terms
    far larger than d cancel in it, is corrected or refined by products with C: one to three, some
    twenty where λ is below the rounding error of C. Any vector but the gradient takes at least
    one. Where a hundred times as much is left after refinement, so that products with C contradict
    its rows, the result is `RESULTS.stagnation`.

    With λ = 0 and C singular the result is the least-squares solution of least norm, C⁺g up to
    rounding, with `RESULTS.singular` where that leaves a residual.

    **Arguments:**

    - `max_rows`: the largest m that is accepted, an integer.
    - `max_memory`: the most memory that Gram matrix and rows may take, in GiB. What is over a bound
      is refused as the step is traced, before anything is compiled.

    **Options**, for the gradient of the loss alone (see `PullbackOperator.gradient_options`):
    `cotangents`, `coefficients`, `remainder`. With them the gradient is never formed, unless asked
    for elsewhere: all but d happens in the space of the samples. `offset` is a vector v where the
    solve is for g + v: it costs one product with A.

    **Statistics:** `num_steps`, the products that refinement took; `residual`, an estimate of
    ‖g − (C + λI)d‖₂/‖g‖₂, rounding included; `eigendecomposition`, whether that was needed;
    `slope` dᵀg, `metric` dᵀCd, `squared_norm` ‖d‖², `vector_norm` ‖g‖₂, for g + v as the vector
    where there is an offset.
    """

    max_rows: int = 16384
    max_memory: float = 8.0

    def __check_init__(self):
        positive_int("SampleSpace(max_rows=...)", self.max_rows)
        number("SampleSpace(max_memory=...)", self.max_memory, positive=True)

    @full_precision
    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        if lx.is_diagonal(operator):
            return Elementwise().init(operator, {})
        if isinstance(operator, DampedOperator):
            pullback, damping = operator.operator, operator.damping
        else:
            pullback, damping = operator, jnp.zeros(())
        if not isinstance(pullback, PullbackOperator):
            raise ValueError(_NOT_A_PULLBACK.format(type(pullback).__name__))
        layout = pullback.layout()
        if refusal := self.refusal(layout):
            raise ValueError(refusal)
        rows = pullback.rows(layout, options.get("remainder"))
        gram = rows.gram()
        damping = damping.astype(gram.columns[0].dtype)
        return _State(operator, damping, rows, gram, factorise(gram, damping))

    def refusal(self, layout: Layout) -> str | None:
        """Why the rows are too many for the bounds, one sentence; None if they are not."""
        if layout.size > self.max_rows:
            name, value, found = "max_rows", self.max_rows, f"{layout.size:,} rows"
        elif (nbytes := cost_of(layout).nbytes) > self.max_memory * 2**30:
            name, value, found = "max_memory", self.max_memory, f"about {nbytes / 2**30:.2g} GiB"
        else:
            return None
        terms = zip(layout.linearisation.terms, layout.ranks, strict=True)
        made_of = " + ".join(f"{term.size} examples × {rank}" for term, rank in terms)
        return _TOO_MANY.format(name=name, value=value, found=found, made_of=made_of)

    @full_precision
    def compute(
        self, state: Any, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        if not isinstance(state, _State):
            return Elementwise().compute(state, vector, {})
        if "cotangents" not in options:
            return _report(state, _refined(state, vector, state.inverse(vector)))
        solution = _in_sample_space(state, options)
        pullback, offset = state.rows.linearisation.vjp, options.get("offset")
        combined = state.rows.cotangents(solution.weights)
        if solution.share is not None and options["remainder"] is not None:
            pairs = zip(options["remainder"], combined, strict=True)
            combined = tuple(solution.share * gamma + c for gamma, c in pairs)
        first = pullback(combined)
        if solution.share is not None and offset is not None:
            first = add_scaled(first, solution.share, offset)
        excess = solution.amplification
        level = jnp.where(excess > _REFINED, 2, jnp.where(excess > _CORRECTED, 1, 0))
        # The gradient is made in one branch alone, so that it is not made where that is not taken.
        branches = (
            lambda d: _Answer(d, solution.numbers, jnp.zeros((), jnp.int32), jnp.asarray(False)),
            lambda d: _corrected(state, options["coefficients"], solution, d),
            lambda d: _refined(state, _vector(state, options), d),
        )
        answer = jax.lax.switch(jnp.where(state.damping > 0, level, 0), branches, first)
        return _report(state, answer)


def _vector(state: _State, options: dict[str, Any]) -> PyTree[Array]:
    """The vector itself, made anew."""
    gradient, offset = state.rows.linearisation.vjp(options["cotangents"]), options.get("offset")
    return (
        gradient if offset is None else add_scaled(gradient, jnp.ones_like(state.damping), offset)
    )


def _in_sample_space(state: _State, options: dict[str, Any]) -> Solution:
    """The solution for g + v = Aᵀρ + Jᵀγ + v: the gradient of the loss and the offset."""
    rho, gamma, offset = options["coefficients"], options["remainder"], options.get("offset")
    if gamma is None and offset is None:
        return covered(state.gram, state.factor, rho, state.damping)
    projected, squared = jnp.zeros_like(rho), jnp.zeros_like(state.damping)
    if gamma is not None:
        projected, squared = state.rows.project()
    terms = jnp.sqrt(squared)
    if offset is not None:
        tangents, offset_squared = state.rows.linearisation.jvp(offset), vdot(offset, offset)
        projected += state.rows.combine(tangents)
        squared += offset_squared
        terms += jnp.sqrt(offset_squared)
        if gamma is not None:
            squared += 2 * vdot(gamma, tangents)
    return partly_covered(state.gram, state.factor, rho, projected, squared, terms, state.damping)


def _corrected(
    state: _State, rho: Float[Array, " m"], solution: Solution, first: PyTree[Array]
) -> _Answer:
    """The first solution after one step of refinement, at the price of one gradient.

    g − (C + λI)d = Aᵀ(ρ − A d − λ weights), for the d that rounding has made of the weights: its
    own A d is all that has to be computed anew.
    """
    left = rho - state.rows.mv(first) - state.damping * solution.weights
    correction = state.rows.transpose_mv(state.factor.solve(left[:, None])[:, 0])
    direction = add_scaled(first, jnp.ones_like(state.damping), correction)
    # What is left is the rounding of d itself, without the amplification.
    residual = solution.numbers.residual / solution.amplification
    numbers = eqx.tree_at(lambda numbers: numbers.residual, solution.numbers, residual)
    return _Answer(direction, numbers, jnp.ones((), jnp.int32), jnp.asarray(False))


def _refined(state: _State, b: PyTree[Array], first: PyTree[Array]) -> _Answer:
    """The first solution, refined, with numbers taken from the vectors themselves.

    Without damping there may be no solution for products to lead to: it stays as it is.
    """
    operator_norm = state.operator_norm
    refined = refine(
        first, b, state.operator.mv, state.inverse, operator_norm, enabled=state.damping > 0
    )
    x, r = refined.x, refined.residual
    slope, squared_norm = vdot(x, b), vdot(x, x)
    image = state.rows.mv(x)
    metric = jnp.vdot(image, image)
    eps = float(jnp.finfo(slope.dtype).eps)
    rounding = eps * (operator_norm + state.damping) * jnp.sqrt(squared_norm)
    numbers = Numbers(slope, metric, squared_norm, norm(b), norm(r) + rounding)
    stagnated = (state.damping > 0) & (norm(r) > _UNEXPLAINED * rounding)
    return _Answer(x, numbers, refined.steps, stagnated)


def _report(state: _State, answer: _Answer) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
    numbers = answer.numbers
    relative = jnp.where(numbers.residual > 0, numbers.residual / numbers.vector_norm, 0)
    unsolved = (state.damping == 0) & (relative > float(jnp.finfo(relative.dtype).eps) ** 0.5)
    result = lx.RESULTS.where(answer.stagnated, lx.RESULTS.stagnation, lx.RESULTS.successful)
    result = lx.RESULTS.where(unsolved, lx.RESULTS.singular, result)
    stats = {
        "num_steps": answer.steps,
        "residual": relative,
        "eigendecomposition": state.factor.by_eigenvalues,
        "slope": numbers.slope,
        "metric": numbers.metric,
        "squared_norm": numbers.squared_norm,
        "vector_norm": numbers.vector_norm,
    }
    return answer.direction, result, stats
