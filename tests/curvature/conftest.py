from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compile() -> Iterator[None]:
    """For programs that run once, on a handful of numbers: optimising them would not pay."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Without the runtime shape checks, which would come before the sentence that a user gets."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
