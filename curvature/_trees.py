"""The vector space of the trainable weights: pytrees of arrays of one structure."""

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from jaxtyping import Array, Bool, PyTree, Scalar


def vdot(a: PyTree[Array], b: PyTree[Array]) -> Scalar:
    """⟨a, b⟩ over all leaves."""
    return jnp.asarray(optax.tree.vdot(a, b))


def norm(a: PyTree[Array]) -> Scalar:
    """‖a‖₂ over all leaves."""
    return jnp.asarray(optax.tree.norm(a))


def like(new: PyTree[Array], old: PyTree[Array]) -> PyTree[Array]:
    """`new` with the dtypes and the weak types of `old`: another type would cost a trace."""
    return jtu.tree_map(lambda n, o: o.at[...].set(n) if o.weak_type else n, new, old)


def add_scaled(a: PyTree[Array], scalar: Scalar, b: PyTree[Array]) -> PyTree[Array]:
    """The sum a + scalar·b, each leaf in its own dtype."""
    return jtu.tree_map(lambda x, y: x + scalar.astype(x.dtype) * y, a, b)


def select(pred: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """`new` where `pred`, else `old`, for every array."""
    return jtu.tree_map(lambda a, b: jnp.where(pred, a, b) if eqx.is_array(a) else a, new, old)
