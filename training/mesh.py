"""The devices of a run, and what lies where on them."""

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
"""The only axis of a mesh: the examples of a batch lie along it."""


class Placement(NamedTuple):
    """What lies where.

    - `mesh`: the devices; None for one, on which everything lies.
    - `sharding`: `replicated`, every device has all weights; `fsdp`, each has a share of every
        array that divides evenly (fully sharded data parallelism).
    """

    mesh: Mesh | None = None
    sharding: Sharding = "replicated"

    @property
    def size(self) -> int:
        """How many devices there are."""
        return 1 if self.mesh is None else self.mesh.size

    def context(self) -> AbstractContextManager[Any]:
        """In it the library sees the devices."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def replicated(self, tree: PyTree[Array]) -> PyTree[Array]:
        """Arrays on all devices."""
        return tree if self.mesh is None else jax.device_put(tree, self._at())

    def everywhere(self) -> NamedSharding | None:
        """`out_shardings` of what every device is to have; None where there is one device."""
        return None if self.mesh is None else self._at()

    def replicated_shape(self, of: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The shape of an array on all devices."""
        if self.mesh is None:
            return of
        return jax.ShapeDtypeStruct(of.shape, of.dtype, sharding=self._at())

    def shared_out(self, batch: PyTree[np.ndarray]) -> PyTree[Array]:
        """A batch on the devices, of which every one has a share of the examples.

        Of several processes, each has the batch, and puts the rows of its own devices there.
        """
        if hosts.count() == 1:
            return jax.device_put(batch, None if self.mesh is None else self._at(EXAMPLES))
        return jax.tree.map(lambda array: self.loaded(array.shape, array.__getitem__), batch)

    def loaded(self, shape: tuple[int, ...], load: Callable[[slice], np.ndarray]) -> Array:
        """Examples, of which every process loads those of its own devices alone.

        **Arguments:** `shape`, of all; `load`, gives those of a slice of the leading axis.
        """

        def of(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            return load(index[0])

        return jax.make_array_from_callback(shape, self._at(EXAMPLES), of)

    def whole(self, tree: PyTree[Array]) -> PyTree[Array]:
        """What lies on the devices of several processes, as a whole on one of this process.

        Called by all of them. In one process the arrays are as they were.
        """
        return jax.tree.map(self._whole, tree)

    def shared_out_shapes(self, of: PyTree[jax.ShapeDtypeStruct]) -> PyTree[jax.ShapeDtypeStruct]:
        """The shapes of a batch that is shared out."""
        if self.mesh is None:
            return of
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._at(EXAMPLES)),
            of,
        )

    def carried(self, leaves: list[Array]) -> list[Array]:
        """The weights and the state, by `sharding`."""
        return leaves if self.mesh is None else jax.device_put(leaves, self._of_leaves(leaves))

    def own_shape(self, leaf: Any) -> tuple[int, ...]:
        """The shape of what one device has of a weight, or of an array of the state."""
        return tuple(
            n if axis is None else n // self.size
            for n, axis in zip(leaf.shape, self._axes(leaf), strict=True)
        )

    def spread(self, batch: PyTree[Array]) -> PyTree[Array]:
        """In a compiled step: a batch, of which every device has a share of the examples."""
        if self.mesh is None:
            return batch
        return jax.lax.with_sharding_constraint(batch, self._at(EXAMPLES))

    def of_step(self, leaves: list[Array]) -> Any:
        """`out_shardings` of a step: the leaves stay where they are, the record is everywhere."""
        return None if self.mesh is None else (self._of_leaves(leaves), self._at())

    def _at(self, *axes: str | None) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def _whole(self, leaf: Any) -> Any:
        if not eqx.is_array(leaf) or leaf.is_fully_addressable:
            return leaf
        if not leaf.is_fully_replicated:
            leaf = jax.jit(_same, out_shardings=self._at())(leaf)
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
    """Where the arrays of a run lie: by default on one device, or on all of several processes.

    **Raises:** `ValueError` where there are not so many devices, and where some of several
    processes would have none.
    """
    found = jax.devices()
    if devices is None:
        devices = 1 if hosts.count() == 1 else "all"
    count = len(found) if devices == "all" else devices
    if count > len(found):
        kind = found[0].platform
        more = f": JAX_NUM_CPU_DEVICES={count} makes a processor so many" if kind == "cpu" else ""
        raise ValueError(f"`devices={count}`, but JAX sees {len(found)} ({kind}){more}.")
    if hosts.count() > 1 and count < len(found):
        raise ValueError(
            f"`devices={count}`, but {hosts.count()} processes have {len(found)}: leave `devices` "
            "out, because several processes share a run with all their devices."
        )
    if count == 1:
        if devices == 1 and sharding != "replicated":
            raise ValueError(f"`sharding={sharding}` needs several `devices`, got 1.")
        return ON_ONE_DEVICE
    mesh = jax.make_mesh((count,), (EXAMPLES,), (AxisType.Auto,), devices=found[:count])
    return Placement(mesh, sharding)


def _same(array: Array) -> Array:
    return array


def check_divides(batch: PyTree[Any], size: int) -> None:
    """Check that a batch can be shared out evenly.

    **Raises:** `ValueError` where it cannot.
    """
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[0] % size:
            raise ValueError(
                f"`devices={size}` must divide the number of examples in a batch, got "
                f"{leaf.shape[0]}: take a multiple as `batch_size`, or as `train_examples` where "
                "`batch_size` is null, or other devices."
            )


def share_of(batch: PyTree[Any], size: int) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of a device's share of a batch."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] // size, *leaf.shape[1:]), leaf.dtype),
        batch,
    )
