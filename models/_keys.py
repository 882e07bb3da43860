import jax
from jaxtyping import PRNGKeyArray


def split(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray | None]:
    """`num` keys; `num` times None if `key` is None, as a model without dropout needs no keys."""
    return [None] * num if key is None else list(jax.random.split(key, num))
