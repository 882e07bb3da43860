from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray, PyTree, Scalar, ScalarLike

from .._checks import fraction, number
from ._base import AbstractExponentialFamily, Coefficients
from ._factors import AbstractFactor
from ._metric import Metric
from ._shapes import one_array, target_like

_Target: TypeAlias = Integer[Array, "*rows"] | Bool[Array, "*rows"] | Float[Array, "*rows c"]


def _smoothing(value: ScalarLike) -> float:
    fraction("Categorical(smoothing=...)", value)
    known = number("Categorical(smoothing=...)", value)
    if known is None:
        raise ValueError(
            "`Categorical(smoothing=...)` must be a number that is known before tracing, got a "
            "traced array. Construct the likelihood outside of `jit`."
        )
    return known


class Categorical(AbstractExponentialFamily):
    """The categorical likelihood: p(y | z) = softmax(z)[y], for logits `z` of shape [..., c].

    `y` is a label per row (integer or boolean, shape [...]) or a probability vector per row
    (shape [..., c], any floating dtype). Rows along the leading axes are independent and their
    losses add up. A label must lie in 0 … c−1. The numbers of a probability vector must be ≥ 0 and
    sum to one, both up to √ε of the vector's dtype. For any other `y`, the loss and its gradient
    are NaN.

    `smoothing` is α of label smoothing, in [0, 1): the loss uses (1−α) y + α/c instead of y
    (Szegedy et al. 2016, "Rethinking the Inception architecture", section 7). Smoothing changes
    only the targets of `nll`: `sample` and the divergences use softmax(z).

        >>> import curvature as cv, jax.numpy as jnp
        >>> round(float(cv.Categorical().nll(jnp.zeros(4), jnp.asarray(2))), 4)  # log 4
        1.3863
    """

    smoothing: float = eqx.field(static=True, default=0.0, converter=_smoothing)

    def nll(self, z: Float[Array, "*rows c"], y: _Target) -> Scalar:
        y = _target(self, z, y)
        if jnp.issubdtype(y.dtype, jnp.inexact):
            return -jnp.sum(self._probabilities(z, y) * jax.nn.log_softmax(z))
        # A comparison instead of indexing: its derivative is a `select` instead of a scatter.
        label = jax.lax.broadcasted_iota(y.dtype, z.shape, z.ndim - 1) == y[..., None]
        chosen = jnp.sum(jnp.where(label, z, 0), axis=-1)
        if self.smoothing:
            chosen = (1 - self.smoothing) * chosen + self.smoothing * jnp.mean(z, axis=-1)
        # NaN as a factor, not in a `where`, makes the gradient NaN, too.
        valid = jnp.where(_valid(z, y), 1, jnp.nan)
        return jnp.sum(valid * (jax.nn.logsumexp(z, axis=-1) - chosen))

    def in_domain(self, z: Float[Array, "*rows c"], y: _Target) -> Bool[Array, ""]:
        return jnp.all(_valid(z, _target(self, z, y)))

    def domain(self, z_shape: tuple[int, ...], y: PyTree) -> str:
        if jnp.issubdtype(y.dtype, jnp.inexact):
            return "probabilities ≥ 0 that sum to one in each row (for regression, use `Gaussian`)"
        c = z_shape[-1]
        return f"labels from 0 to {c - 1} for a model with {c} outputs"

    def metrics(self) -> tuple[Metric, ...]:
        """The fraction of rows whose most probable class equals that of the target."""
        return (Metric("accuracy", _accuracy, float),)

    def sample(self, z: Float[Array, "*rows c"], *, key: PRNGKeyArray) -> Int[Array, "*rows"]:
        """Inverts the cumulative distribution function at one uniform number per row.

        `jax.random.categorical` draws one number per class. It is slower, and takes about three
        times as long to compile. In float32, both methods may never draw a class with a probability
        below 2⁻²⁴.
        """
        heights = jnp.cumsum(jax.nn.softmax(z), axis=-1)
        uniform = jax.random.uniform(key, z.shape[:-1], z.dtype)[..., None]
        # Because of rounding, the last height may differ from 1; the comparison is relative to it.
        below = heights <= uniform * heights[..., -1:]
        return jnp.minimum(jnp.sum(below, axis=-1), z.shape[-1] - 1)

    def fisher_factor(self, z: Float[Array, "*rows c"]) -> "CategoricalFactor":
        """S = diag(√p) − p √pᵀ for each row, r = c; it has rank c − 1 per row."""
        return CategoricalFactor(_root(z), z.shape[-1])

    def thin_fisher_factor(self, z: Float[Array, "*rows c"]) -> "CategoricalFactor":
        """S = (diag(√p) − p √pᵀ) Q for each row, r = c − 1.

        √p is the null vector of diag(√p) − p √pᵀ. The columns of Q are an orthonormal basis of
        the orthogonal complement of √p: the first c − 1 columns of the reflection that maps √p to
        −e_c. Hence S = diag(√p) Q.
        """
        return CategoricalFactor(_root(z), _thin(z))

    def fisher_coefficients(self, z: Float[Array, "*rows c"], y: _Target) -> Coefficients:
        """ρ = Qᵀ(√p − y/√p) for a probability vector y; a label is converted to a one-hot y."""
        y, root = self._probabilities(z, _target(self, z, y)), _root(z)
        # Where y = 0, 1/√p may overflow, and 0·∞ is NaN.
        surprise = jnp.where(y == 0, 0, y * jnp.exp(-jax.nn.log_softmax(z) / 2))
        rho = root * jnp.sum(y, axis=-1, keepdims=True) - surprise
        r, last = _thin(z), rho[..., -1:]
        reduced = rho[..., :r] - root[..., :r] * last / (1 + root[..., -1:])
        return Coefficients(reduced.ravel(), bounded=False)

    def kl(self, z: Float[Array, "*rows c"], z2: Float[Array, "*rows c"]) -> Scalar:
        return jnp.sum(jax.nn.softmax(z) * (jax.nn.log_softmax(z) - jax.nn.log_softmax(z2)))

    def squared_hellinger(self, z: Float[Array, "*rows c"], z2: Float[Array, "*rows c"]) -> Scalar:
        mean_log = (jax.nn.log_softmax(z) + jax.nn.log_softmax(z2)) / 2
        return -jnp.expm1(jnp.sum(jax.nn.logsumexp(mean_log, axis=-1)))

    def _probabilities(self, z: Float[Array, "*rows c"], y: _Target) -> Float[Array, "*rows c"]:
        """The smoothed target as probabilities in the dtype of `z`, NaN outside the domain."""
        vector = jnp.issubdtype(y.dtype, jnp.inexact)
        p = y.astype(z.dtype) if vector else jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
        p = jnp.where(_valid(z, y)[..., None], p, jnp.nan)
        return (1 - self.smoothing) * p + self.smoothing / z.shape[-1] if self.smoothing else p


class CategoricalFactor(AbstractFactor):
    """S_ij = √p_i (δ_ij − a_i √p_j) for each row, with M = diag(p) − p pᵀ; see [`Categorical`][].

    With `columns` = c, a = √p. With `columns` = c − 1, a_i = √p_i/(1 + √p_c), but a_c = 1.
    """

    root: Float[Array, "*rows c"]
    columns: int = eqx.field(static=True)

    def mv(self, vector: Float[Array, " r"]) -> Float[Array, " c"]:
        a, right = self._outer()
        v = vector.reshape(right.shape)
        missing = self.root.shape[-1] - self.columns
        padded = jnp.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, missing)])
        return (self.root * (padded - a * jnp.sum(right * v, axis=-1, keepdims=True))).ravel()

    def transposed_mv(self, u: Float[Array, " c"]) -> Float[Array, " r"]:
        a, right = self._outer()
        w = self.root * u.reshape(self.root.shape)
        return (w[..., : self.columns] - right * jnp.sum(a * w, axis=-1, keepdims=True)).ravel()

    def square_mv(self, u: Float[Array, " c"]) -> Float[Array, " c"]:
        p, u = self.root * self.root, u.reshape(self.root.shape)
        return (p * (u - jnp.sum(p * u, axis=-1, keepdims=True))).ravel()

    def as_matrix(self) -> Float[Array, "c r"]:
        (a, right), root = self._outer(), self.root
        leading = tuple(range(root.ndim - 1))
        eye = jnp.eye(root.shape[-1], self.columns, dtype=root.dtype)
        delta = jnp.expand_dims(eye, leading)
        blocks = root[..., None] * (delta - a[..., None] * right[..., None, :])
        if not leading:
            return blocks
        blocks = blocks.reshape(-1, 1, *eye.shape).swapaxes(1, 2)
        same_row = jnp.eye(len(blocks), dtype=bool)[:, None, :, None]
        # Two reshapes, each of which merges one pair of axes: with explicit sharding, JAX does not
        # merge two pairs in one reshape.
        matrix = jnp.where(same_row, blocks, 0)
        return matrix.reshape(root.size, *matrix.shape[2:]).reshape(root.size, right.size)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        rows = self.root.size // self.root.shape[-1]
        return jax.ShapeDtypeStruct((rows * self.columns,), self.root.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.root.size,), self.root.dtype)

    def _outer(self) -> tuple[Float[Array, "*rows c"], Float[Array, "*rows r"]]:
        """a, and √p_j for the columns j."""
        root, c = self.root, self.root.shape[-1]
        if self.columns == c:
            return root, root
        last = jax.lax.broadcasted_iota(jnp.int32, root.shape, root.ndim - 1) == c - 1
        a = jnp.where(last, 1, root / (1 + root[..., -1:]))
        return a, root[..., : self.columns]


def _root(z: Float[Array, "*rows c"]) -> Float[Array, "*rows c"]:
    """√p = exp(½ log p). √p is representable for many p that underflow to zero."""
    return jnp.exp(jax.nn.log_softmax(z) / 2)


def _thin(z: Float[Array, "*rows c"]) -> int:
    """The number of columns of the thin factor; a single class has one column of zeros."""
    return max(z.shape[-1] - 1, 1)


def _target(likelihood: Categorical, z: Float[Array, "*rows c"], y: _Target) -> _Target:
    """Checks the shape of `y`; returns labels in 32 bits or more, or the probabilities as given."""
    y = one_array(likelihood, y)
    if jnp.issubdtype(y.dtype, jnp.inexact) and z.ndim > 0:
        if y.shape == z.shape[:-1]:
            raise ValueError(
                "`Categorical().nll(z, y)` takes labels as integers, got floats: use "
                "`y.astype(int)`. For regression, use `Gaussian()`."
            )
        target_like(likelihood, z, y)
        return y
    if z.ndim == 0 or y.shape != z.shape[:-1]:
        raise ValueError(
            "`Categorical().nll(z, y)` takes logits [..., c] with integer labels [...] or "
            f"probabilities [..., c], got logits of shape {z.shape} and labels of shape "
            f"{y.shape}. The model must give one logit per class."
        )
    return y.astype(jnp.int32) if y.dtype.itemsize < 4 else y


def _valid(z: Float[Array, "*rows c"], y: _Target) -> Bool[Array, "*rows"]:
    """Whether each row of a `_target` is in the domain."""
    if not jnp.issubdtype(y.dtype, jnp.inexact):
        return (y >= 0) & (y < z.shape[-1])
    tolerance = float(jnp.finfo(y.dtype).eps) ** 0.5
    y = y.astype(jnp.float32) if y.dtype.itemsize < 4 else y
    total = jnp.sum(y, axis=-1)
    return jnp.all(y >= -tolerance, axis=-1) & (jnp.abs(total - 1) <= tolerance)


def _accuracy(z: Float[Array, "*rows c"], y: _Target) -> Scalar:
    label = jnp.argmax(y, axis=-1) if jnp.issubdtype(y.dtype, jnp.inexact) else y
    return jnp.mean(jnp.argmax(z, axis=-1).astype(jnp.int32) == label.astype(jnp.int32))
