"""How much memory a run needs, by shapes alone."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.extend import core
from jaxtyping import PyTree

from data import Dataset, Stream

from . import hosts
from ._base import Run
from .device import shapes_on_device
from .feed import IN_FLIGHT
from .mesh import check_divides, placement, share_of
from .sources import batch_shapes

# They make no array of their own: XLA has them read where they are used.
_VIEWS = ("broadcast_in_dim", "expand_dims", "iota", "reshape", "squeeze", "stop_gradient")


class Needs(NamedTuple):
    """The bytes that a run needs on each of its devices.

    - `data`: the training part, or the batches of a stream that are on their way; of several
        processes, a device's share. Other parts are evaluated a chunk at a time.
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

    @property
    def most(self) -> int:
        """The most that it may turn out to be."""
        return self.data + self.weights + 3 * self.step

    def of_runs(self, runs: int, at_once: int) -> "Needs":
        """Of several runs on the same data, of which so many take their steps at once."""
        return Needs(self.data, runs * self.weights, at_once * self.step)

    def __str__(self) -> str:
        data, weights, step = (_written(nbytes) for nbytes in self)
        return (
            f"about {_written(self.total)} (data {data}, weights and state {weights}, step {step})"
        )


def needs_of(run: Run) -> Needs:
    """What `run` needs; its step is traced, nothing is computed.

    On several devices a step is traced with a device's share of the batch, or in micro-batches with
    the whole, which is more than it holds. Matrices that every device has as a whole are counted by
    the plan of the solve.
    """
    placed = placement(run.settings.devices, run.settings.sharding)
    batch = batch_shapes(run.dataset, run.model, run.settings.batch_size)
    check_divides(batch, placed.size)
    share = share_of(batch, placed.size)
    traced = share if run.optimiser.objective.micro_batch is None else batch
    key = jax.random.key(0)
    state = eqx.filter_eval_shape(run.optimiser.init, run.model, batch=traced)
    jaxpr, *_ = eqx.filter_make_jaxpr(run.optimiser.step)(run.model, traced, state, key=key)
    step = most_held(jaxpr.jaxpr)
    if placed.size > 1:
        plan = run.optimiser.plan(run.model, batch, key=key)
        step = max(step, 0 if plan is None or plan.nbytes is None else plan.nbytes)
    dataset, data, drawn = run.dataset, 0, _nbytes(share)
    if isinstance(dataset, Dataset):
        data = _nbytes(shapes_on_device(dataset.train))
        if hosts.count() > 1:
            data //= placed.size
        if run.settings.batch_size is None:
            drawn = 0  # the training part itself
        elif hosts.count() > 1:
            data = drawn  # of the step in flight; `drawn` is the next one's
    if isinstance(dataset, Stream):
        data, drawn = IN_FLIGHT * drawn, 0
    carried = jax.tree.leaves(eqx.filter((run.model, state), _is_shaped))
    shares = [jax.ShapeDtypeStruct(placed.own_shape(leaf), leaf.dtype) for leaf in carried]
    return Needs(data, _nbytes(shares), drawn + step)


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
        if _is_shaped(leaf)
    )
    return sum(sizes)


def _is_shaped(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _written(nbytes: int) -> str:
    if nbytes >= 2**30:
        return f"{nbytes / 2**30:,.3g} GiB"
    return f"{nbytes / 2**20:,.3g} MiB"
