"""How much memory a run needs, by shapes alone."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.extend import core
from jaxtyping import PyTree

from data import Dataset

from ._base import Run
from .device import shapes_on_device
from .mesh import placement, share_of
from .sources import batch_shapes

# They make no array of their own: XLA has them read where they are used.
_VIEWS = ("broadcast_in_dim", "expand_dims", "iota", "reshape", "squeeze", "stop_gradient")


class Needs(NamedTuple):
    """The bytes that a run needs on each of its devices.

    - `data`: all parts of the dataset.
    - `weights`: the model's arrays and the optimiser's state.
    - `step`: what a step holds beside these when it holds the most: the batch, intermediate values,
      vectors, matrices. To a factor of about three: XLA fuses some of it away.
    """

    data: int
    weights: int
    step: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)

    def __str__(self) -> str:
        data, weights, step = (_written(nbytes) for nbytes in self)
        return (
            f"about {_written(self.total)} (data {data}, weights and state {weights}, step {step})"
        )


def needs_of(run: Run) -> Needs:
    """What `run` needs; its step is traced, nothing is computed."""
    placed = placement(run.settings.devices, run.settings.sharding)
    batch = share_of(batch_shapes(run.dataset, run.model, run.settings.batch_size), placed.size)
    state = eqx.filter_eval_shape(run.optimiser.init, run.model, batch=batch)
    traced, *_ = eqx.filter_make_jaxpr(run.optimiser.step)(
        run.model, batch, state, key=jax.random.key(0)
    )
    dataset, data, drawn = run.dataset, 0, _nbytes(batch)
    if isinstance(dataset, Dataset):
        parts = dataset.train, dataset.test, dataset.validation, dataset.reference
        data = _nbytes(shapes_on_device(parts))
        if run.settings.batch_size is None:
            drawn = 0  # the training part itself
    weights = _nbytes((run.model, state))
    if placed.sharding == "fsdp":
        weights //= placed.size
    return Needs(data, weights, drawn + most_held(traced.jaxpr))


def most_held(jaxpr: core.Jaxpr) -> int:
    """The most bytes that a computation holds at once beside its arguments.

    Its equations are taken in their order, each makes its results anew, and a result is given up
    after its last use. A convolution copies its operands, since it wants them in its own layout.
    """
    equations, last = _used(jaxpr)
    given_up: dict[int, int] = {}
    held = most = 0
    for index, equation in enumerate(equations):
        made = 0
        if equation.primitive.name not in _VIEWS:
            for result in equation.outvars:
                if result in last:
                    nbytes = _nbytes(result.aval)
                    made += nbytes
                    given_up[last[result]] = given_up.get(last[result], 0) + nbytes
        within = max(map(most_held, core.jaxprs_in_params(equation.params)), default=0)
        if equation.primitive.name == "conv_general_dilated":
            within = made + _nbytes([operand.aval for operand in equation.invars])
        most = max(most, held + max(made, within))
        held += made - given_up.pop(index, 0)
    return most


def _used(jaxpr: core.Jaxpr) -> tuple[list[core.JaxprEqn], dict[core.Var, int]]:
    """The equations whose results are used, and where each variable is used last."""
    needed = {result for result in jaxpr.outvars if isinstance(result, core.Var)}
    equations: list[core.JaxprEqn] = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            equations.append(equation)
            needed.update(_variables(equation.invars))
    equations.reverse()
    last = {
        variable: index
        for index, equation in enumerate(equations)
        for variable in _variables(equation.invars)
    }
    return equations, last | dict.fromkeys(_variables(jaxpr.outvars), len(equations))


def _variables(atoms: Any) -> Iterator[core.Var]:
    return (atom for atom in atoms if isinstance(atom, core.Var))


def _nbytes(arrays: PyTree[Any]) -> int:
    sizes = (
        int(np.prod(leaf.shape, dtype=np.int64)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(arrays)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    )
    return sum(sizes)


def _written(nbytes: int) -> str:
    if nbytes >= 2**30:
        return f"{nbytes / 2**30:,.3g} GiB"
    return f"{nbytes / 2**20:,.3g} MiB"
