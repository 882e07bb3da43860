from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._block import Block, check_blocks
from ._init import lecun
from ._keys import split


class TransformerDecoder(eqx.Module):
    """A small transformer decoder: for each token of a sequence, the logits of the next one.

    Each token is replaced by its embedding, and a learned vector for its position is added. Then
    follow blocks in which a token attends to itself and to the tokens before it, a normalisation,
    and one linear layer (Radford et al., *Language models are unsupervised multitask learners*,
    2019, §2.3).

    **Arguments:**

    - `input_shape`: `(context,)`; one example is `context` tokens, integers from 0 to
        `output_size` − 1.
    - `output_size`: the number of different tokens.
    - `width`: the size of a token inside.
    - `depth`: how many blocks.
    - `heads`: attention heads per block; they divide `width`.
    - `dropout`: the probability with which an attention weight, and a number that a block adds to
        its tokens, is dropped in training.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a size or a probability out of range.
    """

    embedding: eqx.nn.Embedding
    positions: Float[Array, "context width"]
    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        if len(input_shape) != 1:
            raise ValueError(
                "`TransformerDecoder(input_shape=...)` must be (context,), one integer per token, "
                f"got {tuple(input_shape)}. Use `TransformerEncoder` for tokens that are vectors."
            )
        check_blocks("TransformerDecoder", width=width, depth=depth, heads=heads, dropout=dropout)
        embedding_key, positions_key, head_key, *keys = jax.random.split(key, 3 + depth)
        # Entries of variance 1. This is LeCun's 1/fan_in: a look-up is a product with a one-hot
        # vector, of which one entry is not zero.
        self.embedding = eqx.nn.Embedding(output_size, width, key=embedding_key)
        self.positions = 0.3 * jax.random.normal(positions_key, (*input_shape, width))
        self.blocks = tuple(Block(width, heads, dropout, key=key) for key in keys)
        self.norm = eqx.nn.LayerNorm(width)
        self.head = lecun(eqx.nn.Linear, width, output_size, key=head_key)

    def __call__(
        self, x: Int[Array, " context"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "context output_size"]:
        """The logits for one example; `key` is needed for dropout in training, and only then."""
        tokens = jax.vmap(self.embedding)(x) + self.positions
        not_later = jnp.tril(jnp.ones((x.size, x.size), bool))
        for block, block_key in zip(self.blocks, split(key, len(self.blocks)), strict=True):
            tokens = block(tokens, mask=not_later, key=block_key)
        return jax.vmap(self.head)(jax.vmap(self.norm)(tokens))
