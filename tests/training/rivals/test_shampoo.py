import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training.rivals import shampoo

PAPER = {"b1": 0.0, "decay": 1.0, "precondition_frequency": 1, "grafting": False}


def power(matrix, exponent):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**exponent) @ vectors.T


def matrices(gradients, name):
    return [np.asarray(gradient[name]).reshape(len(gradient[name]), -1) for gradient in gradients]


@pytest.mark.parametrize("name", ["matrix", "kernel"])
def test_the_algorithm_of_the_paper(standard_promotion, gradients, steps, name):
    """A convolution counts as a matrix: its axes after the outputs are one axis."""
    found = steps(shampoo(0.1, eps=1e-3, **PAPER), gradients)
    dense = matrices(gradients, name)
    left, right = 1e-3 * np.eye(dense[0].shape[0]), 1e-3 * np.eye(dense[0].shape[1])
    for step, g in zip(found, dense, strict=True):
        left, right = left + g @ g.T, right + g.T @ g
        expected = -0.1 * power(left, -0.25) @ g @ power(right, -0.25)
        np.testing.assert_allclose(step[name].reshape(g.shape), expected, rtol=1e-9)


def test_the_step_has_the_direction_of_shampoo_and_the_length_of_adam(
    standard_promotion, gradients, steps
):
    found = steps(shampoo(0.1, eps=1e-3, precondition_frequency=1), gradients)
    by_adam = steps(optax.adam(0.1), gradients)
    left, right, mean = np.zeros((5, 5)), np.zeros((3, 3)), np.zeros((5, 3))
    for t, (step, adam, g) in enumerate(
        zip(found, by_adam, matrices(gradients, "matrix"), strict=True), start=1
    ):
        left, right = 0.95 * left + 0.05 * g @ g.T, 0.95 * right + 0.05 * g.T @ g
        mean = 0.9 * mean + 0.1 * g
        roots = [
            power(factor / (1 - 0.95**t) + 1e-3 * np.eye(len(factor)), -0.25)
            for factor in (left, right)
        ]
        expected = -roots[0] @ mean @ roots[1]
        expected *= np.linalg.norm(adam["matrix"]) / np.linalg.norm(expected)
        np.testing.assert_allclose(step["matrix"], expected, rtol=1e-9)


def test_a_weight_that_is_no_matrix_gets_steps_of_adam(standard_promotion, gradients, steps):
    for step, adam in zip(
        steps(shampoo(0.1), gradients), steps(optax.adam(0.1), gradients), strict=True
    ):
        for name in ("vector", "bias"):
            np.testing.assert_allclose(step[name], adam[name], rtol=1e-12)


def test_a_side_that_is_too_large_keeps_the_identity(standard_promotion, gradients, steps):
    found = steps(shampoo(0.1, eps=1e-3, max_dim=4, **PAPER), gradients)
    right = 1e-3 * np.eye(3)
    for step, g in zip(found, matrices(gradients, "matrix"), strict=True):
        right = right + g.T @ g
        np.testing.assert_allclose(step["matrix"], -0.1 * g @ power(right, -0.5), rtol=1e-9)


def test_roots_are_kept_between_their_computations(standard_promotion, gradients, steps):
    lazy = steps(shampoo(0.1, eps=1e-3, **(PAPER | {"precondition_frequency": 3})), gradients)
    root = None
    for t, (step, g) in enumerate(zip(lazy, matrices(gradients, "matrix"), strict=True)):
        if t % 3 == 0:
            past = matrices(gradients[: t + 1], "matrix")
            left = 1e-3 * np.eye(5) + sum(g @ g.T for g in past)
            right = 1e-3 * np.eye(3) + sum(g.T @ g for g in past)
            root = power(left, -0.25), power(right, -0.25)
        np.testing.assert_allclose(step["matrix"], -0.1 * root[0] @ g @ root[1], rtol=1e-9)


def test_a_gradient_of_zero_gives_a_step_of_zero(standard_promotion):
    transformation, weight = shampoo(0.1), jnp.ones((3, 2))
    step, _ = transformation.update(jnp.zeros((3, 2)), transformation.init(weight), weight)
    assert not jax.device_get(step).any()


@pytest.mark.parametrize(
    "arguments", [{"b1": 1.0}, {"b2": -0.1}, {"decay": 1.5}, {"precondition_frequency": 0}]
)
def test_values_out_of_range_are_refused(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=rf"`shampoo\({name}=...\)` must .* got {value}"):
        shampoo(0.1, **arguments)
