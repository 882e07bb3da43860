"""An estimate of the memory that a run needs, from shapes alone."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.extend import core
from jaxtyping import PyTree

from data import Dataset, Stream

from ._base import Run
from .device import shapes_on_device
from .feed import IN_FLIGHT, has_shares, loads_batches
from .mesh import check_divides, placement, share_of
from .sources import batch_shapes

# Primitives that allocate no array: XLA fuses them into the operation that reads their result.
_VIEWS = ("broadcast_in_dim", "expand_dims", "iota", "reshape", "squeeze", "stop_gradient")


class Needs(NamedTuple):
    """The bytes that a run needs on each of its devices.

    - `data`: the training part, or the device's share of it; if batches are loaded from the host,
        those in flight. Other parts are not counted: they are evaluated in chunks.
    - `weights`: the model's arrays and the optimiser's state.
    - `step`: the peak memory of a step beside these: the batch, intermediate values, vectors,
        matrices. It is accurate to a factor of about three, because XLA fuses some of it away.
    """

    data: int
    weights: int
    step: int

    @property
    def total(self) -> int:
        """The sum of the three."""
        return sum(self)

    @property
    def upper_bound(self) -> int:
        """An upper bound: `step` may be too low by a factor of three."""
        return self.data + self.weights + 3 * self.step

    def of_runs(self, runs: int, at_once: int) -> "Needs":
        """The needs of `runs` runs on the same data, `at_once` of which step at the same time."""
        return Needs(self.data, runs * self.weights, at_once * self.step)

    def __str__(self) -> str:
        data, weights, step = (_format_bytes(nbytes) for nbytes in self)
        total = _format_bytes(self.total)
        return f"about {total} (data {data}, weights and state {weights}, step {step})"


def needs_of(run: Run) -> Needs:
    """The memory that `run` needs; its step is traced, nothing is computed.

    On several devices, the step is traced with one device's share of the batch. With micro-batches
    it is traced with the whole batch, which overestimates. Matrices that every device holds whole
    are counted from the plan of the solve.
    """
    placed = placement(run.settings.devices, run.settings.sharding)
    batch = batch_shapes(run.dataset, run.model, run.settings.batch_size)
    check_divides(batch, placed.size)
    share = share_of(batch, placed.size)
    traced = share if run.optimiser.objective.micro_batch is None else batch
    key = jax.random.key(0)
    state = eqx.filter_eval_shape(run.optimiser.init, run.model, batch=traced)
    jaxpr, *_ = eqx.filter_make_jaxpr(run.optimiser.step)(run.model, traced, state, key=key)
    step = peak_memory(jaxpr.jaxpr)
    if placed.size > 1:
        plan = run.optimiser.plan(run.model, batch, key=key)
        step = max(step, 0 if plan is None or plan.nbytes is None else plan.nbytes)
    dataset, data, drawn = run.dataset, 0, _nbytes(share)
    if isinstance(dataset, Dataset):
        data = _nbytes(shapes_on_device(dataset.train))
        has_share = has_shares(run, placed)
        if has_share:
            data //= placed.size
        if run.settings.batch_size is None:
            drawn = 0  # the training part itself
        elif loads_batches(run):
            data = drawn  # the batch of the step in flight; `drawn` is the next batch
        elif has_share:
            drawn = _nbytes(batch)  # before it is divided among the devices
    if isinstance(dataset, Stream):
        data, drawn = IN_FLIGHT * drawn, 0
    carried = jax.tree.leaves(eqx.filter((run.model, state), _is_shaped))
    shares = [jax.ShapeDtypeStruct(placed.device_shape(leaf), leaf.dtype) for leaf in carried]
    return Needs(data, _nbytes(shares), drawn + step)


def peak_memory(jaxpr: core.Jaxpr) -> int:
    """The peak memory of a computation in bytes, without its arguments.

    Assumes that the equations run in their order, that each allocates its results, and that a
    result is freed after its last use. A convolution also copies its operands into its own layout.
    """
    equations, last = _used_equations(jaxpr)
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
        within = max(map(peak_memory, core.jaxprs_in_params(equation.params)), default=0)
        if equation.primitive.name == "conv_general_dilated":
            within = made + _nbytes([operand.aval for operand in equation.invars])
        most = max(most, held + max(made, within))
        held += made - given_up.pop(index, 0)
    return most


def _used_equations(jaxpr: core.Jaxpr) -> tuple[list[core.JaxprEqn], dict[core.Var, int]]:
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


def _format_bytes(nbytes: int) -> str:
    if nbytes >= 2**30:
        return f"{nbytes / 2**30:,.3g} GiB"
    return f"{nbytes / 2**20:,.3g} MiB"
