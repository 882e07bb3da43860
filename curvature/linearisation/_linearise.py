"""Makes a linearisation, of the whole batch at once or part by part."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar, Shaped

from .._trees import widen
from ..layers import recognise
from ..layers.graph import trace
from ..likelihoods import AbstractLoss
from ._base import AbstractLinearisation, LinearisedTerm
from .chunked import chunked
from .held import linearised


class Example(NamedTuple):
    """One term before its linearisation; the fields have the meaning of `LinearisedTerm`.

    `fn` is `(params, x, key) -> z`, the outputs of one example.
    """

    fn: Callable[[PyTree, Any, PRNGKeyArray | None], Array]
    likelihood: AbstractLoss
    scale: Float[Array, "*n"]
    inputs: PyTree[Array]
    targets: PyTree[Array]
    keys: Shaped[Array, "n ..."] | None


def linearise(
    examples: Sequence[Example],
    treedef: Any,
    params: PyTree[Array],
    l2: Scalar | None,
    constant: Scalar | None,
    micro_batch: int | None,
) -> AbstractLinearisation:
    """Linearises the outputs of all terms at `params`.

    **Arguments:** `treedef`, the tree structure of the terms in the batch; `micro_batch`, the most
    examples of a term that are held at once, None for all; the others as the fields of
    `AbstractLinearisation`.
    """
    dtypes = [leaf.dtype for leaf in jtu.tree_leaves(params)]
    wide = widen(params)
    terms = tuple(_traced(example, wide, dtypes) for example in examples)
    if micro_batch is None or all(term.size <= micro_batch for term in terms):
        return linearised(terms, treedef, wide, l2, constant)
    return chunked(terms, treedef, wide, l2, constant, micro_batch)


def _traced(example: Example, params: PyTree[Array], dtypes: list[Any]) -> LinearisedTerm:
    """A term before its outputs are computed; `dtypes` are those of the model's own weights."""

    def one(params: PyTree, x: Any) -> Array:
        # The weights have been widened to float32 at least; the model runs in its own precision.
        leaves, treedef = jtu.tree_flatten(params)
        own = [leaf.astype(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
        return widen(example.fn(jtu.tree_unflatten(treedef, own), *x))

    of_one = jtu.tree_map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
        (example.inputs, example.keys),
    )
    computation, closed_over = trace(one, params, of_one)
    return LinearisedTerm(
        likelihood=example.likelihood,
        scale=example.scale,
        targets=example.targets,
        inputs=example.inputs,
        keys=example.keys,
        closed_over=closed_over,
        layers=recognise(computation),
    )
