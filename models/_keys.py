import jax
from jaxtyping import PRNGKeyArray


def split(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray | None]:
    """`num` keys, or as many times None where there is none: a model without dropout needs none."""
    return [None] * num if key is None else list(jax.random.split(key, num))
