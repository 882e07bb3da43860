import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class TokenRows(eqx.Module):
    """The rows Σ_t e_v Δ_iktᵀ, v = token_it, of a table, for column k and example i.

    The rows are ordered by column, then by example. Each has the shape of the table,
    [vocabulary, out], and at most one nonzero vector [out] per position. So neither the rows nor
    the unit vectors e_v are formed.

    - `tokens`: v; the value `vocabulary` means no row of the table.
    - `cotangents`: Δ.
    """

    tokens: Int[Array, "n t"]
    cotangents: Float[Array, "k n t out"]
    vocabulary: int = eqx.field(static=True)

    def mv(self, table: Float[Array, "vocabulary out"]) -> Float[Array, "k n"]:
        """The product of every row with a table."""
        # The token `vocabulary` is out of range and picks zeros.
        picked = table.at[self.tokens].get(mode="fill", fill_value=0)
        return jnp.einsum("knto,nto->kn", self.cotangents, picked)

    def transpose_mv(self, weights: Float[Array, "k n"]) -> Float[Array, "vocabulary out"]:
        """The weighted sum of the rows."""
        deltas = jnp.einsum("kn,knto->nto", weights, self.cotangents)
        return sum_by_token(self.tokens, deltas, self.vocabulary)

    def squares(self) -> Float[Array, "vocabulary out"]:
        """The sum of the squares of all rows, entry by entry."""
        tokens, squares = jax.vmap(_squares, in_axes=(0, 1))(self.tokens, self.cotangents)
        return sum_by_token(tokens, squares, self.vocabulary)

    def products(self, other: "TokenRows") -> Float[Array, "k n k2 n2"]:
        """The products of all a rows with all b rows of `other`, in O(a b t out) operations."""
        t, t2 = self.cotangents.shape[2], other.cotangents.shape[2]
        if t == t2 == 1:
            # The product of two rows is that of their cotangents if the tokens are equal, else 0.
            first, second = self.tokens, other.tokens.T
            equal = (first == second) & (first < self.vocabulary)
            found = jnp.einsum("kno,cmo->kncm", self.cotangents[:, :, 0], other.cotangents[:, :, 0])
            return jnp.where(equal[None, :, None, :], found, 0)

        def of_example(example: tuple[Array, Array]) -> Float[Array, "k n k2"]:
            """The products with the rows of one example, as a table of its own tokens alone."""
            tokens, cotangents = example
            # Maps a token to its first position in this example; t2 if it does not occur here.
            places = jnp.full(self.vocabulary, t2)
            places = places.at[tokens].min(jnp.arange(t2), mode="drop")
            own = places.at[tokens].get(mode="fill", fill_value=t2)
            table = sum_by_token(own, jnp.swapaxes(cotangents, 0, 1), t2)  # [t2, k2, out]
            here = places.at[self.tokens].get(mode="fill", fill_value=t2)
            picked = table.at[here].get(mode="fill", fill_value=0)  # [n, t, k2, out]
            return jnp.einsum("knto,ntco->knc", self.cotangents, picked)

        examples = other.tokens, jnp.swapaxes(other.cotangents, 0, 1)
        found = jax.lax.map(of_example, examples)  # [n2, k, n, k2]
        return jnp.moveaxis(found, 0, -1)


def sum_by_token(
    tokens: Int[Array, "*positions"], values: Float[Array, "..."], vocabulary: int
) -> Float[Array, "vocabulary ..."]:
    """For every token the sum of the values, [*positions, ...], at the token's positions.

    The token `vocabulary` is out of range; its values are dropped.
    """
    shape = values.shape[tokens.ndim :]
    return jnp.zeros((vocabulary, *shape), values.dtype).at[tokens].add(values, mode="drop")


def _squares(
    tokens: Int[Array, " t"], cotangents: Float[Array, "k t out"]
) -> tuple[Int[Array, " t"], Float[Array, "t out"]]:
    """Σ_k (Σ_t Δ_kt)² of one example, per token: the inner sum is over the token's positions.

    **Returns:** the tokens in order, and their sums. A token with s positions occurs s times, once
    with its sum and otherwise with zero.
    """
    ordered = jnp.sort(tokens)
    own = jnp.searchsorted(ordered, tokens)
    sums = sum_by_token(own, jnp.swapaxes(cotangents, 0, 1), len(tokens))  # [t, k, out]
    return ordered, jnp.sum(sums**2, axis=1)
