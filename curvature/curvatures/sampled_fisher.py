import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import positive_int
from ..likelihoods import AbstractLoss
from ._base import AbstractPullback, require_key, require_method


class SampledFisher(AbstractPullback):
    """M_i = 1/k Σ_s g_is g_isᵀ, g_is = ∇_z nll(z_i, t_is), t_is ∼ p(· | z_i); r = k = `samples`.

    An unbiased estimate of the exact Fisher ("true" Fisher: the targets come from the model).
    The targets are drawn when the operator is made. Those of example i depend on (key, i) alone.
    """

    samples: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        positive_int("SampledFisher(samples=...)", self.samples)

    def factor(
        self,
        likelihood: AbstractLoss,
        z: Float[Array, "*shape"],
        y: PyTree[Array],
        *,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "c k"]:
        del y
        sample = require_method(self, likelihood, "sample")

        def score(key: PRNGKeyArray) -> Float[Array, " c"]:
            return jnp.ravel(jax.grad(likelihood.nll)(z, sample(z, key=key)))

        key = require_key(self, key)
        # Splitting a key takes long to compile, so a single sample uses the example's key itself.
        keys = key[None] if self.samples == 1 else jax.random.split(key, self.samples)
        scores = jax.vmap(score, out_axes=1)(keys)
        return scores / jnp.sqrt(jnp.asarray(self.samples, z.dtype))
