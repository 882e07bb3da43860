"""A model's computation as a list of primitive operations.

Recognition works on this list. It classifies a weight by the weight's uses in the computation, not
by the class of the layer that holds the weight.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.extend import core
from jaxtyping import Array

from .operations import operations

# Calls without a meaning of their own. Each is replaced by the operations inside it.
_INLINED = ("jit", "pjit", "closed_call", "core_call")
# Calls that are kept, since they determine how derivatives of their operations are computed.
_CHECKPOINT = ("checkpoint", "remat", "remat2")


class Value:
    """An array in the graph; two values are equal only if they are the same object."""


@dataclass(frozen=True, eq=False)
class Node:
    """One primitive operation: `outputs = equation(inputs)`; an input may be a constant.

    - `inner`: the computation of one iteration of a `scan`, or of a `checkpoint`; else None.
    """

    equation: core.JaxprEqn
    inputs: tuple[Any, ...]
    outputs: tuple[Value, ...]
    inner: "Graph | None"

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

    def bind(self, *inputs: Any) -> list[Any]:
        """Apply the operation to arrays or constants."""
        primitive = self.equation.primitive
        with self.equation.ctx.manager:
            out = primitive.bind(*inputs, **primitive.get_bind_params(self.equation.params))
        return list(out) if primitive.multiple_results else [out]


# For every tapped node: the array that is added to the node's first result.
Taps = Mapping[Node, Array]
# For every tapped node: the node's arguments.
Operands = dict[Node, list[Any]]


def _shape(variable: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)


class Graph:
    """The operations of a traced function, in the order of their computation.

    - `inputs`: the function's arguments; `outputs`: its results, each a `Value` or a constant.
    - `nodes`: the operations. Every inner `jit` is inlined; a `checkpoint` and a `scan` are one
      node each, with a graph of their own.
    - `operations`: about how many floating-point operations one evaluation takes.
    """

    def __init__(self, jaxpr: core.Jaxpr, consts: Sequence[Any] = ()):
        self.nodes: list[Node] = []
        self.operations = operations(jaxpr)
        self.inputs = [Value() for _ in jaxpr.invars]
        self.outputs = self._inline(jaxpr, consts, self.inputs)

    @functools.cached_property
    def consumers(self) -> dict[Value, list[tuple[Node, int]]]:
        """The nodes that take a value, each with the number of the argument."""
        found: dict[Value, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for position, argument in enumerate(node.inputs):
                if isinstance(argument, Value):
                    found.setdefault(argument, []).append((node, position))
        return found

    @functools.cached_property
    def has_forward_mode(self) -> bool:
        """Whether forward mode works: no operation has its derivative from `jax.custom_vjp`."""
        return all(
            "custom_vjp" not in node.name and (node.inner is None or node.inner.has_forward_mode)
            for node in self.nodes
        )

    def is_output(self, value: Value) -> bool:
        """Whether `value` is, unchanged, part of the result."""
        return any(output is value for output in self.outputs)

    def evaluate(self, inputs: Sequence[Any], taps: Taps) -> tuple[list, Operands]:
        """The results for given arguments, and the arguments of the tapped nodes.

        A tap inside a `scan` of L iterations has a leading axis L, and so have the arguments of the
        tapped node.
        """
        known: dict[Value, Any] = dict(zip(self.inputs, inputs, strict=True))
        operands: Operands = {}
        for node in self.nodes:
            arguments = [known[i] if isinstance(i, Value) else i for i in node.inputs]
            results, found = _evaluate_node(node, arguments, taps)
            operands |= found
            known.update(zip(node.outputs, results, strict=True))
        return [known[o] if isinstance(o, Value) else o for o in self.outputs], operands

    def _inline(self, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        env: dict[core.Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else env[atom]

        for equation in jaxpr.eqns:
            arguments = tuple(read(atom) for atom in equation.invars)
            called = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
            if equation.primitive.name in _INLINED and isinstance(called, core.ClosedJaxpr):
                outputs = self._inline(called.jaxpr, called.consts, arguments)
            else:
                outputs = tuple(Value() for _ in equation.outvars)
                self.nodes.append(Node(equation, arguments, outputs, _inner(equation, called)))
            env.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


def _inner(equation: core.JaxprEqn, called: Any) -> Graph | None:
    name = equation.primitive.name
    if name != "scan" and name not in _CHECKPOINT:
        return None
    if isinstance(called, core.ClosedJaxpr):
        return Graph(called.jaxpr, called.consts)
    return Graph(called)


def _evaluate_node(node: Node, arguments: list[Any], taps: Taps) -> tuple[list[Any], Operands]:
    inside = {} if node.inner is None else _inside(node.inner, taps)
    if inside:
        run = _scan if node.name == "scan" else _checkpoint
        return run(node, arguments, inside)
    results = node.bind(*arguments)
    if node not in taps:
        return results, {}
    return [results[0] + taps[node], *results[1:]], {node: [jnp.asarray(x) for x in arguments]}


def _inside(graph: Graph, taps: Taps) -> Taps:
    """The taps of the nodes of a graph, including those of its inner graphs."""
    found = {node: taps[node] for node in graph.nodes if node in taps}
    for node in graph.nodes:
        if node.inner is not None:
            found |= _inside(node.inner, taps)
    return found


def _scan(node: Node, arguments: list[Any], taps: Taps) -> tuple[list[Any], Operands]:
    graph, params, nodes = _graph_of(node), node.equation.params, list(taps)
    consts, carry, xs = split_scan(node, arguments)
    count = len(carry)

    def turn(carry: list[Any], each: Any) -> Any:
        xs, taps = each
        results, operands = graph.evaluate([*consts, *carry, *xs], dict(zip(nodes, taps)))
        return results[:count], (results[count:], [operands[inner] for inner in nodes])

    carry = [jnp.asarray(x) for x in carry]
    carry, (ys, operands) = jax.lax.scan(
        turn,
        carry,
        (xs, list(taps.values())),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *ys], dict(zip(nodes, operands))


def split_scan(node: Node, arguments: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The constants, the carry and the stacked arguments of a `scan`."""
    params = node.equation.params
    if "num_consts" in params:  # before jax 0.11
        consts, carry = params["num_consts"], params["num_consts"] + params["num_carry"]
        return list(arguments[:consts]), list(arguments[consts:carry]), list(arguments[carry:])
    consts, carry, xs = params["ft_in"].update(list(arguments)).unpack()
    return list(consts), list(carry), list(xs)


def _checkpoint(node: Node, arguments: list[Any], taps: Taps) -> tuple[list[Any], Operands]:
    graph, params, nodes = _graph_of(node), node.equation.params, list(taps)

    def call(arguments: list[Any], taps: list[Array]) -> tuple[list[Any], list[Any]]:
        results, operands = graph.evaluate(arguments, dict(zip(nodes, taps)))
        return results, [operands[inner] for inner in nodes]

    wrapped = jax.checkpoint(call, prevent_cse=params["prevent_cse"], policy=params["policy"])
    results, operands = wrapped(arguments, list(taps.values()))
    return results, dict(zip(nodes, operands))


def _graph_of(node: Node) -> Graph:
    assert node.inner is not None
    return node.inner


class Traced:
    """A function of one example, traced once: `fn(params, x)`, from pytrees to one array.

    Arrays that `fn` closes over are arguments of the graph. So derivatives and transformations with
    respect to these arrays work as for any other argument. `trace` returns the arrays beside the
    traced function.
    """

    def __init__(self, graph: Graph, weights: list[Value]):
        self.graph = graph
        self.weights = weights  # the arguments of the graph that are weights

    def __call__(self, params: Any, x: Any, closed_over: Sequence[Any]) -> Array:
        """The result for one example."""
        return self.tapped(params, x, closed_over, {})[0]

    def tapped(
        self, params: Any, x: Any, closed_over: Sequence[Any], taps: Taps
    ) -> tuple[Array, Operands]:
        """The result with taps, and the arguments of the tapped nodes."""
        inputs = [*closed_over, *jtu.tree_leaves(params), *jtu.tree_leaves(x)]
        (z,), operands = self.graph.evaluate(inputs, taps)
        return z, operands


def trace(fn: Callable[[Any, Any], Array], params: Any, x: Any) -> tuple[Traced, list[Any]]:
    """`fn(params, x)` as a graph, and the arrays that it closes over.

    **Arguments:** `params` and `x`, arrays or shapes; the leaves of `params` are the weights.
    """
    closed = jax.make_jaxpr(fn)(params, x)
    jaxpr = closed.jaxpr
    as_arguments = jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars])
    graph, first = Graph(as_arguments), len(closed.consts)
    weights = graph.inputs[first : first + len(jtu.tree_leaves(params))]
    return Traced(graph, weights), list(closed.consts)
