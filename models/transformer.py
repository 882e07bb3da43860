import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._block import Block, check_blocks
from ._init import lecun
from ._keys import split


class TransformerEncoder(eqx.Module):
    """A small transformer encoder: the input's leading axis is the sequence, as an image's rows.

    Each token is embedded linearly, and a learned vector for its position is added. Then follow
    blocks of attention and a perceptron, with the normalisation before each (Xiong et al., *On
    layer normalization in the transformer architecture*, 2020). One linear layer is applied to the
    mean of the tokens.

    **Arguments:**

    - `input_shape`: `(tokens, ...)`; what follows the leading axis is one token, ravelled.
    - `output_size`: how many numbers come out.
    - `width`: the size of a token inside.
    - `depth`: how many blocks.
    - `heads`: attention heads per block; they divide `width`.
    - `dropout`: the probability with which an attention weight, and a number that a block adds to
        its tokens, is dropped in training.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a size or a probability out of range.
    """

    embedding: eqx.nn.Linear
    positions: Float[Array, "tokens width"]
    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int,
        *,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        check_blocks("TransformerEncoder", width=width, depth=depth, heads=heads, dropout=dropout)
        if not input_shape:
            raise ValueError(
                "`TransformerEncoder(input_shape=...)` must be (tokens, ...), got (): an input is "
                "one number. Use `MLP`."
            )
        tokens, *token_shape = input_shape
        embedding_key, positions_key, head_key, *keys = jax.random.split(key, 3 + depth)
        self.embedding = lecun(eqx.nn.Linear, math.prod(token_shape), width, key=embedding_key)
        # 0.3 is about the size of an embedded row of pixels; with 0.03, training starts far slower.
        self.positions = 0.3 * jax.random.normal(positions_key, (tokens, width))
        self.blocks = tuple(Block(width, heads, dropout, key=key) for key in keys)
        self.norm = eqx.nn.LayerNorm(width)
        self.head = lecun(eqx.nn.Linear, width, output_size, key=head_key)

    def __call__(
        self, x: Float[Array, "tokens ..."], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " output_size"]:
        """The outputs for one example; `key` is needed for dropout in training, and only then."""
        tokens = jax.vmap(self.embedding)(x.reshape(x.shape[0], -1)) + self.positions
        for block, block_key in zip(self.blocks, split(key, len(self.blocks)), strict=True):
            tokens = block(tokens, key=block_key)
        return self.head(jnp.mean(jax.vmap(self.norm)(tokens), axis=0))
