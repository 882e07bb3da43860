"""Reading and writing the leaves of a pytree: `equinox`'s format, typed keys included.

`equinox.tree_serialise_leaves` alone fails on typed keys: a run would train and then fail to save.
"""

from typing import Any, BinaryIO

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def write_leaves(file: BinaryIO, tree: PyTree) -> None:
    """Write the leaves of `tree`, as `equinox.tree_serialise_leaves`."""
    eqx.tree_serialise_leaves(file, tree, filter_spec=_write)


def read_leaves(file: BinaryIO, like: PyTree) -> PyTree:
    """Read what `write_leaves` wrote, into a tree with the structure, shapes and types of `like`.

    **Raises:** `RuntimeError`, `ValueError` or `EOFError` where the file does not fit.
    """
    return eqx.tree_deserialise_leaves(file, like, filter_spec=_read)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed JAX random key (or an array of them)."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _write(file: BinaryIO, leaf: Any) -> None:
    eqx.default_serialise_filter_spec(file, jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _read(file: BinaryIO, leaf: Any) -> Any:
    if not is_key(leaf):
        return eqx.default_deserialise_filter_spec(file, leaf)
    data = eqx.default_deserialise_filter_spec(file, jax.random.key_data(leaf))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
