"""Arrays that no process holds whole: copied to host memory, and written to folders by Orbax.

Every process writes its own shards, and reads the shards that it needs; they may be cut differently
from those that were written. All processes call these functions together, and share one file
system.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array

from . import hosts
from .digest import digest_of_file
from .leaves import is_key


class HostCopy(NamedTuple):
    """A sharded array, copied to host memory: each process has the shards of its own devices."""

    shape: tuple[int, ...]
    sharding: Sharding
    shards: list[tuple[Any, np.ndarray]]


def is_sharded(leaves: Sequence[Array]) -> bool:
    """Whether there is an array of which this process holds only a part."""
    return not all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in leaves)


def copy_to_host(leaves: Sequence[Array]) -> list[HostCopy]:
    """Copies in host memory, which later steps do not change."""
    return [
        HostCopy(
            data.shape,
            data.sharding,
            [(shard.device, np.array(shard.data)) for shard in data.addressable_shards],
        )
        for data in map(_numbers, leaves)
    ]


def copy_to_devices(held: Sequence[HostCopy]) -> list[Array]:
    """The arrays that `copy_to_host` copied, back on the devices; typed keys stay raw key data."""
    return [
        jax.make_array_from_single_device_arrays(
            array.shape,
            array.sharding,
            [jax.device_put(shard, device) for device, shard in array.shards],
        )
        for array in held
    ]


def write_arrays(folder: Path, leaves: Sequence[Array]) -> dict[str, str]:
    """Write arrays to a folder, which is removed before if it exists.

    **Returns:** the SHA-256 of its files.
    """
    hosts.call_on_all(lambda: _remove(folder) if hosts.is_first() else None)
    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), _named([_numbers(leaf) for leaf in leaves]))
    return hosts.call_on_all(lambda: digests(folder) if hosts.is_first() else {})


def read_arrays(folder: Path, like: Sequence[Array]) -> list[Array]:
    """Read what `write_arrays` wrote, sharded as `like`, which has the same shapes."""
    import orbax.checkpoint as ocp

    wanted = _named(
        [
            jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=data.sharding)
            for data in map(_numbers, like)
        ]
    )
    arguments = ocp.checkpoint_utils.construct_restore_args(wanted)
    with _checkpointer() as checkpointer:
        found = checkpointer.restore(folder.absolute(), item=wanted, restore_args=arguments)
    return [
        jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf)) if is_key(leaf) else data
        for data, leaf in zip(found.values(), like, strict=True)
    ]


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by its path there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                found[str(path.relative_to(folder))] = digest_of_file(file, path.stat().st_size)
    return found


def layout(leaves: Sequence[Array]) -> list[list[Any]]:
    """The shapes and types of arrays, as JSON holds them."""
    return [[list(data.shape), str(data.dtype)] for data in map(_numbers, leaves)]


def _checkpointer() -> Any:
    # Imported here, because it takes a second to import, and few runs need it.
    import orbax.checkpoint as ocp

    # Orbax logs each step of its work: about a page for every checkpoint.
    logging.getLogger("absl").setLevel(logging.WARNING)
    return ocp.PyTreeCheckpointer()


def _named(leaves: Sequence[Any]) -> dict[str, Any]:
    return {f"{number:06d}": leaf for number, leaf in enumerate(leaves)}


def _numbers(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
