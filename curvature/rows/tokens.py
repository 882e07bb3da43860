import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class TokenRows(eqx.Module):
    """The rows Σ_t e_v Δ_iktᵀ, v = token_it, of a table: for column k and example i.

    Their order is that of the columns, and for each of them of the examples. A row is shaped as the
    table, [vocabulary, out], and has no more entries than positions that are not zero: neither it
    nor a unit vector e_v is made.

    - `tokens`: v; `vocabulary` itself stands for no row of the table.
    - `cotangents`: Δ.
    """

    tokens: Int[Array, "n t"]
    cotangents: Float[Array, "k n t out"]
    vocabulary: int = eqx.field(static=True)

    def mv(self, table: Float[Array, "vocabulary out"]) -> Float[Array, "k n"]:
        """The product of every row with a table."""
        picked = table.at[self.tokens].get(mode="fill", fill_value=0)
        return jnp.einsum("knto,nto->kn", self.cotangents, picked)

    def transpose_mv(self, weights: Float[Array, "k n"]) -> Float[Array, "vocabulary out"]:
        """The sum of the rows with weights."""
        deltas = jnp.einsum("kn,knto->nto", weights, self.cotangents)
        return added_up(self.tokens, deltas, self.vocabulary)

    def squares(self) -> Float[Array, "vocabulary out"]:
        """The sum of the squares of all rows, entry by entry."""
        tokens, squares = jax.vmap(_squares, in_axes=(0, 1))(self.tokens, self.cotangents)
        return added_up(tokens, squares, self.vocabulary)

    def products(self, other: "TokenRows") -> Float[Array, "k n k2 n2"]:
        """The products of all rows with all of another: O(a b t out) operations."""
        t, t2 = self.cotangents.shape[2], other.cotangents.shape[2]
        if t == t2 == 1:
            # Where two tokens are equal, the product of the cotangents.
            first, second = self.tokens, other.tokens.T
            equal = (first == second) & (first < self.vocabulary)
            found = jnp.einsum("kno,cmo->kncm", self.cotangents[:, :, 0], other.cotangents[:, :, 0])
            return jnp.where(equal[None, :, None, :], found, 0)

        def of_example(example: tuple[Array, Array]) -> Float[Array, "k n k2"]:
            """With its rows in a table of its own tokens alone."""
            tokens, cotangents = example
            places = jnp.full(self.vocabulary, t2)
            places = places.at[tokens].min(jnp.arange(t2), mode="drop")
            own = places.at[tokens].get(mode="fill", fill_value=t2)
            table = added_up(own, jnp.swapaxes(cotangents, 0, 1), t2)  # [t2, k2, out]
            here = places.at[self.tokens].get(mode="fill", fill_value=t2)
            picked = table.at[here].get(mode="fill", fill_value=0)  # [n, t, k2, out]
            return jnp.einsum("knto,ntco->knc", self.cotangents, picked)

        examples = other.tokens, jnp.swapaxes(other.cotangents, 0, 1)
        found = jax.lax.map(of_example, examples)  # [n2, k, n, k2]
        return jnp.moveaxis(found, 0, -1)


def added_up(
    tokens: Int[Array, "*positions"], values: Float[Array, "..."], vocabulary: int
) -> Float[Array, "vocabulary ..."]:
    """For every token the sum of the values at its positions, [*positions, ...]."""
    shape = values.shape[tokens.ndim :]
    return jnp.zeros((vocabulary, *shape), values.dtype).at[tokens].add(values, mode="drop")


def _squares(
    tokens: Int[Array, " t"], cotangents: Float[Array, "k t out"]
) -> tuple[Int[Array, " t"], Float[Array, "t out"]]:
    """Σ_k (Σ_t Δ_kt)² of one example, the inner sum over the positions of one token.

    **Returns:** the sums beside their tokens; a token at s positions is there s times, once with
    its sum and otherwise with zero.
    """
    ordered = jnp.sort(tokens)
    own = jnp.searchsorted(ordered, tokens)
    sums = added_up(own, jnp.swapaxes(cotangents, 0, 1), len(tokens))  # [t, k, out]
    return ordered, jnp.sum(sums**2, axis=1)
