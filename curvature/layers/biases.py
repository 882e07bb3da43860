"""Which bias belongs to which matrix, y = W a + b."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .graph import Node, Value
from .uses import VIEWS, AbstractProduct, Elementwise, Use


def partners(uses: Sequence[tuple[Use, ...] | None]) -> dict[int, int]:
    """The number of a bias → that of the matrix to whose products it is added, and to nothing else.

    At every position its j-th entry is added to the j-th entry of W a. Between the product and the
    sum there may be changes of shape, as a convolution and its bias have them.
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
    """The matrix's product where it enters its only sum, and which output each entry of it is."""
    value, shape = use.node.outputs[0], use.node.results[0].shape
    along = [1] * len(shape)
    along[use.out_axis] = shape[use.out_axis]
    outputs = np.broadcast_to(np.arange(shape[use.out_axis]).reshape(along), shape)
    while not use.graph.is_output(value):
        takers = use.graph.takers.get(value, [])
        if len(takers) != 1:
            return None
        ((node, _),) = takers
        if node.name not in VIEWS:
            return value, outputs
        value, outputs = node.outputs[0], _viewed(outputs, node)
    return None


def _same(bias: Use, outputs: np.ndarray, size: int) -> bool:
    """Whether every entry of the bias is added to the outputs of its own number alone."""
    own: Any = bias.views[0].shapes[0] if bias.views else bias.node.shapes[bias.position]
    if own.size != size:
        return False
    entries = np.arange(size).reshape(own.shape)
    for view in bias.views:
        entries = _viewed(entries, view)
    shape = bias.node.results[0].shape
    return np.array_equal(np.broadcast_to(entries, shape), np.broadcast_to(outputs, shape))


def _viewed(array: np.ndarray, view: Node) -> np.ndarray:
    """A change of shape, of an array of numbers."""
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
