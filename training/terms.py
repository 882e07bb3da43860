"""The terms of an objective, and the data they score, by name."""

from typing import Any

import jax.tree_util as jtu
from jaxtyping import Array, PyTree

import curvature as cv


def terms(objective: cv.AbstractObjective) -> dict[str, cv.Term]:
    """The terms by name; the only term of an objective that names none is called `""`."""
    paths, _ = jtu.tree_flatten_with_path(objective.terms(), is_leaf=_is_term)
    return {jtu.keystr(path, simple=True, separator="/"): term for path, term in paths}


def examples(
    objective: cv.AbstractObjective, batch: PyTree[Array]
) -> dict[str, tuple[PyTree[Array], Any]]:
    """`(inputs, targets)`, with leading axis n, of each of `terms(objective)` in `batch`."""
    treedef = jtu.tree_structure(objective.terms(), is_leaf=_is_term)
    pairs = treedef.flatten_up_to(objective.examples(batch))
    return dict(zip(terms(objective), pairs, strict=True))


def _is_term(node: Any) -> bool:
    return isinstance(node, cv.Term)
