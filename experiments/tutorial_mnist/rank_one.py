"""The control experiment: ḡḡᵀ, the outer product of the mean gradient, instead of a curvature.

The tutorial averages the loss over the batch and then takes the outer product of the gradient. It
should take the mean of the outer products over the examples; ḡḡᵀ has rank one for every batch size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

import curvature as cv

from .curvatures import CURVATURES

OBJECTIVE = cv.Supervised(cv.Categorical())
DAMPINGS = tuple(10.0**power for power in range(-12, 3))
SHOWN = ("empirical_fisher", "true_fisher 1", "exact_fisher")
DATA, DRAWN = "ḡḡᵀ, labels of the data", "ḡḡᵀ, labels drawn"


class Lengths(NamedTuple):
    """‖d‖ for d = (C + λI)⁻¹ḡ at every damping λ, on one batch.

    - `of`: the lengths for each C, by its name.
    - `gradient`: ‖ḡ‖.
    - `outside`: ‖ḡ⊥‖, the part of ḡ orthogonal to the mean gradient of drawn labels.
    """

    of: dict[str, Float[np.ndarray, " dampings"]]
    gradient: float
    outside: float

    def plain(self) -> dict[str, Any]:
        """The numbers for the JSON file."""
        of = {name: values.tolist() for name, values in self.of.items()}
        return self._asdict() | {"damping": DAMPINGS, "of": of}


def lengths(
    model: eqx.Module,
    batch: tuple[Array, Array],
    key: PRNGKeyArray,
    dampings: Sequence[float] = DAMPINGS,
) -> Lengths:
    """The lengths of the direction as the damping goes to zero; `model` is in float64."""
    linearisation = OBJECTIVE.linearise(model, batch)
    gradient, _ = jfu.ravel_pytree(linearisation.grad)
    drawn = _mean_gradient_of_drawn_labels(model, batch, key)
    at = jnp.asarray(dampings)
    of = {
        DATA: jax.vmap(lambda damping: rank_one_length(gradient, gradient, damping))(at),
        DRAWN: jax.vmap(lambda damping: rank_one_length(drawn, gradient, damping))(at),
    }
    for name in SHOWN:
        of[name] = _lengths(CURVATURES[name].curvature, model, batch, key, at)
    along = gradient @ drawn / jnp.linalg.norm(drawn)
    outside = jnp.sqrt(gradient @ gradient - along**2)
    found = {name: np.asarray(values) for name, values in of.items()}
    return Lengths(found, float(jnp.linalg.norm(gradient)), float(outside))


def rank_one_length(
    v: Float[Array, " P"], g: Float[Array, " P"], damping: Scalar
) -> Float[Array, ""]:
    """‖(vvᵀ + λI)⁻¹g‖: 1/λ times the part of g orthogonal to v; vᵀg/(‖v‖(‖v‖² + λ)) along v."""
    squared = v @ v
    unit = v / jnp.sqrt(squared)
    along = unit @ g
    across = g - along * unit
    # If g is parallel to v, `across` is only rounding error, which 1/λ would make large.
    size = jnp.linalg.norm(across)
    size = jnp.where(size > 1e-12 * jnp.linalg.norm(g), size, 0)
    return jnp.hypot(size / damping, along / (squared + damping))


def descent() -> optax.GradientTransformation:
    """Steps of −ḡ/‖ḡ‖² = −(ḡḡᵀ)⁺ḡ, the undamped direction."""
    return optax.stateless(
        lambda grad, _: optax.tree.scale(-1 / optax.tree.norm(grad, squared=True), grad)
    )


def _lengths(
    curvature: cv.AbstractCurvature,
    model: eqx.Module,
    batch: tuple[Array, Array],
    key: PRNGKeyArray,
    dampings: Float[Array, " dampings"],
) -> Float[Array, " dampings"]:
    """The lengths for a curvature of the library, from full steps of its optimiser."""

    def at(damping: Scalar) -> Scalar:
        full = optx.LearningRate(1.0)
        optimiser = cv.NaturalGradient(
            OBJECTIVE, curvature, cv.SampleSpace(), damping=damping, search=full
        )
        _, _, info = optimiser.step(model, batch, optimiser.init(model), key=key)
        return info.step_norm

    return jax.jit(lambda dampings: jax.lax.map(at, dampings))(dampings)


def _mean_gradient_of_drawn_labels(
    model: eqx.Module, batch: tuple[Array, Array], key: PRNGKeyArray
) -> Float[Array, " P"]:
    x, _ = batch
    likelihood = cv.Categorical()
    logits = jax.vmap(model)(x)  # pyright: ignore[reportArgumentType]
    keys = jax.random.split(key, len(x))
    labels = jax.vmap(lambda z, key: likelihood.sample(z, key=key))(logits, keys)
    grad = OBJECTIVE.linearise(model, (x, labels)).grad
    return jfu.ravel_pytree(grad)[0]
