import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from ._base import AbstractExponentialFamily, Coefficients
from ._shapes import one_array, target_like


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
        y = one_array(self, y)
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
        root, p = _root(z), jax.nn.softmax(z)

        def mv(v: Float[Array, " r"]) -> Float[Array, " c"]:
            scaled = root * v.reshape(z.shape)
            return (scaled - p * jnp.sum(scaled, axis=-1, keepdims=True)).ravel()

        return lx.FunctionLinearOperator(mv, jax.ShapeDtypeStruct((z.size,), z.dtype))

    def thin_fisher_factor(self, z: Float[Array, "*rows c"]) -> lx.AbstractLinearOperator:
        """S = (diag(√p) − p √pᵀ) Q for each row, r = c − 1.

        √p is the null vector of diag(√p) − p √pᵀ, and the columns of Q are an orthonormal basis
        of what is orthogonal to it: the first c − 1 columns of the reflection that takes √p to
        −e_c. On them p √pᵀ vanishes, too.
        """
        root, r = _root(z), max(z.shape[-1] - 1, 1)

        def mv(v: Float[Array, " r"]) -> Float[Array, " c"]:
            return (root * _reflect(root, v.reshape(*z.shape[:-1], r))).ravel()

        return lx.FunctionLinearOperator(mv, jax.ShapeDtypeStruct((z[..., :r].size,), z.dtype))

    def fisher_coefficients(
        self, z: Float[Array, "*rows c"], y: Int[Array, "*rows"] | Float[Array, "*rows c"]
    ) -> Coefficients:
        """ρ = Qᵀ(√p − y/√p) for a probability vector y, or a label as one."""
        y, root, log_p = jnp.asarray(y), _root(z), jax.nn.log_softmax(z)
        if not jnp.issubdtype(y.dtype, jnp.inexact):
            y = jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
        y = target_like(self, z, y)
        surprise = jnp.where(y > 0, y * jnp.exp(-log_p / 2), 0)
        rho = root * jnp.sum(y, axis=-1, keepdims=True) - surprise
        r, last = max(z.shape[-1] - 1, 1), rho[..., -1:]
        reduced = rho[..., :r] - root[..., :r] * last / (1 + root[..., -1:])
        return Coefficients(reduced.ravel(), bounded=False)

    def kl(self, z: Float[Array, "*rows c"], z2: Float[Array, "*rows c"]) -> Scalar:
        return jnp.sum(jax.nn.softmax(z) * (jax.nn.log_softmax(z) - jax.nn.log_softmax(z2)))

    def squared_hellinger(self, z: Float[Array, "*rows c"], z2: Float[Array, "*rows c"]) -> Scalar:
        mean_log = (jax.nn.log_softmax(z) + jax.nn.log_softmax(z2)) / 2
        return -jnp.expm1(jnp.sum(jax.nn.logsumexp(mean_log, axis=-1)))


def _root(z: Float[Array, "*rows c"]) -> Float[Array, "*rows c"]:
    """√p: of half the logarithm, since p itself underflows sooner."""
    return jnp.exp(jax.nn.log_softmax(z) / 2)


def _reflect(root: Float[Array, "*rows c"], v: Float[Array, "*rows r"]) -> Float[Array, "*rows c"]:
    """Q v = (I − x xᵀ/(1 + √p_c)) [v, 0], where x = √p + e_c; zero for a single class."""
    c = root.shape[-1]
    if c == 1:
        return jnp.zeros_like(v)
    along = jnp.sum(root[..., :-1] * v, axis=-1, keepdims=True)
    share = along / (1 + root[..., -1:])
    return jnp.concatenate([v - root[..., :-1] * share, -along], axis=-1)
