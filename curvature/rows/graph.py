"""A model's computation as a list of primitive operations, with every inner `jit` inlined.

This is the ground that recognition stands on: a weight is known by its uses in the computation,
not by the class of the layer that holds it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.tree_util as jtu
from jax.extend import core
from jaxtyping import Array

from .operations import operations

# Calls without a meaning of their own.
_INLINED = ("jit", "pjit", "closed_call", "core_call")


class Value:
    """An array computed by the graph, known by its identity."""


@dataclass(frozen=True, eq=False)
class Node:
    """One primitive operation: `outputs = equation(inputs)`; an input may be a constant."""

    equation: core.JaxprEqn
    inputs: tuple[Any, ...]
    outputs: tuple[Value, ...]

    @property
    def name(self) -> str:
        return self.equation.primitive.name

    @property
    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        """Shape and dtype of every argument."""
        return [_shape(variable) for variable in self.equation.invars]

    @property
    def results(self) -> list[jax.ShapeDtypeStruct]:
        """Shape and dtype of every result."""
        return [_shape(variable) for variable in self.equation.outvars]

    def position(self, value: Value) -> int:
        """Which argument of the operation `value` is."""
        return next(i for i, taken in enumerate(self.inputs) if taken is value)

    def bind(self, *inputs: Any) -> list[Any]:
        """Apply the operation to arrays or constants."""
        primitive = self.equation.primitive
        with self.equation.ctx.manager:
            out = primitive.bind(*inputs, **primitive.get_bind_params(self.equation.params))
        return list(out) if primitive.multiple_results else [out]


def _shape(variable: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)


class Graph:
    """`fn(*args)` for arrays of the given shapes, as nodes in the order of their computation.

    - `inputs`: the leaves of `args`, in order; `outputs`: the leaves of the result.
    - `nodes`: the operations; `operations`: how many on numbers they stand for, about.
    """

    def __init__(self, fn: Callable[..., Any], *args: Any):
        closed = jax.make_jaxpr(fn)(*args)
        self.nodes: list[Node] = []
        self.operations = operations(closed.jaxpr)
        self.structure = jax.tree.structure(jax.eval_shape(fn, *args))
        self.inputs = [Value() for _ in closed.jaxpr.invars]
        self.outputs = self._inline(closed, self.inputs)

    def uses(self, value: Value) -> list[Node]:
        """The nodes that take `value`, once for every time that it is taken."""
        return [node for node in self.nodes for taken in node.inputs if taken is value]

    def is_output(self, value: Value) -> bool:
        """Whether `value` is, unchanged, part of the result."""
        return any(output is value for output in self.outputs)

    def evaluate(
        self,
        inputs: Sequence[Any],
        visit: Callable[[Node, list[Any], list[Any]], list[Any]],
    ) -> Any:
        """The result, where `visit(node, its inputs, its outputs)` may replace the outputs.

        Both may be constants of the computation, and not yet arrays.
        """
        known: dict[Value, Array] = dict(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            taken = [known[i] if isinstance(i, Value) else i for i in node.inputs]
            known.update(zip(node.outputs, visit(node, taken, node.bind(*taken)), strict=True))
        results = [known[o] if isinstance(o, Value) else o for o in self.outputs]
        return jtu.tree_unflatten(self.structure, results)

    def _inline(self, closed: core.ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        env: dict[core.Var, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        env.update(zip(closed.jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else env[atom]

        for equation in closed.jaxpr.eqns:
            taken = tuple(read(atom) for atom in equation.invars)
            inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
            if equation.primitive.name in _INLINED and isinstance(inner, core.ClosedJaxpr):
                outputs = self._inline(inner, taken)
            else:
                outputs = tuple(Value() for _ in equation.outvars)
                self.nodes.append(Node(equation, taken, outputs))
            env.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in closed.jaxpr.outvars]
