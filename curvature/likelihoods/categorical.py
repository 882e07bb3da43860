import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from ._base import AbstractExponentialFamily
from ._shapes import target_like


class Categorical(AbstractExponentialFamily):
    """The categorical likelihood: p(y | z) = softmax(z)[y], for logits `z` of shape [..., c].

    `y` is an integer per row (shape [...]) or a probability vector per row (shape [..., c], any
    floating dtype); rows along the leading axes are independent and their losses add up. A label
    outside 0 … c−1 gives NaN, never the loss of another class.

    >>> import curvature as cv, jax.numpy as jnp
    >>> round(float(cv.Categorical().nll(jnp.zeros(4), jnp.asarray(2))), 4)  # log 4
    1.3863
    """

    def nll(
        self, z: Float[Array, "*rows c"], y: Int[Array, "*rows"] | Float[Array, "*rows c"]
    ) -> Scalar:
        y = jnp.asarray(y)
        if jnp.issubdtype(y.dtype, jnp.inexact):
            return -jnp.sum(target_like(self, z, y) * jax.nn.log_softmax(z))
        if y.shape != z.shape[:-1]:
            raise ValueError(
                "`Categorical().nll(z, y)` takes logits [..., c] with integer labels [...] or "
                f"probabilities [..., c], got logits of shape {z.shape} and labels of shape "
                f"{y.shape}. The model must give one logit per class."
            )
        chosen = jnp.take_along_axis(z, y[..., None], axis=-1, mode="clip")[..., 0]
        valid = (y >= 0) & (y < z.shape[-1])
        # As a factor, so that the gradient is NaN, too.
        return jnp.sum(jnp.where(valid, 1, jnp.nan) * (jax.nn.logsumexp(z, axis=-1) - chosen))

    def sample(self, z: Float[Array, "*rows c"], *, key: PRNGKeyArray) -> Int[Array, "*rows"]:
        return jax.random.categorical(key, z)

    def fisher_factor(self, z: Float[Array, "*rows c"]) -> lx.AbstractLinearOperator:
        """S = diag(√p) − p √pᵀ for each row, r = c; it has rank c − 1 per row.

        S Sᵀ = diag(p) − p pᵀ. Held as a function: two vectors per row instead of c × c numbers.
        """
        p = jax.nn.softmax(z)
        root = jnp.sqrt(p)

        def mv(v: Float[Array, " r"]) -> Float[Array, " c"]:
            scaled = root * v.reshape(z.shape)
            return (scaled - p * jnp.sum(scaled, axis=-1, keepdims=True)).ravel()

        return lx.FunctionLinearOperator(mv, jax.ShapeDtypeStruct((z.size,), z.dtype))

    def kl(self, z: Float[Array, "*rows c"], z2: Float[Array, "*rows c"]) -> Scalar:
        return jnp.sum(jax.nn.softmax(z) * (jax.nn.log_softmax(z) - jax.nn.log_softmax(z2)))

    def squared_hellinger(self, z: Float[Array, "*rows c"], z2: Float[Array, "*rows c"]) -> Scalar:
        mean_log = (jax.nn.log_softmax(z) + jax.nn.log_softmax(z2)) / 2
        return -jnp.expm1(jnp.sum(jax.nn.logsumexp(mean_log, axis=-1)))
