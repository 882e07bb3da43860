"""Which weights have a structure that their rows can be built from, read off the computation."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .graph import Graph, Node, Traced, Value, split_scan

# Changes of shape or of precision alone, through which a weight is followed to where it is used.
_VIEWS = ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "transpose")


@dataclass(frozen=True, eq=False)
class Use:
    """One place where a weight enters the computation of an example's outputs, linearly.

    - `views`: changes of the weight's shape and precision on the way, in order.
    - `node`: the operation that takes it, as its argument `position`. The example's outputs depend
      on this use of the weight through the operation's result y alone.
    - `graph`: the one that the operation stands in.
    - `length`: L, where the operation stands in a `scan` over L slices of the weight; else None.
      `views` and `node` are then those of one slice.
    """

    views: tuple[Node, ...]
    node: Node
    position: int
    graph: Graph
    length: int | None

    def others(self, operands: Sequence[Any]) -> list[Any]:
        """The arguments of the node without the weight."""
        return [None if i == self.position else x for i, x in enumerate(operands)]

    def apply(self, weight: Array, operands: list[Any]) -> Array:
        """The operation y as a function of the weight (or of a slice of it)."""
        for view in self.views:
            (weight,) = view.bind(weight)
        taken = [*operands]
        taken[self.position] = weight
        return self.node.bind(*taken)[0]

    def rows(self, weight: Array, deltas: Array, operands: list[Any]) -> Array:
        """The rows of the weight (or of a slice of it) for one example, [r, *weight.shape].

        **Arguments:** `deltas`, cotangents of y, [r, *y.shape].
        """
        _, pullback = jax.vjp(lambda w: self.apply(w, operands), weight)
        return jax.vmap(lambda delta: pullback(delta)[0])(deltas)


class AbstractMatrixUse(Use):
    """y = W a at every position: ∂z/∂W is the sum over positions of (∂z/∂y) aᵀ."""

    @property
    @abc.abstractmethod
    def transposed(self) -> bool:
        """Whether the weight is held as [in, out], not as [out, in]."""

    @property
    @abc.abstractmethod
    def positions(self) -> int:
        """How many vectors a there are for one example."""

    @abc.abstractmethod
    def inputs(self, operands: list[Any]) -> Array:
        """The vectors a of one example, as [positions, in]."""

    @abc.abstractmethod
    def cotangents(self, delta: Array) -> Array:
        """A cotangent of y for one example, as [positions, out]."""

    def rows(self, weight: Array, deltas: Array, operands: list[Any]) -> Array:
        axes = "rto,ti->rio" if self.transposed else "rto,ti->roi"
        matrices = jnp.einsum(axes, jax.vmap(self.cotangents)(deltas), self.inputs(operands))
        return matrices.reshape(-1, *weight.shape)


class Product(AbstractMatrixUse):
    """A matrix times one vector, or times many: `eqx.nn.Linear`, alone or along a sequence."""

    def inputs(self, operands: list[Any]) -> Array:
        a, axis = operands[1 - self.position], self._contracted()[1 - self.position]
        return jnp.moveaxis(a, axis, -1).reshape(-1, a.shape[axis])

    def cotangents(self, delta: Array) -> Array:
        axis = 0 if self.position == 0 else delta.ndim - 1
        return jnp.moveaxis(delta, axis, -1).reshape(-1, delta.shape[axis])

    @property
    def transposed(self) -> bool:
        turned = any(view.name == "transpose" for view in self.views)
        return self._contracted()[self.position] == (1 if turned else 0)

    @property
    def positions(self) -> int:
        axis, a = self._contracted(), self.node.shapes[1 - self.position]
        return a.size // a.shape[axis[1 - self.position]]

    def _contracted(self) -> tuple[int, int]:
        ((lhs,), (rhs,)), _ = self.node.equation.params["dimension_numbers"]
        return lhs, rhs


class Convolution(AbstractMatrixUse):
    """A matrix times the patches of an image: `eqx.nn.Conv*`, channels first, in one group."""

    @property
    def transposed(self) -> bool:
        return False

    @property
    def positions(self) -> int:
        batch, _, *image = self.node.results[0].shape
        return batch * math.prod(image)

    def inputs(self, operands: list[Any]) -> Array:
        params = self.node.equation.params
        patches = jax.lax.conv_general_dilated_patches(
            operands[0],
            self.node.shapes[1].shape[2:],
            params["window_strides"],
            params["padding"],
            lhs_dilation=params["lhs_dilation"],
            rhs_dilation=params["rhs_dilation"],
            precision=jax.lax.Precision.HIGHEST,  # patches are copies: nothing may be rounded
        )
        return jnp.moveaxis(patches, 1, -1).reshape(-1, patches.shape[1])

    def cotangents(self, delta: Array) -> Array:
        return jnp.moveaxis(delta, 1, -1).reshape(-1, delta.shape[1])


class Elementwise(Use):
    """y = W + x, x − W or W·x, with W repeated along some axes: a bias, a scale, positions."""


@dataclass(frozen=True, eq=False)
class Layers:
    """The uses of every weight of one traced computation.

    - `traced`: the computation.
    - `uses`: per weight, in the order of the leaves, all its uses: () where the outputs do not
      depend on it, None where a use is not recognised.
    - `biases`: the number of a bias → the number of the matrix of the same layer, y = W a + b.
    """

    traced: Traced
    uses: tuple[tuple[Use, ...] | None, ...]
    biases: dict[int, int]


def recognise(traced: Traced) -> Layers:
    """The structure of every weight's uses.

    The rules look at the computation, not at the classes of layers. A use is recognised where the
    weight is taken, through views alone, by an operation above; then the derivative ∂z/∂W is the
    sum over its uses of ∂z/∂y ∂y/∂W, exactly, whatever surrounds them. The rules follow a weight
    into a `checkpoint`, and into a `scan` over its slices. A weight that enters another loop, a
    branch, a custom rule or any other operation, or that is itself an output, is not recognised:
    its rows are made by automatic differentiation.
    """
    uses = tuple(_follow(traced.graph, weight, (), None) for weight in traced.weights)
    return Layers(traced, uses, _biases(uses))


def _follow(
    graph: Graph, value: Value, views: tuple[Node, ...], length: int | None
) -> tuple[Use, ...] | None:
    if graph.is_output(value):
        return None
    found: list[Use] = []
    for node, position in graph.takers.get(value, []):
        if node.name in _VIEWS:
            uses = _follow(graph, node.outputs[0], (*views, node), length)
        elif node.inner is not None:
            uses = _enter(node, node.inner, position, views, length)
        else:
            use = _classify(views, node, position, graph, length)
            uses = None if use is None else (use,)
        if uses is None:
            return None
        found += uses
    return tuple(found)


def _enter(
    node: Node, inner: Graph, position: int, views: tuple[Node, ...], length: int | None
) -> tuple[Use, ...] | None:
    """The uses inside a `checkpoint`, or inside a `scan` that takes slices of the weight."""
    argument = inner.inputs[position]
    if node.name != "scan":
        return _follow(inner, argument, views, length)
    consts, carry, _ = split_scan(node, node.inputs)
    if length is not None or views or position < len(consts) + len(carry):
        return None
    return _follow(inner, argument, (), node.equation.params["length"])


def _classify(
    views: tuple[Node, ...], node: Node, position: int, graph: Graph, length: int | None
) -> Use | None:
    params = node.equation.params
    dtypes = {value.dtype for value in (*node.shapes, *node.results)}
    if len(dtypes) > 1:
        return None
    match node.name:
        case "add" | "add_any" | "sub" | "mul":
            return Elementwise(views, node, position, graph, length)
        case "dot_general":
            contracted, batched = params["dimension_numbers"]
            matrix = len(node.shapes[position].shape) == 2
            shaped = [view for view in views if view.name != "convert_element_type"]
            turned = [view.equation.params.get("permutation") for view in shaped]
            plain = turned in ([], [(1, 0)])
            if matrix and plain and not any(batched) and len(contracted[0]) == 1:
                return Product(views, node, position, graph, length)
        case "conv_general_dilated":
            numbers = params["dimension_numbers"]
            rank = tuple(range(len(numbers.lhs_spec)))
            plain = numbers.lhs_spec == numbers.rhs_spec == numbers.out_spec == rank
            groups = params["feature_group_count"] * params["batch_group_count"]
            kept = all(view.name == "convert_element_type" for view in views)
            if position == 1 and kept and plain and groups == 1:
                return Convolution(views, node, position, graph, length)
    return None


def _biases(uses: Sequence[tuple[Use, ...] | None]) -> dict[int, int]:
    """Which vectors are added to the product of one matrix with one vector, and to nothing else."""
    matrices = {}
    for j, of_weight in enumerate(uses):
        if of_weight is not None and len(of_weight) == 1:
            (use,) = of_weight
            if isinstance(use, Product) and use.positions == 1:
                matrices[use.node.outputs[0]] = (j, use)
    found = {}
    for j, of_weight in enumerate(uses):
        if of_weight is None or len(of_weight) != 1:
            continue
        (use,) = of_weight
        if not isinstance(use, Elementwise) or use.node.name not in ("add", "add_any"):
            continue
        product = use.node.inputs[1 - use.position]
        if not isinstance(product, Value) or product not in matrices or use.views:
            continue
        matrix, of_matrix = matrices[product]
        alone = _taken_once(of_matrix, product)
        same = use.node.results[0].shape == of_matrix.node.results[0].shape
        if alone and same and use.length == of_matrix.length:
            found[j] = matrix
    return found


def _taken_once(use: Use, value: Value) -> bool:
    graph = use.graph
    return len(graph.takers.get(value, [])) == 1 and not graph.is_output(value)
