"""The devices of a run, and the placement of its arrays on them."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from running.settings import Devices, Sharding

from . import hosts

EXAMPLES = "examples"
"""The name of the only axis of a mesh: the examples of a batch are sharded along this axis."""


class Placement(NamedTuple):
    """The placement of arrays on devices.

    - `mesh`: the devices; None for a single device.
    - `sharding`: with `replicated`, every device has all weights; with `fsdp`, every device has a
        share of each array that divides evenly (fully sharded data parallelism). For the data see
        `feed.has_shares`.
    """

    mesh: Mesh | None = None
    sharding: Sharding = "replicated"

    @property
    def size(self) -> int:
        """The number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    def context(self) -> AbstractContextManager[Any]:
        """A context in which the mesh is set, so that the library finds the devices."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def replicated(self, tree: PyTree[Array]) -> PyTree[Array]:
        """The arrays, replicated on all devices."""
        return tree if self.mesh is None else jax.device_put(tree, self._at())

    def replicated_sharding(self) -> NamedSharding | None:
        """`out_shardings` of a replicated result; None for a single device."""
        return None if self.mesh is None else self._at()

    def replicated_shape(self, of: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The shape of a replicated array, with its sharding."""
        if self.mesh is None:
            return of
        return jax.ShapeDtypeStruct(of.shape, of.dtype, sharding=self._at())

    def shard(self, batch: PyTree[np.ndarray]) -> PyTree[Array]:
        """A batch, sharded over the devices along its examples.

        With several processes, each has the whole batch and copies only the rows of its own
        devices.
        """
        if hosts.count() == 1:
            return jax.device_put(batch, None if self.mesh is None else self._at(EXAMPLES))
        return jax.tree.map(lambda array: self.load(array.shape, array.__getitem__), batch)

    def load(self, shape: tuple[int, ...], load: Callable[[slice], np.ndarray]) -> Array:
        """A sharded array of examples; every process loads only the examples of its own devices.

        **Arguments:** `shape`: of the whole array; `load`: returns the examples of a slice of the
        leading axis.
        """

        def of(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            return load(index[0])

        return jax.make_array_from_callback(shape, self._at(EXAMPLES), of)

    def whole(self, tree: PyTree[Array]) -> PyTree[Array]:
        """Arrays on the devices of several processes, gathered whole on one device of this process.

        All processes call it together. With one process, the arrays are returned unchanged.
        """
        return jax.tree.map(self._whole, tree)

    def sharded_shapes(self, of: PyTree[jax.ShapeDtypeStruct]) -> PyTree[jax.ShapeDtypeStruct]:
        """The shapes of a batch from `shard`, with their shardings."""
        if self.mesh is None:
            return of
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._at(EXAMPLES)),
            of,
        )

    def place_leaves(self, leaves: list[Array]) -> list[Array]:
        """The weights and the state, placed according to `sharding`."""
        return leaves if self.mesh is None else jax.device_put(leaves, self._of_leaves(leaves))

    def device_shape(self, leaf: Any) -> tuple[int, ...]:
        """The shape of one device's share of a weight, or of an array of the state."""
        return tuple(
            n if axis is None else n // self.size
            for n, axis in zip(leaf.shape, self._axes(leaf), strict=True)
        )

    def constrain(self, batch: PyTree[Array]) -> PyTree[Array]:
        """In a compiled step: constrain a batch to be sharded over the devices by examples."""
        if self.mesh is None:
            return batch
        return jax.lax.with_sharding_constraint(batch, self._at(EXAMPLES))

    def step_shardings(self, leaves: list[Array]) -> Any:
        """`out_shardings` of a step: the leaves keep their sharding, the record is replicated."""
        return None if self.mesh is None else (self._of_leaves(leaves), self._at())

    def _at(self, *axes: str | None) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def _whole(self, leaf: Any) -> Any:
        if not eqx.is_array(leaf) or leaf.is_fully_addressable:
            return leaf
        if not leaf.is_fully_replicated:
            leaf = jax.jit(_identity, out_shardings=self._at())(leaf)
        return leaf.addressable_data(0)

    def _of_leaves(self, leaves: list[Array]) -> list[NamedSharding]:
        return [self._at(*self._axes(leaf)) for leaf in leaves]

    def _axes(self, leaf: Any) -> list[str | None]:
        axes: list[str | None] = [None] * leaf.ndim
        shares = [n if n % self.size == 0 else 0 for n in leaf.shape]
        if self.sharding == "fsdp" and any(shares):
            axes[int(np.argmax(shares))] = EXAMPLES
        return axes


ON_ONE_DEVICE = Placement()


def placement(devices: Devices, sharding: Sharding) -> Placement:
    """The placement of a run: by default one device; with several processes, all their devices.

    **Raises:** `ValueError` if there are fewer devices than asked for, or if one of several
    processes would have no device.
    """
    found = jax.devices()
    if devices is None:
        devices = 1 if hosts.count() == 1 else "all"
    count = len(found) if devices == "all" else devices
    if count > len(found):
        kind = found[0].platform
        more = f". Set JAX_NUM_CPU_DEVICES={count}" if kind == "cpu" else ""
        raise ValueError(f"`devices={count}`, but JAX finds {len(found)} ({kind}){more}.")
    if hosts.count() > 1 and count < len(found):
        raise ValueError(
            f"`devices={count}`, but {hosts.count()} processes have {len(found)} devices. "
            "Several processes always use all their devices: leave `devices` out."
        )
    if count == 1:
        if devices == 1 and sharding != "replicated":
            raise ValueError(f"`sharding={sharding}` needs at least two `devices`, got 1.")
        return ON_ONE_DEVICE
    mesh = jax.make_mesh((count,), (EXAMPLES,), (AxisType.Auto,), devices=found[:count])
    return Placement(mesh, sharding)


def _identity(array: Array) -> Array:
    return array


def check_divides(batch: PyTree[Any], size: int) -> None:
    """Check that a batch can be divided evenly among `size` devices.

    **Raises:** `ValueError` if it cannot.
    """
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[0] % size:
            raise ValueError(
                f"`devices={size}` must divide the number of examples in a batch, got "
                f"{leaf.shape[0]}. Set `batch_size`, or `train_examples` if `batch_size` is "
                f"null, to a multiple of {size}, or change `devices`."
            )


def share_of(batch: PyTree[Any], size: int) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of a device's share of a batch."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] // size, *leaf.shape[1:]), leaf.dtype),
        batch,
    )
