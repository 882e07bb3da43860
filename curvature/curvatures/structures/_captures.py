"""The inputs of the layers for a batch, and the cotangents of their outputs."""

from collections.abc import Sequence
from typing import TypeAlias

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from ..._trees import work_dtype
from ...layers import Captured, MatrixLayer, capture
from ...linearisation import AbstractLinearisation, AbstractPartResults, LinearisedTerm
from ...rows import LowerBlocks, columns_of, sum_over_chunks
from ._slices import per_slice
from ._tokens import TokenCapture

# About this many bytes of rows are held at a time, but at least the rows of one example.
_CHUNK_BYTES = 2**26


class LayerCapture(eqx.Module):
    """One layer y = W a + b in one term, with its L slices (L = 1 if it has none).

    The rows of the layer are Σ_t Δ_ikt ā_itᵀ, with ā = [a, 1] for a layer with a bias, else ā = a.

    - `inputs`: ā, for example i and position t.
    - `cotangents`: Δ, for column k of S, with the factor √scale_i.
    - `shares`: scale_i divided by its sum over the batch.
    - `of_loss`: the cotangents of the loss, with the factor scale_i; None if not requested.
    """

    inputs: Float[Array, "L n t in"]
    cotangents: Float[Array, "L k n t out"]
    shares: Float[Array, " n"]
    of_loss: Float[Array, "L n t out"] | None = None

    def rotated(
        self, left: Float[Array, "L out out"], right: Float[Array, "L in in"] | None
    ) -> "LayerCapture":
        """The same capture in the bases U of the outputs and V of the inputs."""
        assert right is not None
        return LayerCapture(
            per_slice(jnp.matmul, self.inputs, right),
            per_slice(jnp.matmul, self.cotangents, left),
            self.shares,
        )

    def squares(self) -> Float[Array, "L out in"]:
        """Σ_ik (Σ_t Δ_ikt ā_itᵀ)², entry by entry: the diagonal of the layer's block."""
        return per_slice(_squares, self.inputs, self.cotangents)

    def reduced(self) -> "LayerCapture":
        """A capture with one position: the mean of the inputs and the sum of the cotangents."""
        return LayerCapture(
            jnp.mean(self.inputs, axis=2, keepdims=True),
            jnp.sum(self.cotangents, axis=3, keepdims=True),
            self.shares,
        )

    def inputs_moment(self) -> LowerBlocks:
        """A = Σ_it v_i ā āᵀ/t for each of the L slices, with the shares v_i."""
        L, n, t, width = self.inputs.shape
        weighted = (self.inputs * (self.shares / t)[None, :, None, None]).reshape(L, n * t, width)
        return per_slice(LowerBlocks.moment, self.inputs.reshape(L, n * t, width), weighted)


# The capture of a layer with computed inputs, or of a table whose columns are looked up.
Capture: TypeAlias = LayerCapture | TokenCapture


def _squares(
    inputs: Float[Array, "n t in"], cotangents: Float[Array, "k n t out"]
) -> Float[Array, "out in"]:
    if inputs.shape[1] == 1:
        return jnp.einsum("kno,ni->oi", cotangents[:, :, 0] ** 2, inputs[:, 0] ** 2)

    def of_some(examples: tuple[Array, Array]) -> Array:
        a, delta = examples
        return jnp.sum(jnp.einsum("nkto,nti->nkoi", delta, a) ** 2, axis=(0, 1))

    k, n, _, out = cotangents.shape
    chunk = max(1, _CHUNK_BYTES // (k * out * inputs.shape[-1] * inputs.dtype.itemsize))
    examples = inputs, jnp.swapaxes(cotangents, 0, 1)
    return sum_over_chunks(of_some, examples, n, min(chunk, n))


def captures_of_parts(
    linearisation: AbstractLinearisation,
    factors: Sequence[lx.AbstractLinearOperator],
    layers: Sequence[MatrixLayer],
) -> AbstractPartResults:
    """The captures of the batch, part by part; one part is held in memory at a time."""
    return linearisation.each(lambda part, S: captures_of(part, S, layers), factors)


def captures_of(
    linearisation: AbstractLinearisation,
    factors: Sequence[lx.AbstractLinearOperator],
    layers: Sequence[MatrixLayer],
    *,
    of_loss: bool = False,
) -> list[list[Capture]]:
    """The captures of every layer, one for each term that uses it.

    This takes one forward and k backward passes. The captures of all examples of the linearisation
    are held in memory at once.

    **Arguments:** `of_loss`, whether to compute the cotangents of the loss, too, for one more
    backward pass.
    """
    wanted = [layer.weight for layer in layers]
    found: list[list[Capture]] = [[] for _ in layers]
    columns = columns_of(linearisation, factors)
    parts = zip(linearisation.terms, columns, linearisation.cotangents, strict=True)
    for term, of_term, cotangents in parts:
        captured = capture(
            term.layers,
            linearisation.params,
            term.examples,
            term.closed_over,
            of_term,
            cotangents if of_loss else None,
            wanted,
        )
        for layer, of_layer in zip(layers, found, strict=True):
            if captured[layer.weight]:
                of_layer.append(_join_uses(captured[layer.weight], layer, term))
    return found


def squares_of(captures: Sequence[Sequence[Capture]]) -> list[Float[Array, "_L _out _in"]]:
    """The diagonal of every layer's block, summed over its terms."""
    found = []
    for of_layer in captures:
        squares = [of_term.squares() for of_term in of_layer]
        found.append(sum(squares[1:], squares[0]))
    return found


def _join_uses(uses: Sequence[Captured], layer: MatrixLayer, term: LinearisedTerm) -> Capture:
    """All uses of a weight in one term, concatenated along the axis of positions."""
    deltas = jnp.concatenate([use.cotangents() for use in uses], axis=3)
    if layer.vocabulary is not None:
        dtype = work_dtype(deltas)
        tokens = jnp.concatenate([use.tokens() for use in uses], axis=2)
        found = jnp.moveaxis(tokens, 1, 0), jnp.moveaxis(deltas.astype(dtype), 2, 0)
        return TokenCapture(*found, term.shares.astype(dtype), layer.vocabulary)
    inputs = jnp.concatenate([use.inputs() for use in uses], axis=2)
    dtype = work_dtype(inputs, deltas)
    if layer.bias is not None:
        inputs = jnp.concatenate([inputs, jnp.ones_like(inputs[..., :1])], axis=-1)
    found = jnp.moveaxis(inputs.astype(dtype), 1, 0), jnp.moveaxis(deltas.astype(dtype), 2, 0)
    images = [image for use in uses if (image := use.image_cotangents()) is not None]
    of_loss = None
    if images:
        of_loss = jnp.moveaxis(jnp.concatenate(images, axis=2).astype(dtype), 1, 0)
    return LayerCapture(*found, term.shares.astype(dtype), of_loss)
