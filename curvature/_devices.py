"""Several devices: whoever puts a batch on a mesh needs nothing else."""

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
    "The batch lies on a mesh with explicit axes, where every operation must say where its result "
    "lies, and those of a linearisation do not. Call an optimiser's `step`, which handles explicit "
    "axes, or wrap this call in `jax.sharding.auto_axes`."
)

_Parameters = ParamSpec("_Parameters")
_Given = TypeVar("_Given")
_Arrays = TypeVar("_Arrays", bound=PyTree[Array])


def by_compiler(
    *like: str | None,
) -> Callable[[Callable[..., tuple[Any, ...]]], Callable[..., tuple[Any, ...]]]:
    """Decorates a method in which the compiler decides what lies on which device.

    In a mesh with explicit axes every operation must say where its result lies. In a step none
    does: within it the axes are automatic.

    **Arguments:** `like`, for each result the name of the argument that it lies beside, or None for
    one that lies on all devices.
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
            with use_abstract_mesh(mesh):  # which need not be set
                made: Any = auto_axes(automatic, out_sharding=where)(arrays)
            return eqx.combine(made, tuple(others))

        return wrapped

    return decorate


def refuse_explicit(arrays: PyTree[Array]) -> None:
    """Raise where the compiler may not decide what lies where."""
    if _explicit_mesh(arrays) is not None:
        raise ValueError(_EXPLICIT)


def _explicit_mesh(arrays: PyTree[Array]) -> AbstractMesh | None:
    """The mesh with explicit axes that some of the arrays lie on."""
    for leaf in jtu.tree_leaves(arrays):
        mesh = jax.typeof(leaf).sharding.mesh
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    return None


def _spec(leaf: Array) -> PartitionSpec:
    return jax.typeof(leaf).sharding.spec


# The compiler shares out what follows from where the batch lies. What it would rather do on every
# device, or gather in pieces, is said here. It needs a mesh that is set (`jax.set_mesh`): where
# arrays lie on an automatic one is not known before compilation.


def several() -> bool:
    """Whether there are several devices to share with."""
    return bool(_automatic_axes())


def shared(array: Array, axis: int = 0) -> Array:
    """The same array, of which every device makes a share of an axis that divides evenly."""
    names = _automatic_axes()
    if not names or array.shape[axis] % _size(names):
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*[None] * axis, names))


def evenly(size: int, most: int) -> int:
    """The next number that devices can share out evenly, or `most` where that is less."""
    devices = _size(_automatic_axes())
    return min(-(-size // devices) * devices, most)


def everywhere(arrays: _Arrays) -> _Arrays:
    """The same arrays, gathered on every device at once."""
    if not _automatic_axes():
        return arrays
    return jtu.tree_map(
        lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec()), arrays
    )


def on_every_device(
    make: Callable[_Parameters, _Arrays],
) -> Callable[_Parameters, _Arrays]:
    """Decorates a function of arrays that every device is to compute as a whole.

    For what is small and has many steps, such as a factorisation: shared out by the compiler, it
    would be an exchange of arrays in each of them.
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
    """`of_columns(given, of_rows(given, matrix))`, of which every device makes a share.

    For maps that take each row, or each column, by itself, such as substitutions, all of which the
    compiler would have every device do.
    """
    names = _automatic_axes()
    if not names:
        return of_columns(given, of_rows(given, matrix))
    m, k = matrix.shape

    def on_each(given: _Given, rows: Array) -> Array:
        rows = _filled(of_rows(given, rows), 1, _size(names))
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
    return each(given, _filled(matrix, 0, _size(names)))


def _filled(matrix: Float[Array, "m k"], axis: int, parts: int) -> Float[Array, "_m _k"]:
    """With zeros at the end of an axis, so that it divides into equal parts."""
    missing = -matrix.shape[axis] % parts
    return jnp.pad(matrix, [(0, missing * (j == axis)) for j in range(2)])


def on_one_device(
    make: Callable[[_Given], _Arrays], given: _Given, number: int | Int[Array, ""]
) -> _Arrays:
    """`make(given)`, made by one device and sent to all others.

    For factorisations, which the compiler would have every device do: with different numbers
    different devices do them, at the same time.
    """
    names = _automatic_axes()
    if not names:
        return make(given)

    def on_each(given: _Given, number: Int[Array, ""]) -> _Arrays:
        def others(given: _Given) -> _Arrays:
            shapes = jax.eval_shape(make, given)
            return jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        is_own = number % _size(names) == jax.lax.axis_index(names)
        return jax.lax.psum(jax.lax.cond(is_own, make, others, given), names)

    return on_every_device(on_each)(given, jnp.asarray(number, jnp.int32))


def _automatic_axes() -> tuple[str, ...]:
    """The axes of the mesh that is set, over which the compiler may share out.

    None on one device.
    """
    mesh = get_abstract_mesh()
    if mesh.empty or _size(mesh.axis_names) == 1:
        return ()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in kinds if kind == AxisType.Auto)


def _size(names: tuple[str, ...]) -> int:
    sizes = get_abstract_mesh().shape
    return math.prod(sizes[name] for name in names)
