"""Which bias belongs to which matrix, y = W a + b."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .graph import Node, Value
from .uses import VIEWS, AbstractProduct, Elementwise, Use


def partners(uses: Sequence[tuple[Use, ...] | None]) -> dict[int, int]:
    """Maps the number of a bias to the number of the matrix of the same layer, y = W a + b.

    The bias is added to the products of this matrix and to nothing else. At every position entry j
    of the bias is added to entry j of W a. Between the product and the sum there may be changes of
    shape, as between a convolution and its bias.
    """
    sums = {}
    for j, of_weight in enumerate(uses):
        if of_weight is not None and len(of_weight) == 1:
            (use,) = of_weight
            if isinstance(use, AbstractProduct) and (added := _sum_of(use)) is not None:
                value, outputs = added
                sums[value] = j, use, outputs
    found = {}
    for j, of_weight in enumerate(uses):
        if of_weight is None or len(of_weight) != 1:
            continue
        (use,) = of_weight
        if not isinstance(use, Elementwise) or use.node.name not in ("add", "add_any"):
            continue
        added = use.node.inputs[1 - use.position]
        if not isinstance(added, Value) or added not in sums:
            continue
        matrix, of_matrix, outputs = sums[added]
        size = of_matrix.node.results[0].shape[of_matrix.out_axis]
        if use.length == of_matrix.length and _same(use, outputs, size):
            found[j] = matrix
    return found


def _sum_of(use: AbstractProduct) -> tuple[Value, np.ndarray] | None:
    """The product W a as its only use takes it, and for each entry the number of its output.

    The product is followed through changes of shape. None if it has several uses or is an output.
    """
    value, shape = use.node.outputs[0], use.node.results[0].shape
    along = [1] * len(shape)
    along[use.out_axis] = shape[use.out_axis]
    outputs = np.broadcast_to(np.arange(shape[use.out_axis]).reshape(along), shape)
    while not use.graph.is_output(value):
        consumers = use.graph.consumers.get(value, [])
        if len(consumers) != 1:
            return None
        ((node, _),) = consumers
        if node.name not in VIEWS:
            return value, outputs
        value, outputs = node.outputs[0], _apply_view(outputs, node)
    return None


def _same(bias: Use, outputs: np.ndarray, size: int) -> bool:
    """Whether entry j of the bias is added only to output j of the matrix, for every j."""
    own: Any = bias.views[0].shapes[0] if bias.views else bias.node.shapes[bias.position]
    if own.size != size:
        return False
    entries = np.arange(size).reshape(own.shape)
    for view in bias.views:
        entries = _apply_view(entries, view)
    shape = bias.node.results[0].shape
    return np.array_equal(np.broadcast_to(entries, shape), np.broadcast_to(outputs, shape))


def _apply_view(array: np.ndarray, view: Node) -> np.ndarray:
    """Applies a change of shape to a NumPy array."""
    params = view.equation.params
    match view.name:
        case "broadcast_in_dim":
            shape = [1] * len(params["shape"])
            for axis, length in zip(params["broadcast_dimensions"], array.shape, strict=True):
                shape[axis] = length
            return np.broadcast_to(array.reshape(shape), params["shape"])
        case "reshape":
            return array.reshape(params["new_sizes"])
        case "squeeze":
            return np.squeeze(array, tuple(params["dimensions"]))
        case "transpose":
            return np.transpose(array, params["permutation"])
        case _:
            return array
