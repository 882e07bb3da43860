import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jaxlib import version

# Tracing creates many objects but few reference cycles, so rarer garbage collection saves time.
gc.set_threshold(50_000, 20, 50)

# Most programs of the tests run once, on small arrays, so most of the time is compilation. These
# options more than halve it: XLA does not use its fusion emitters, and it compiles each program as
# one piece, not as many in parallel. Later versions of XLA do not have the first option, and XLA
# aborts on an unknown option.
if version.__version__ == "0.10.2":
    _options = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_options}".strip()

# One cache on disk, so that each program is compiled only once for all tests. The processes of
# pytest-xdist and those that a test starts inherit this environment. A folder that is set already
# is kept.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="curvature-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# JAX reads the environment when it is imported, and a plugin of pytest may have imported it before.
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Eight CPU devices, for the tests of several devices; all other tests use only the first.
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
jax.config.update("jax_num_cpu_devices", 8)

# In the tests, an implicit promotion of dtypes or of ranks is an error.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most programs run once, so optimising them would cost more than it saves. This does not hold for
# processes that a test starts: they optimise as usual.
jax.config.update("jax_disable_most_optimizations", True)


# Each compiled program uses memory maps. Linux allows a process 65,530 of them, and XLA aborts if
# there are more. If a test file ends with more maps than this, all compiled programs are dropped.
_MOST_MAPS = 20_000
_MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """After each test file, drop all compiled programs if they use too many memory maps."""
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def x64() -> Iterator[None]:
    """Enable float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """Allow NumPy's promotion in one test: optax multiplies floats by its integer step counts."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Turns the runtime shape checks off for one test.

    A failed shape check would replace the error sentence that a user gets. The checks also double
    the time of a trace.
    """
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
