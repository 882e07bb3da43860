"""The error of float32 solves on this device: `python -m benchmarks.solve_error`.

Solves for 784-128-10 at batch 128 in float32, in full precision and in JAX's default precision. (On
a CPU both are the same; on a GPU the default is TensorFloat-32.) The figures are the residual
‖g − (C + λI)d‖₂/‖g‖₂ that the solver reports, and the residual computed in float64 for the same d,
weights and batch.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
from jaxtyping import Array, PyTree, Scalar

import curvature as cv
from curvature.solvers import RightHandSide

from .problems import OBJECTIVE, PROBLEMS
from .report import Report

METRIC = cv.EmpiricalFisher()
DAMPINGS = (1e-2, 1e-4)
SOLVES: dict[str, tuple[lx.AbstractLinearSolver, bool]] = {
    "sample space": (cv.SampleSpace(), True),
    "sample space, any vector": (cv.SampleSpace(), False),
    "conjugate gradients": (cv.CG(rtol=1e-5, max_steps=300), False),
}


@eqx.filter_jit
def solve(
    model: PyTree, batch: Any, damping: Scalar, solver: lx.AbstractLinearSolver, known: bool
) -> tuple[PyTree[Array], Scalar]:
    """The direction d and its reported residual; `known`: the solver may use that g is ∇L."""
    linearisation = OBJECTIVE.linearise(model, batch)
    damped = cv.damped(METRIC.operator(linearisation), damping)
    if known:
        b = RightHandSide(linearisation, linearisation.cotangents, None)
        found = cv.SampleSpace().solve(damped, b, None)
        assert found.residual is not None
        return found.direction, found.residual
    found = lx.linear_solve(damped, linearisation.grad, solver, throw=False)
    return found.value, found.stats["residual"]


@eqx.filter_jit
def residual(model: PyTree, batch: Any, damping: Scalar, d: PyTree[Array]) -> Scalar:
    """‖g − (C + λI)d‖₂/‖g‖₂."""
    linearisation = OBJECTIVE.linearise(model, batch)
    image = cv.damped(METRIC.operator(linearisation), damping).mv(d)
    left = optax.tree.sub(linearisation.grad, image)
    return optax.tree.norm(left) / optax.tree.norm(linearisation.grad)


def measure(precision: str, name: str, damping: float) -> tuple[float, float]:
    """The reported residual, and the one in float64."""
    problem = PROBLEMS[1]
    solver, known = SOLVES[name]
    with jax.default_matmul_precision(precision):
        model, batch = problem.model(), jax.tree.map(lambda part: part[0], problem.data())
        d, reported = solve(model, batch, jnp.float32(damping), solver, known)
    with jax.enable_x64(True):
        wide = jax.tree.map(_widened, (model, batch, jnp.float32(damping), d))
        return float(reported), float(residual(*wide))


def _widened(leaf: Any) -> Any:
    return leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf


def main() -> None:
    """Measure and print."""
    report = Report("solve_error", None, cores=None)
    for precision in ("highest", "default"):
        rows = []
        for name in SOLVES:
            for damping in DAMPINGS:
                reported, true = measure(precision, name, damping)
                row = {"solve": name, "λ": f"{damping:g}", "reported": f"{reported:.1e}"}
                rows.append(row | {"in float64": f"{true:.1e}"})
        report.show(f"Precision: {precision}", rows)


if __name__ == "__main__":
    main()
