"""Putting data on the device."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


def check_devices() -> None:
    """Initialise the devices of this process.

    **Raises:** `ValueError` if there is no device of the kind that `JAX_PLATFORMS` asks for.
    """
    try:
        jax.devices()
    # An AssertionError: JAX asserts that the plugin named by `JAX_PLATFORMS` is installed.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("(set JAX_PLATFORMS")[0].strip().rstrip(".")
        raise ValueError(
            f"`JAX_PLATFORMS={jax.config.jax_platforms}`: JAX finds no such device"  # pyright: ignore[reportAttributeAccessIssue]
            f"{f' ({reason})' if reason else ''}. Unset the variable to use any available device, "
            "or install JAX's support for that device."
        ) from error


def on_device(part: PyTree[np.ndarray]) -> PyTree[Array]:
    """A part of a dataset on the device; floats get JAX's default precision (float64 with x64)."""
    return jax.tree.map(lambda array: jnp.asarray(array, dtype=_dtype(array)), part)


def with_device_dtype(array: np.ndarray) -> np.ndarray:
    """An array on the host, with the dtype that `on_device` gives it."""
    return np.asarray(array, _dtype(array))


def shapes_on_device(part: PyTree[Any]) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes and types of `on_device(part)`, without putting it there."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, _dtype(array)), part)


def memory() -> int:
    """The memory of the device in bytes; for a CPU, the memory of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _dtype(array: Any) -> Any:
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return jnp.result_type(float) if floating else jax.dtypes.canonicalize_dtype(array.dtype)
