"""Several devices: the user only has to put the batch on a mesh."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.sharding import (
    AbstractMesh,
    AxisType,
    PartitionSpec,
    auto_axes,
    get_abstract_mesh,
    use_abstract_mesh,
)
from jaxtyping import Array, Float, Int, PyTree

_EXPLICIT = (
    "The batch lies on a mesh with explicit axes. There, every operation must state the "
    "sharding of its result, and the operations of a linearisation do not. Call an optimiser's "
    "`step`, which handles explicit axes, or wrap this call in `jax.sharding.auto_axes`."
)

_Parameters = ParamSpec("_Parameters")
_Given = TypeVar("_Given")
_Arrays = TypeVar("_Arrays", bound=PyTree[Array])


def automatic_sharding(
    *like: str | None,
) -> Callable[[Callable[..., tuple[Any, ...]]], Callable[..., tuple[Any, ...]]]:
    """Decorates a method inside which the compiler chooses the sharding of every array.

    On a mesh with explicit axes, every operation must determine the sharding of its result. Many
    operations of a step do not. Inside the method the axes are therefore automatic.

    **Arguments:** `like`, for each result the name of the argument with the same sharding, or None
    for a result that is replicated on all devices.
    """

    def decorate(method: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def wrapped(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
            given = signature.bind(*args, **kwargs).arguments
            arrays, static = eqx.partition(given, eqx.is_array)
            mesh = _explicit_mesh(arrays)
            if mesh is None:
                return method(*args, **kwargs)
            others: list[Any] = []

            def automatic(arrays: dict[str, Any]) -> tuple[Any, ...]:
                made, other = eqx.partition(method(**eqx.combine(arrays, static)), eqx.is_array)
                others[:] = other
                return made

            where = tuple(
                PartitionSpec() if name is None else jtu.tree_map(_spec, arrays[name])
                for name in like
            )
            with use_abstract_mesh(mesh):  # the user may not have called `jax.set_mesh`
                made: Any = auto_axes(automatic, out_sharding=where)(arrays)
            return eqx.combine(made, tuple(others))

        return wrapped

    return decorate


def refuse_explicit(arrays: PyTree[Array]) -> None:
    """Raise if an array lies on a mesh with explicit axes."""
    if _explicit_mesh(arrays) is not None:
        raise ValueError(_EXPLICIT)


def _explicit_mesh(arrays: PyTree[Array]) -> AbstractMesh | None:
    """The first mesh with explicit axes on which an array lies, or None."""
    for leaf in jtu.tree_leaves(arrays):
        mesh = jax.typeof(leaf).sharding.mesh
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    return None


def _spec(leaf: Array) -> PartitionSpec:
    return jax.typeof(leaf).sharding.spec


# The compiler derives most shardings from that of the batch. The functions below are for the cases
# where the compiler would repeat the work on every device, or gather an array piece by piece. They
# need `jax.set_mesh`: on a mesh with automatic axes, the sharding of an array is not known while
# JAX traces.


def has_several_devices() -> bool:
    """Whether the mesh that is set has several devices along its automatic axes."""
    return bool(_automatic_axes())


def shard(array: Array, axis: int = 0) -> Array:
    """The array sharded along `axis`; unchanged unless the device count divides that axis."""
    names = _automatic_axes()
    if not names or array.shape[axis] % _size(names):
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*[None] * axis, names))


def round_up_to_devices(size: int, most: int) -> int:
    """`size` rounded up to a multiple of the number of devices, but at most `most`."""
    devices = _size(_automatic_axes())
    return min(-(-size // devices) * devices, most)


def replicate(arrays: _Arrays) -> _Arrays:
    """The same arrays, each replicated on every device by one gather."""
    if not _automatic_axes():
        return arrays
    return jtu.tree_map(
        lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec()), arrays
    )


def on_every_device(
    make: Callable[_Parameters, _Arrays],
) -> Callable[_Parameters, _Arrays]:
    """Decorates a function of arrays that every device computes completely.

    This is for small computations with many sequential steps, such as a factorisation. If the
    compiler sharded such a computation, every step would need communication between devices.
    """

    @functools.wraps(make)
    def wrapped(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Arrays:
        names = _automatic_axes()
        if not names:
            return make(*args, **kwargs)
        spec = PartitionSpec()
        each: Callable[..., _Arrays] = jax.shard_map(
            make, in_specs=spec, out_specs=spec, axis_names=set(names), check_vma=False
        )
        return each(*args, **kwargs)

    return wrapped


def by_rows_and_columns(
    of_rows: Callable[[_Given, Array], Array],
    of_columns: Callable[[_Given, Array], Array],
    given: _Given,
    matrix: Float[Array, "m k"],
) -> Float[Array, "m k"]:
    """Computes `of_columns(given, of_rows(given, matrix))`, divided among the devices.

    `of_rows` must treat each row independently, and `of_columns` each column, as triangular solves
    do. Without this function the compiler would repeat all of the work on every device.
    """
    names = _automatic_axes()
    if not names:
        return of_columns(given, of_rows(given, matrix))
    m, k = matrix.shape

    def on_each(given: _Given, rows: Array) -> Array:
        rows = _pad(of_rows(given, rows), 1, _size(names))
        columns = jax.lax.all_to_all(rows, names, split_axis=1, concat_axis=0, tiled=True)
        made = of_columns(given, columns[:m])
        return jax.lax.all_gather(made, names, axis=1, tiled=True)[:, :k]

    each: Callable[[_Given, Array], Array] = jax.shard_map(
        on_each,
        in_specs=(PartitionSpec(), PartitionSpec(names)),
        out_specs=PartitionSpec(),
        axis_names=set(names),
        check_vma=False,
    )
    return each(given, _pad(matrix, 0, _size(names)))


def _pad(matrix: Float[Array, "m k"], axis: int, parts: int) -> Float[Array, "_m _k"]:
    """The matrix, padded with zeros at the end of `axis` so that `parts` divides its length."""
    missing = -matrix.shape[axis] % parts
    return jnp.pad(matrix, [(0, missing * (j == axis)) for j in range(2)])


def on_one_device(
    make: Callable[[_Given], _Arrays], given: _Given, number: int | Int[Array, ""]
) -> _Arrays:
    """Computes `make(given)` on one device and sends the result to all others.

    This is for several independent factorisations. The compiler would repeat each of them on every
    device. With a different `number` for each, different devices compute them at the same time.
    """
    names = _automatic_axes()
    if not names:
        return make(given)

    def on_each(given: _Given, number: Int[Array, ""]) -> _Arrays:
        def others(given: _Given) -> _Arrays:
            shapes = jax.eval_shape(make, given)
            return jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        # All devices but one contribute zeros, so the sum over devices is the one result.
        is_own = number % _size(names) == jax.lax.axis_index(names)
        return jax.lax.psum(jax.lax.cond(is_own, make, others, given), names)

    return on_every_device(on_each)(given, jnp.asarray(number, jnp.int32))


def _automatic_axes() -> tuple[str, ...]:
    """The automatic axes of the mesh that is set; () on one device."""
    mesh = get_abstract_mesh()
    if mesh.empty or _size(mesh.axis_names) == 1:
        return ()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in kinds if kind == AxisType.Auto)


def _size(names: tuple[str, ...]) -> int:
    sizes = get_abstract_mesh().shape
    return math.prod(sizes[name] for name in names)
