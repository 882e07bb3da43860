import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import muon

from training.rivals import matrix_axes

# With these coefficients the Newton–Schulz iteration converges; with Jordan's it does not.
CONVERGING = {"ns_coeffs": (1.875, -1.25, 0.375), "ns_steps": 15, "nesterov": False, "beta": 0.0}


def test_matrices_are_orthogonalised_with_the_outputs_as_rows(standard_promotion, gradients, steps):
    """The step is the polar factor times √max(1, outputs/inputs), times the learning rate."""
    axes = {"muon_weight_dimension_numbers": matrix_axes}
    found = steps(muon(0.1, **CONVERGING, **axes), gradients)
    for step, gradient in zip(found, gradients, strict=True):
        for name in ("matrix", "kernel"):
            dense = np.asarray(gradient[name]).reshape(len(gradient[name]), -1)
            left, _, right = np.linalg.svd(dense, full_matrices=False)
            rows, columns = dense.shape
            expected = -0.1 * max(1, rows / columns) ** 0.5 * left @ right
            np.testing.assert_allclose(step[name].reshape(dense.shape), expected, atol=1e-6)


def test_a_weight_that_is_no_matrix_gets_steps_of_nadam(standard_promotion, gradients, steps):
    axes = {"muon_weight_dimension_numbers": matrix_axes}
    found = steps(muon(0.1, adam_learning_rate=0.01, **axes), gradients)
    by_adam = steps(optax.nadam(0.01), gradients)
    for step, adam in zip(found, by_adam, strict=True):
        for name in ("vector", "bias"):
            np.testing.assert_allclose(step[name], adam[name], rtol=1e-9)


def test_a_matrix_has_at_least_two_rows_and_two_columns():
    shapes = {"one row": (1, 3), "one column": (3, 1), "matrix": (2, 3), "scalar": ()}
    axes = matrix_axes({name: jnp.zeros(shape) for name, shape in shapes.items()})
    assert [name for name, axis in axes.items() if axis is not None] == ["matrix"]
