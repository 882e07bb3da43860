from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree


def modules_of(params: PyTree) -> list[tuple[int, ...]]:
    """The weights, grouped by their nearest enclosing `eqx.Module`.

    An array in no module is a group of its own.

    **Returns:** for each group the numbers of its leaves.
    """
    groups: dict[Any, list[int]] = {}
    for j, (path, _) in enumerate(jtu.tree_flatten_with_path(params)[0]):
        groups.setdefault(_owner(params, path), []).append(j)
    return [tuple(group) for group in groups.values()]


def _owner(params: PyTree, path: Sequence[Any]) -> tuple[Any, ...]:
    """The path of the nearest module around a leaf, or the leaf's own path if there is none."""
    nearest, node = None, params
    for depth, entry in enumerate(path):
        if isinstance(node, eqx.Module):
            nearest = depth
        node = _child(node, entry)
    return tuple(path if nearest is None else path[:nearest])


def _child(node: Any, entry: Any) -> Any:
    if isinstance(entry, jtu.GetAttrKey):
        return getattr(node, entry.name)
    if isinstance(entry, jtu.SequenceKey | jtu.FlattenedIndexKey):
        return node[entry.idx] if isinstance(entry, jtu.SequenceKey) else None
    return node[entry.key] if isinstance(entry, jtu.DictKey) else None
