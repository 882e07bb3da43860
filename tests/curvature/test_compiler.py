"""Sums are right: jaxlib 0.10.2 has some that are not, unless it is told how to make them."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib import version
from jaxtyping import Array

from curvature import _compiler

OPTION = "--xla_cpu_experimental_ynn_fusion_type"
AFFECTED = pytest.mark.skipif(version.__version__ != "0.10.2", reason="this jaxlib sums correctly")


def test_pullbacks_together_are_those_one_by_one():
    """Through a layer normalisation at eight positions of 96 examples, nine columns at a time."""
    norm = eqx.nn.LayerNorm(32)
    x_key, c_key = jax.random.split(jax.random.key(0))
    x, cotangents = jax.random.normal(x_key, (96, 8, 32)), jax.random.normal(c_key, (9, 96, 32))

    @jax.jit
    def pullbacks(x: Array, cotangents: Array) -> Array:
        outputs = jax.vmap(lambda example: jnp.mean(jax.vmap(norm)(example), axis=0))
        return jax.vmap(lambda c: jax.vjp(outputs, x)[1](c)[0])(cotangents)

    one_by_one = [pullbacks(x, cotangents[i : i + 1])[0] for i in range(9)]
    np.testing.assert_allclose(pullbacks(x, cotangents), np.stack(one_by_one), atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_sums_of_many_rows_over_products():
    """Each row (i, 0, 0) has the squared norm i²: exactly, in float64."""
    rows = jnp.eye(3)[:1] * jnp.arange(20_000.0)[:, None]
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
    np.testing.assert_array_equal(squares, np.arange(20_000.0) ** 2)


@AFFECTED
def test_says_so_where_it_is_too_late(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    jax.block_until_ready(jnp.zeros(()))
    with pytest.warns(UserWarning, match="import `curvature` first"):
        _compiler.sum_correctly()


@AFFECTED
@pytest.mark.parametrize(
    ("given", "made"),
    [
        (f"{OPTION}=dot", f"{OPTION}=dot"),
        ("--xla_cpu_multi_thread_eigen=true", f"--xla_cpu_multi_thread_eigen=true {OPTION}="),
    ],
)
def test_adds_to_the_options_and_obeys_who_has_set_this_one(monkeypatch, given: str, made: str):
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    _compiler.sum_correctly()
    assert os.environ["XLA_FLAGS"] == made
