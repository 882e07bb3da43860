"""One term's computation, listened to at the operations that take its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from ..linearisation import LinearisedTerm
from .graph import Graph, Node
from .recognition import AbstractMatrixUse, Use, recognise


@dataclass(frozen=True)
class Seen:
    """What one term has to say about one weight, for all its examples.

    - `use`: where the weight is taken.
    - `operands`: the other arguments of that operation, leading axis n.
    - `deltas`: the cotangents of its result for the columns of S; `image`: that for the
      cotangents to project, or None.
    """

    use: Use
    operands: list[Any]
    deltas: Float[Array, "r n ..."]
    image: Float[Array, "n ..."] | None

    def inputs(self) -> Float[Array, "n positions in"]:
        """The vectors that a matrix is multiplied by."""
        return jax.vmap(self._matrix.inputs)(self.operands)

    def cotangents(self) -> Float[Array, "r n positions out"]:
        """The cotangents of a matrix's products with them, for the columns of S."""
        return jax.vmap(jax.vmap(self._matrix.cotangents))(self.deltas)

    def image_cotangents(self) -> Float[Array, "n positions out"] | None:
        """And for the cotangents to project."""
        return None if self.image is None else jax.vmap(self._matrix.cotangents)(self.image)

    def rows(self, weight: Array) -> Float[Array, "r n p"]:
        """The weight's part of the rows, ravelled as the weight is."""
        if isinstance(self.use, AbstractMatrixUse):
            axes = "rnto,nti->rnio" if self.use.transposed else "rnto,nti->rnoi"
            matrices = jnp.einsum(axes, self.cotangents(), self.inputs())
            return matrices.reshape(*matrices.shape[:2], -1)

        def one(deltas: Array, operands: list[Any]) -> Array:
            _, pullback = jax.vjp(lambda w: self.use.apply(w, operands), weight)
            return jax.vmap(lambda delta: pullback(delta)[0].ravel())(deltas)

        return jax.vmap(one, in_axes=(1, 0), out_axes=1)(self.deltas, self.operands)

    @property
    def _matrix(self) -> AbstractMatrixUse:
        assert isinstance(self.use, AbstractMatrixUse)
        return self.use


class Tapped:
    """The outputs of one term as a graph, to be run with taps at the operations of interest.

    `uses` has an entry per trainable weight, see `recognise`.
    """

    def __init__(self, term: LinearisedTerm, params: PyTree[Array]):
        self._term, self._params = term, params
        example = jtu.tree_map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (term.inputs, term.keys)
        )
        self._graph = Graph(lambda params, x: term.example(params, *x), params, example)
        count = len(jtu.tree_leaves(params))
        self.uses = [recognise(self._graph, value) for value in self._graph.inputs[:count]]

    def operations(self) -> int:
        """About how many floating-point operations one example's outputs take."""
        return self._graph.operations

    def run(
        self,
        columns: Float[Array, "r n *shape"],
        cotangent: Float[Array, "n *shape"] | None,
        wanted: Sequence[int],
    ) -> dict[int, Seen]:
        """What there is to know of the wanted weights, for one forward and r (+ 1) backward passes.

        **Arguments:** `columns` and `cotangent`, cotangents of the outputs;
        `wanted`, the numbers of weights, of which those without a `Use` are passed over.
        """
        uses = {j: use for j in wanted if isinstance(use := self.uses[j], Use)}
        if not uses:
            return {}
        nodes = list(dict.fromkeys(use.node for use in uses.values()))

        def tapped(taps: list[Array], example: Any) -> tuple[Array, dict[int, list[Any]]]:
            operands: dict[int, list[Any]] = {}

            def visit(node: Node, taken: list[Any], made: list[Any]) -> list[Any]:
                for j, use in uses.items():
                    if use.node is node:
                        operands[j] = use.others([jnp.asarray(x) for x in taken])
                return [made[0] + taps[nodes.index(node)]] if node in nodes else made

            leaves = [*jtu.tree_leaves(self._params), *jtu.tree_leaves(example)]
            return self._graph.evaluate(leaves, visit), operands

        n = columns.shape[1]
        results = [node.results[0] for node in nodes]
        # XLA drops the zeros, and finds that this forward pass is the linearisation's own.
        zeros = [jnp.zeros((n, *result.shape), result.dtype) for result in results]
        examples = (self._term.inputs, self._term.keys)
        _, pullback, operands = jax.vjp(
            lambda taps: jax.vmap(tapped)(taps, examples), zeros, has_aux=True
        )
        r = len(columns)
        if cotangent is not None:
            columns = jnp.concatenate([columns, cotangent[None]])
        deltas = jax.vmap(lambda column: pullback(column)[0])(columns)
        at = {j: deltas[nodes.index(use.node)] for j, use in uses.items()}
        return {
            j: Seen(use, operands[j], at[j][:r], None if cotangent is None else at[j][r])
            for j, use in uses.items()
        }
