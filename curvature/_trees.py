"""Vector operations on pytrees of arrays that have the structure of the trainable weights."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, PyTree, Scalar


def work_dtype(*trees: PyTree) -> Any:
    """The dtype for sums over all leaves: the widest dtype of a leaf, at least float32."""
    dtypes = [jnp.dtype(jnp.float32), *(leaf.dtype for leaf in jtu.tree_leaves(trees))]
    return max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)


def widen(tree: PyTree[Array]) -> PyTree[Array]:
    """The tree with half-precision leaves cast to float32, for sums and factorisations."""
    return jtu.tree_map(lambda leaf: leaf.astype(work_dtype(leaf)), tree)


def vdot(a: PyTree[Array], b: PyTree[Array]) -> Scalar:
    """⟨a, b⟩ over all leaves, in the precision of the widest leaf."""
    dtype = work_dtype(a, b)
    pairs = zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True)
    return sum((jnp.vdot(x.astype(dtype), y.astype(dtype)) for x, y in pairs), jnp.zeros((), dtype))


def norm(a: PyTree[Array]) -> Scalar:
    """‖a‖₂ over all leaves."""
    return jnp.sqrt(vdot(a, a))


def cast_like(new: PyTree[Array], old: PyTree[Array]) -> PyTree[Array]:
    """`new` with the dtypes and weak types of `old`; a changed type would cause a retrace."""
    return jtu.tree_map(_like, new, old)


def _like(new: Array, old: Array) -> Array:
    # `astype` makes a strong type. Setting the entries of `old` keeps its weak type.
    return old.at[...].set(new) if getattr(old, "weak_type", False) else new.astype(old.dtype)


def scaled(scalar: Scalar, a: PyTree[Array]) -> PyTree[Array]:
    """The product scalar·a, each leaf in its own dtype."""
    return jtu.tree_map(lambda x: scalar.astype(x.dtype) * x, a)


def add_scaled(a: PyTree[Array], scalar: Scalar, b: PyTree[Array]) -> PyTree[Array]:
    """The sum a + scalar·b, each leaf in its own dtype."""
    return jtu.tree_map(lambda x, y: x + scalar.astype(x.dtype) * y, a, b)


def select(pred: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """`new` where `pred`, else `old`, for every array."""
    return jtu.tree_map(lambda a, b: jnp.where(pred, a, b) if eqx.is_array(a) else a, new, old)


def stop_gradients(tree: PyTree) -> PyTree:
    """The tree with `stop_gradient` applied to every array."""
    return jtu.tree_map(lambda a: jax.lax.stop_gradient(a) if eqx.is_array(a) else a, tree)


# Larger arrays are not packed: packing copies them, and they may be sharded over several devices.
_SMALL = 2**14


def pack(a: PyTree[Array]) -> tuple[list[Array], Callable[[list[Array]], PyTree[Array]]]:
    """Packs the vector into fewer arrays; returns them and the function that unpacks such arrays.

    XLA compiles every operation on every array, so fewer arrays compile faster. The small arrays of
    each dtype are joined into one. Arrays that share their shape with another one are not joined,
    since XLA compiles an operation once for all arrays of one shape.
    """
    leaves, treedef = jtu.tree_flatten(a)
    shapes = Counter(leaf.shape for leaf in leaves)
    groups: dict[Any, list[int]] = {}
    for index, leaf in enumerate(leaves):
        name = leaf.dtype if leaf.size <= _SMALL and shapes[leaf.shape] == 1 else index
        groups.setdefault(name, []).append(index)

    def joined(indices: list[int]) -> Array:
        if len(indices) == 1:
            return leaves[indices[0]]
        return jnp.concatenate([jnp.ravel(leaves[index]) for index in indices])

    def unpack(packed: list[Array]) -> PyTree[Array]:
        found: list[Array] = list(leaves)
        for array, indices in zip(packed, groups.values(), strict=True):
            start = 0
            for index in indices:
                shape, size = leaves[index].shape, leaves[index].size
                one = array if len(indices) == 1 else array[start : start + size].reshape(shape)
                found[index], start = one, start + size
        return treedef.unflatten(found)

    return [joined(indices) for indices in groups.values()], unpack
