"""Finds the weights whose rows can be built from a structure of the computation."""

from dataclasses import dataclass

from .biases import partners
from .graph import Graph, Node, Traced, Value, split_scan
from .lookups import lookup
from .uses import VIEWS, Convolution, Elementwise, Product, Use


@dataclass(frozen=True, eq=False)
class Layers:
    """The uses of every weight of one traced computation.

    - `traced`: the computation.
    - `uses`: per weight, in the order of the leaves, all uses of the weight: () if the outputs do
      not depend on the weight, None if a use is not recognised.
    - `biases`: maps the number of a bias to the number of the matrix of the same layer,
      y = W a + b.
    """

    traced: Traced
    uses: tuple[tuple[Use, ...] | None, ...]
    biases: dict[int, int]


def recognise(traced: Traced) -> Layers:
    """The structure of every weight's uses.

    The rules look at the computation, not at the classes of layers. A use is recognised if the
    weight enters, directly or after views, an operation of one of these kinds: `Product`,
    `Convolution`, `Lookup`, `Elementwise`. If all uses are recognised, the derivative ∂z/∂W is
    exactly the sum over the uses of ∂z/∂y ∂y/∂W, whatever the rest of the computation is.

    The rules follow a weight into a `checkpoint`, and into a `scan` over its slices. A weight is
    not recognised if it enters another loop, a branch, a custom rule or any other operation, or if
    it is itself an output. The rows of such a weight are computed by automatic differentiation.
    """
    uses = tuple(_follow(traced.graph, weight, (), None) for weight in traced.weights)
    return Layers(traced, uses, partners(uses))


def _follow(
    graph: Graph, value: Value, views: tuple[Node, ...], length: int | None
) -> tuple[Use, ...] | None:
    if graph.is_output(value):
        return None
    found: list[Use] = []
    for node, position in graph.consumers.get(value, []):
        if node.name in VIEWS:
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
    shaped = [view for view in views if view.name != "convert_element_type"]
    turned = [view.equation.params.get("permutation") for view in shaped]
    plain = turned in ([], [(1, 0)])
    if node.name in ("gather", "dynamic_slice"):
        return lookup(views, node, position, graph, length) if plain else None
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
            if matrix and plain and not any(batched) and len(contracted[0]) == 1:
                return Product(views, node, position, graph, length)
        case "conv_general_dilated":
            numbers = params["dimension_numbers"]
            rank = tuple(range(len(numbers.lhs_spec)))
            in_order = numbers.lhs_spec == numbers.rhs_spec == numbers.out_spec == rank
            if position == 1 and not shaped and in_order and params["batch_group_count"] == 1:
                return Convolution(views, node, position, graph, length)
    return None
