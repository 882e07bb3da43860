import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training.rivals import soap


def test_with_identity_bases_it_is_adam(gradients, steps, request):
    """The first gradient only initialises the state, so Adam gets the gradients after it."""
    found = steps(soap(0.1, max_dim=1), gradients)
    request.getfixturevalue("standard_promotion")
    by_adam = steps(optax.adam(0.1, b1=0.95, b2=0.95), gradients[1:])
    for name in gradients[0]:
        assert not np.any(found[0][name])
        for step, adam in zip(found[1:], by_adam, strict=True):
            np.testing.assert_allclose(step[name], adam[name], rtol=1e-12)


@pytest.mark.parametrize("name", ["square", "kernel"])
@pytest.mark.parametrize("frequency", [1, 3])
def test_the_algorithm_of_the_paper(gradients, steps, name, frequency):
    """A convolution counts as a matrix: its axes after the outputs are one axis.

    Both matrices are square: otherwise one factor is singular, its eigenvectors are not unique, and
    neither is the step.
    """
    found = steps(soap(0.1, precondition_frequency=frequency), gradients)
    dense = [np.asarray(gradient[name]).reshape(len(gradient[name]), -1) for gradient in gradients]
    g = dense[0]
    left, right = 0.05 * g @ g.T, 0.05 * g.T @ g
    bases = [np.linalg.eigh(factor)[1][:, ::-1] for factor in (left, right)]
    m = v = np.zeros_like(g)
    for t, (step, g) in enumerate(zip(found[1:], dense[1:], strict=True), start=1):
        rotated = bases[0].T @ g @ bases[1]
        m, v = 0.95 * m + 0.05 * g, 0.95 * v + 0.05 * rotated**2
        mean = bases[0].T @ m @ bases[1] / (1 - 0.95**t)
        adam = mean / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        expected = -0.1 * bases[0] @ adam @ bases[1].T
        np.testing.assert_allclose(step[name].reshape(g.shape), expected, rtol=1e-6, atol=1e-9)
        left, right = 0.95 * left + 0.05 * g @ g.T, 0.95 * right + 0.05 * g.T @ g
        if t % frequency == 0:
            for axis, factor in enumerate((left, right)):
                basis = bases[axis]
                order = np.argsort(-np.diag(basis.T @ factor @ basis))
                v = np.take(v, order, axis=axis)
                bases[axis], _ = np.linalg.qr(factor @ basis[:, order])


def test_power_iterations_find_the_eigenbasis(x64):
    """The first gradient sets the bases; all gradients after it are equal."""
    rng = np.random.default_rng(1)
    rotation, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    first, then = (
        jnp.asarray(rotation * np.array(values)) for values in ([4, 3, 2, 1.0], [1, 2, 3, 4.0])
    )
    transformation = soap(0.1, precondition_frequency=1)
    update, state = jax.jit(transformation.update), transformation.init(first)
    for gradient in [first, *[then] * 100]:
        _, state = update(gradient, state)
    (moments,) = state[0].moments
    for side in moments.sides:
        inside = side.basis.T @ side.factor @ side.basis
        np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=1e-9)
        np.testing.assert_allclose(np.diag(inside), [16, 9, 4, 1], rtol=0.1)


@pytest.mark.parametrize(
    "arguments", [{"b1": 1.0}, {"b2": -0.1}, {"precondition_frequency": 2.5}, {"max_dim": 0}]
)
def test_values_out_of_range_are_refused(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=rf"`soap\({name}=...\)` must .* got {value}"):
        soap(0.1, **arguments)
