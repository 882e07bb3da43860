from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

# A product in a dtype, or between ranks, that nobody asked for is an error here.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most programs here run once, on a handful of numbers: optimising them would not pay. What runs in
# a process of its own is compiled as it is in use.
jax.config.update("jax_disable_most_optimizations", True)


# Compiled programs are memory maps, of which Linux allows a process 65,530: beyond them, XLA
# aborts. So many may be there before a test's programs are dropped.
_MOST_MAPS = 20_000
_MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def few_programs() -> Iterator[None]:
    """Drop what was compiled when it has become too much for one process."""
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


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
