"""The workarounds for XLA: correct sums in jaxlib 0.10.2, and fast convolutions in loops."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxlib import version
from jaxtyping import Array

from curvature import _compiler

OPTION = "--xla_cpu_experimental_ynn_fusion_type"
AFFECTED = pytest.mark.skipif(version.__version__ != "0.10.2", reason="this jaxlib sums correctly")


def test_batched_pullbacks_are_those_one_by_one():
    """The function is a layer normalisation at 8 positions of 96 examples, with 9 cotangents.

    jaxlib 0.10.2 without the workaround gets this case wrong.
    """
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
def test_sums_over_the_squares_of_products_are_exact():
    """The squared norm of each row (i, 0, 0) is i², which is exact in float64."""
    rows = jnp.eye(3)[:1] * jnp.arange(20_000.0)[:, None]
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
    np.testing.assert_array_equal(squares, np.arange(20_000.0) ** 2)


@AFFECTED
def test_it_warns_if_jax_is_already_initialised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    jax.block_until_ready(jnp.zeros(()))
    with pytest.warns(UserWarning, match="Import `curvature` first"):
        _compiler.sum_correctly()


@AFFECTED
@pytest.mark.parametrize(
    ("given", "made"),
    [
        (f"{OPTION}=dot", f"{OPTION}=dot"),
        ("--xla_cpu_multi_thread_eigen=true", f"--xla_cpu_multi_thread_eigen=true {OPTION}="),
    ],
)
def test_it_adds_the_option_or_keeps_the_value_of_the_user(monkeypatch, given: str, made: str):
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    _compiler.sum_correctly()
    assert os.environ["XLA_FLAGS"] == made


def convolution(images: np.ndarray, kernel: np.ndarray, stride: int, groups: int) -> np.ndarray:
    """The convolution of [n, channels, ...] with [out, in, ...], without padding, in NumPy."""
    spatial = tuple(range(2, images.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[2:], spatial)
    windows = windows[
        (..., *[slice(None, None, stride)] * len(spatial), *[slice(None)] * len(spatial))
    ]
    letters = "xyz"[: len(spatial)]
    parts = zip(np.split(windows, groups, axis=1), np.split(kernel, groups), strict=True)
    axes = f"nc{letters}{letters.upper()},oc{letters.upper()}->no{letters}"
    return np.concatenate([np.einsum(axes, *part) for part in parts], axis=1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("ndim", "stride", "groups"), [(1, 1, 1), (2, 2, 1), (2, 1, 2), (3, 1, 1)])
def test_convolutions_and_their_derivatives_are_those_of_the_definition(
    ndim: int, stride: int, groups: int
):
    x_key, k_key, c_key = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(x_key, (3, 4, *[6, 5, 4][:ndim]))
    kernel = jax.random.normal(k_key, (6, 4 // groups, *[3, 2, 2][:ndim]))

    def convolved(images: Array, kernel: Array) -> Array:
        strides = [stride] * ndim
        return lax.conv_general_dilated(
            images, kernel, strides, "VALID", feature_group_count=groups
        )

    made, pullback = jax.vjp(convolved, images, kernel)
    expected = convolution(np.asarray(images), np.asarray(kernel), stride, groups)
    np.testing.assert_allclose(made, expected, rtol=1e-12, atol=1e-12)
    # A convolution is linear in each argument v: ⟨c, conv(v)⟩ = ⟨pullback(c), v⟩.
    cotangents = jax.random.normal(c_key, made.shape)
    by_images, by_kernel = pullback(cotangents)
    inner = np.vdot(cotangents, expected)
    np.testing.assert_allclose(jnp.vdot(by_images, images), inner, rtol=1e-12)
    np.testing.assert_allclose(jnp.vdot(by_kernel, kernel), inner, rtol=1e-12)


def test_loops_convolve_with_channels_last():
    """XLA itself transposes convolutions only outside of loops."""
    kernel = jnp.ones((4, 3, 3, 3))

    def loss(kernel: Array, images: Array) -> Array:
        return jnp.sum(lax.conv(images, kernel, (1, 1), "SAME") ** 2)

    def gradients(batches: Array) -> Array:
        return jax.lax.map(lambda images: jax.grad(loss)(kernel, images), batches)

    compiled = jax.jit(gradients).lower(jnp.ones((5, 2, 3, 8, 8))).compile()
    lines = [line for line in (compiled.as_text() or "").splitlines() if " convolution(" in line]
    assert lines
    assert all("dim_labels=b01f_01io->b01f" in line for line in lines), lines
