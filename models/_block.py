import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ._checks import integer, probability
from ._dense import Dense
from ._keys import split


class Block(eqx.Module):
    """One block of a transformer: attention between the tokens, then a perceptron on each token.

    The inputs of the attention and of the perceptron are normalised (Xiong et al., *On layer
    normalization in the transformer architecture*, 2020).
    """

    attention_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    perceptron_norm: eqx.nn.LayerNorm
    perceptron: Dense
    dropout: eqx.nn.Dropout

    def __init__(self, width: int, heads: int, dropout: float, *, key: PRNGKeyArray):
        attention_key, perceptron_key = jax.random.split(key)
        self.attention_norm = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(
            heads, width, dropout_p=dropout, key=attention_key
        )
        self.perceptron_norm = eqx.nn.LayerNorm(width)
        # Four times as wide inside, as in Vaswani et al. 2017.
        self.perceptron = Dense(
            [width, 4 * width, width], activation=jax.nn.gelu, key=perceptron_key
        )
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(
        self,
        tokens: Float[Array, "tokens width"],
        *,
        mask: Bool[Array, "tokens tokens"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens width"]:
        """The tokens after the block; token i attends to token j where `mask[i, j]` is true."""
        attention_key, attended_key, passed_key = split(key, 3)
        normed = jax.vmap(self.attention_norm)(tokens)
        attended = self.attention(normed, normed, normed, mask=mask, key=attention_key)
        tokens = tokens + self.dropout(attended, key=attended_key)
        passed = jax.vmap(self.perceptron)(jax.vmap(self.perceptron_norm)(tokens))
        return tokens + self.dropout(passed, key=passed_key)


def check_blocks(model: str, *, width: int, depth: int, heads: int, dropout: float) -> None:
    """Raise unless `model` can be made of `depth` blocks of these sizes.

    **Raises:** `ValueError` for a size or a probability out of range.
    """
    integer(f"{model}(width=...)", width)
    integer(f"{model}(depth=...)", depth)
    integer(f"{model}(heads=...)", heads)
    probability(f"{model}(dropout=...)", dropout)
    if width % heads:
        raise ValueError(
            f"`{model}(heads=...)` must divide `width`, got {heads} heads and a width of {width}."
        )
