import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture
def gradients(x64):
    """Eight float64 gradients of two matrices, a vector, and a convolution with its bias."""
    rng = np.random.default_rng(0)
    shapes = {
        "matrix": (5, 3),
        "square": (4, 4),
        "vector": (4,),
        "kernel": (4, 1, 2, 2),
        "bias": (4, 1, 1),
    }
    return [
        {name: jnp.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}
        for _ in range(8)
    ]


@pytest.fixture
def steps():
    """`steps(transformation, gradients)` are the steps of a transformation on these gradients."""

    def all_steps(transformation, gradients):
        update, state = jax.jit(transformation.update), transformation.init(gradients[0])
        found = []
        for gradient in gradients:
            step, state = update(gradient, state, gradient)
            found.append(step)
        return found

    return all_steps
