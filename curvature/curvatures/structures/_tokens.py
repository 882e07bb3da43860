"""The tokens that are looked up in a table, and the cotangents of the looked-up columns."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ...rows import TokenRows, sum_by_token
from ._slices import per_slice


class TokenCapture(eqx.Module):
    """One layer y = W e_v in one term, with its L slices: columns v of W are looked up.

    It corresponds to a `LayerCapture` whose inputs are unit vectors. The unit vectors are never
    formed.

    - `tokens`: v, for example i and position t; the value `vocabulary` means y = 0.
    - `cotangents`: Δ, for column k of S, with the factor √scale_i.
    - `shares`: scale_i divided by its sum over the batch.
    """

    tokens: Int[Array, "L n t"]
    cotangents: Float[Array, "L k n t out"]
    shares: Float[Array, " n"]
    vocabulary: int = eqx.field(static=True)

    def rotated(
        self, left: Float[Array, "L out out"], right: Float[Array, "L in in"] | None
    ) -> "TokenCapture":
        """The same capture in the basis U of the outputs; the inputs keep the standard basis."""
        assert right is None
        rotated = per_slice(jnp.matmul, self.cotangents, left)
        return TokenCapture(self.tokens, rotated, self.shares, self.vocabulary)

    def squares(self) -> Float[Array, "L out in"]:
        """Σ_ik (Σ_t Δ_ikt e_vᵀ)², entry by entry: the diagonal of the layer's block."""

        def of_slice(tokens: Array, cotangents: Array) -> Array:
            return TokenRows(tokens, cotangents, self.vocabulary).squares().T

        return per_slice(of_slice, self.tokens, self.cotangents)

    def reduced(self) -> "TokenCapture":
        """Returns `self`, as for *expand*: the moment of mean unit vectors is not diagonal."""
        return self

    def inputs_moment(self) -> Float[Array, "L in"]:
        """The diagonal of the diagonal matrix A = Σ_it v_i e_v e_vᵀ/t, with the shares v_i."""
        positions = self.tokens.shape[2]
        values = jnp.broadcast_to(self.shares[:, None] / positions, self.tokens.shape[1:])
        return jax.vmap(lambda tokens: sum_by_token(tokens, values, self.vocabulary))(self.tokens)
