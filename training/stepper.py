"""One training step as one compiled program that takes and returns plain arrays.

A step costs only a few dozen microseconds beyond its arithmetic: the data stay on the device, a
batch is gathered inside the program, all reported numbers come back as one array, and the carried
arrays are donated. `eqx.filter_jit` alone would spend 0.2 ms on flattening and hashing model and
state at each call.

The optimiser's arrays (damping, l2, ...) and the run's key are arguments of the program. If they
were constants, each value would need its own program, and JAX's cache on disk would miss.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

import curvature as cv

from .compiling import compile_for
from .mesh import ON_ONE_DEVICE, Placement
from .sources import Draw, gather


class Fixed(NamedTuple):
    """The arguments of the compiled step that no step changes.

    - `optimiser`: the optimiser's arrays.
    - `key`: the key of the run.
    - `data`: the training part.
    """

    optimiser: PyTree[Array]
    key: PRNGKeyArray
    data: PyTree[Array]


class Stepper:
    """The training step of an optimiser, and the arrays that it carries from call to call.

    **Arguments:**

    - `optimiser`: as in `training.Run`.
    - `model`, `state`: where to begin; `state` is what `optimiser.init(model)` returned.
    - `data`: the training part, on its devices.
    - `seed`: step s, counted from 0, has the key `fold_in(key(seed), s)`.
    - `draw`: makes a batch of `data`, see `sources.Source`.
    - `placement`: the devices; every one has a share of each batch.

    `leaves` is the list of all carried arrays; `replace` sets them. `fixed` are the arguments that
    do not change.
    """

    def __init__(
        self,
        optimiser: Any,
        model: PyTree,
        state: PyTree,
        data: PyTree[Array],
        seed: int,
        draw: Draw = gather,
        placement: Placement = ON_ONE_DEVICE,
    ):
        arrays, self._static = eqx.partition((model, state, jnp.int32(0)), eqx.is_array)
        leaves, self._treedef = jax.tree.flatten(arrays)
        # Copies: steps donate (destroy) them, but the caller keeps its model. Strongly typed, by
        # `dtype=`, as arrays that were read from a checkpoint are.
        copies = [jnp.array(leaf, dtype=leaf.dtype, copy=True) for leaf in leaves]
        self._placement = placement
        self.replace(copies)
        numbers, self._without_numbers = eqx.partition(optimiser, eqx.is_array)
        numbers, key = placement.replicated((numbers, jax.random.key(seed)))
        self.fixed = Fixed(numbers, key, data)
        self._optimiser, self._draw = optimiser, draw
        self._sentences: dict[int, str] = {}
        self._gradient = jax.jit(self._gradient_of)  # compiled when it is first asked for

    def replace(self, leaves: list[Array]) -> None:
        """Set the carried arrays to others of the same shapes."""
        self.leaves = self._placement.place_leaves(leaves)

    def compile(self, given: PyTree[Array | jax.ShapeDtypeStruct]) -> "Stepper":
        """Compile for `Given.arrays` or their shapes; then `step` traces and compiles nothing.

        **Returns:** itself.
        """
        out = self._placement.step_shardings(self.leaves)
        self._run, self._compiled = compile_for(
            self.step_function, self.leaves, self.fixed, given, out_shardings=out
        )
        return self

    def step(self, given: PyTree[Array]) -> Float[Array, " fields"]:
        """Take one step, without waiting for it.

        **Arguments:** `given`: the input from which `draw` makes the batch, see `feed.Given`.

        **Returns:** the packed record, for `read`. In single precision, integers above 2²⁴ are
        rounded: `environment_steps` may be, the steps of a solver are not.
        """
        self.leaves, packed = self._run(self.leaves, self.fixed, given)
        return packed

    def gradient(self, given: PyTree[Array]) -> PyTree[Array]:
        """The gradient of the loss of the next step's batch; what is random is drawn anew."""
        return self._gradient(self.leaves, self.fixed, given)

    def latest_batch(self, given: PyTree[Array]) -> tuple[PyTree[Array], PRNGKeyArray]:
        """The batch of the latest step and its key, provided that the step was rejected."""
        model, _, count = self._combined(self.leaves)
        batch, _, key = self._batch(model, count - 1, self.fixed, given)
        return batch, key

    def read(self, packed: Float[Array, " fields"]) -> dict[str, Any]:
        """Wait for a step; return its `curvature.Info`, and its batch's numbers, as plain values.

        `result` is the sentence that explains the step, empty when there is nothing to explain.
        """
        record: dict[str, Any] = {
            name: kind(value)
            for (name, kind), value in zip(self._fields, np.asarray(packed).tolist(), strict=True)
        }
        record["result"] = self._sentence(record["result"])
        return record | self._constants

    @property
    def compiled(self) -> jax.stages.Compiled | None:
        """The compiled step; None where JAX is told to compile nothing."""
        return self._compiled

    @property
    def solves(self) -> bool:
        """Whether the compiled step solves for its direction: a first-order step has no solver."""
        return self._constants.get("solver") != ""

    @property
    def model(self) -> eqx.Module:
        """The model after the latest step. The next step donates (destroys) its arrays."""
        return self._combined(self.leaves)[0]

    @property
    def evaluated(self) -> eqx.Module:
        """The model to evaluate and save, see `curvature.evaluated`; valid until the next step."""
        model, state, _ = self._combined(self.leaves)
        return cv.evaluated(self._optimiser, model, state)

    @property
    def whole(self) -> eqx.Module:
        """`evaluated` with whole arrays, to be written; all processes call it together."""
        return self._placement.whole(self.evaluated)

    def _combined(self, leaves: list[Array]) -> tuple[eqx.Module, PyTree, Array]:
        return eqx.combine(jax.tree.unflatten(self._treedef, leaves), self._static)

    def step_function(
        self, leaves: list[Array], fixed: Fixed, given: PyTree[Array]
    ) -> tuple[list[Array], Float[Array, " fields"]]:
        """The function that is compiled: returns the leaves after a step, and its packed record."""
        model, state, count = self._combined(leaves)
        batch, numbers, key = self._batch(model, count, fixed, given)
        optimiser = eqx.combine(fixed.optimiser, self._without_numbers)
        model, state, info = optimiser.step(model, batch, state, key=key)
        arrays = eqx.filter((model, state, count + 1), eqx.is_array)
        leaves, treedef = jax.tree.flatten(arrays)
        if treedef != self._treedef:
            raise TypeError(
                f"`{type(self._optimiser).__name__}.step` must return a model and a state with "
                f"the same structure as its arguments, {self._treedef}, got {treedef}."
            )
        return leaves, self._pack(info, numbers)

    def _batch(
        self, model: eqx.Module, count: Array, fixed: Fixed, given: PyTree[Array]
    ) -> tuple[PyTree[Array], dict[str, Scalar], PRNGKeyArray]:
        """The batch of step `count`, the numbers that came with it, and the step's key."""
        key = jax.random.fold_in(fixed.key, count)
        batch, numbers = self._draw(fixed.data, given, model, step=count, key=key)
        return self._placement.constrain(batch), numbers, key

    def _gradient_of(
        self, leaves: list[Array], fixed: Fixed, given: PyTree[Array]
    ) -> PyTree[Array]:
        model, _, count = self._combined(leaves)
        batch, _, key = self._batch(model, count, fixed, given)
        optimiser = eqx.combine(fixed.optimiser, self._without_numbers)
        return optimiser.objective.linearise(model, batch, key=key).grad

    def _pack(self, info: cv.Info, numbers: dict[str, Scalar]) -> Float[Array, " fields"]:
        """All of `info` and `numbers` in one array: one transfer per step, not one per number."""
        self._result = jax.tree.structure(info.result)
        self._fields, self._constants, values = [], {}, []
        for field in dataclasses.fields(info):
            if isinstance(value := getattr(info, field.name), str):
                self._constants[field.name] = value
                continue
            if value is None:  # not computed
                self._constants[field.name] = math.nan
                continue
            (value,) = jax.tree.leaves(value)
            self._fields.append((field.name, _kind(value)))
            values.append(value)
        self._fields += [(name, _kind(value)) for name, value in numbers.items()]
        values += numbers.values()
        return jnp.stack([jnp.asarray(value, jnp.result_type(float)) for value in values])

    def _sentence(self, code: int) -> str:
        if code not in self._sentences:
            result = jax.tree.unflatten(self._result, [np.asarray(code)])
            self._sentences[code] = cv.RESULTS[result]
        return self._sentences[code]


def _kind(value: Array) -> type:
    """The plain type that holds what `value` holds."""
    kinds = ((jnp.bool_, bool), (jnp.integer, int), (jnp.floating, float))
    return next(kind for dtype, kind in kinds if jnp.issubdtype(value.dtype, dtype))
