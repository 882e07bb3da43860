"""Why damped Gauss-Newton ends in short steps: losses after a step at the end of a poisson5d run.

`python -m experiments.physics.plateau` prints a table.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar

import curvature as cv
import data
import models
from experiments.harness.command import read_model
from experiments.harness.markdown import table
from experiments.harness.page import parser

from .methods import gauss_newton, runs_of

EXPERIMENT = "poisson5d"
DAMPINGS = (1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
SEED = 0
OTHER_SEED = 1000
"""Of points that were not used in training."""

TERMS = {
    "interior": cv.Term(models.negative_laplacian, cv.Gaussian()),
    "boundary": cv.Term(models.value, cv.Gaussian()),
}


class Looked(NamedTuple):
    """A step d = −(C + λI)⁻¹g, and the losses after the step divided by the loss before it.

    - `length`: ‖d‖.
    - `predicted`: the prediction of the quadratic model.
    - `whole`, `quarter`: after d and after d/4, at the points for which d was computed.
    - `curved`: at the same points, after d + a/2, where (C + λI) a = −Jᵀ r″[d, d]. Along this curve
      the residuals are linear to second order (Transtrum and Sethna 2012, "Improvements to the
      Levenberg–Marquardt algorithm for nonlinear least-squares minimization", section 4).
    - `other`: after d, at other points; divided by the loss at these points before the step.
    """

    length: Scalar
    predicted: Scalar
    whole: Scalar
    quarter: Scalar
    curved: Scalar
    other: Scalar


@eqx.filter_jit
def look(
    model: eqx.Module, points: PyTree[Array], others: PyTree[Array], damping: Scalar
) -> Looked:
    """Compute the step from `model` at `points` with λ = `damping`, and the losses after it."""
    weights, unravel = ravel_pytree(eqx.filter(model, eqx.is_inexact_array))

    def residuals(w: Float[Array, " P"], points: PyTree[Array] = points) -> Float[Array, " n"]:
        """The residuals r; the loss is ½‖r‖²."""
        at = eqx.combine(unravel(w), model)
        parts = []
        for name, term in TERMS.items():
            x, y = points[name]
            scaled = (jax.vmap(lambda one, f=term.outputs: f(at, one))(x) - y) / len(x) ** 0.5
            parts.append(scaled.ravel())
        return jnp.concatenate(parts)

    def loss(w: Float[Array, " P"], points: PyTree[Array] = points) -> Scalar:
        return jnp.sum(residuals(w, points) ** 2) / 2

    def bent(w: Float[Array, " P"]) -> Float[Array, " n"]:
        """The first derivative of r along d."""
        return jax.jvp(residuals, (w,), (d,))[1]

    C = cv.GaussNewton().operator(cv.Objective(TERMS).linearise(model, points)).as_matrix()
    factor = jax.scipy.linalg.cho_factor(C + damping * jnp.eye(len(C)))
    r, pull = jax.vjp(residuals, weights)
    (g,) = pull(r)
    d = -jax.scipy.linalg.cho_solve(factor, g)
    (turn,) = pull(jax.jvp(bent, (weights,), (d,))[1])
    a = -jax.scipy.linalg.cho_solve(factor, turn)
    before = loss(weights)
    return Looked(
        length=jnp.linalg.norm(d),
        predicted=1 + (g @ d + d @ C @ d / 2) / before,
        whole=loss(weights + d) / before,
        quarter=loss(weights + d / 4) / before,
        curved=loss(weights + d + a / 2) / before,
        other=loss(weights + d, others) / loss(weights, others),
    )


def main() -> None:
    """Run what is missing, and print a table."""
    options = parser("physics.plateau", __doc__, runs="physics", writes=False)
    runs = runs_of(EXPERIMENT, options.parse_args().runs)
    run = runs.run(gauss_newton(EXPERIMENT), {}, SEED)
    with jax.enable_x64(True):
        model = read_model(run)
        points, others = (
            jax.tree.map(jnp.asarray, data.poisson5d(seed).train) for seed in (SEED, OTHER_SEED)
        )
        rows = []
        for damping in DAMPINGS:
            found = look(model, points, others, jnp.asarray(damping))
            rows.append([f"{damping:.0e}", *(f"{float(number):.3g}" for number in found)])
    print(table(["λ", *Looked._fields], rows))


if __name__ == "__main__":
    main()
