from collections.abc import Iterator

import jax
import pytest

# A product in a dtype, or between ranks, that nobody asked for is an error here.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """NumPy's promotion for one test: optax multiplies floats by its integer step counts."""
    with jax.numpy_dtype_promotion("standard"):
        yield
