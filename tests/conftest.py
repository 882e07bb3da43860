import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jaxlib import version

# Tracing makes many objects and few cycles: Python need not look for these so often.
gc.set_threshold(50_000, 20, 50)

# Most programs here run once, on a handful of numbers. These options compile them in less than half
# the time: without the fusion emitters, and each program as one piece instead of many in parallel.
# Later versions do not have the first, and XLA aborts on an option that it does not have.
if version.__version__ == "0.10.2":
    _options = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_options}".strip()

# A program is compiled once for all tests: in this process, in those of pytest-xdist, which start
# with this environment, and in those that a test starts. Whoever has set a folder keeps it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="curvature-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# JAX may have been imported by a plugin before, and has read its environment then.
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Tests of several devices have as many processors as they like; all others are on the first.
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
jax.config.update("jax_num_cpu_devices", 8)

# A product in a dtype, or between ranks, that nobody asked for is an error here.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Nor would optimising them pay. What runs in a process of its own is optimised as it is in use.
jax.config.update("jax_disable_most_optimizations", True)


# Compiled programs are memory maps, of which Linux allows a process 65,530: beyond them, XLA
# aborts. So many may be there at the end of a file: then all programs are dropped.
_MOST_MAPS = 20_000
_MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
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
