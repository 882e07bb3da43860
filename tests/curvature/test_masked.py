"""Masked positions have no effect, for any outputs and targets at these positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import dense
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("x64")

NAN = np.nan
MASK = np.asarray([True, False, True])
ENTRIES = np.asarray([[True, False], [False, False], [True, True]])
SOFT = [[0.2, 0.8], [NAN, 7.0], [1.0, 0.0]]
ADVANTAGES = np.asarray([0.5, NAN, -2.0])


class Weighted(dense.Distribution):
    """The loss of a policy, −A log π; its outcomes are not needed here."""

    def nll(self, z, y):
        return y[1] * dense.Categorical().nll(z, y[0])

    outcomes = kl = squared_hellinger = None


# Likelihood, its definition, a target with invalid entries where it is masked, and the mask. The
# likelihood is a function, so that the test makes it with x64 enabled.
CASES = {
    "labels": (cv.Categorical, dense.Categorical(), np.asarray([1, -100, 0]), MASK),
    "probabilities": (cv.Categorical, dense.Categorical(), np.asarray(SOFT), MASK),
    "bernoulli": (cv.Bernoulli, dense.Bernoulli(), np.asarray(SOFT), ENTRIES),
    "bernoulli_rows": (cv.Bernoulli, dense.Bernoulli(), np.asarray(SOFT), MASK),
    "gaussian": (lambda: cv.Gaussian(0.7), dense.Gaussian(0.7), np.asarray(SOFT), ENTRIES),
    "policy": (
        lambda: cv.PolicyGradient(cv.Categorical()),
        Weighted(),
        (np.asarray([1, 9, 0]), ADVANTAGES),
        MASK,
    ),
}


def outputs(mask, seed=0, fill=NAN):
    z = np.random.default_rng(seed).normal(size=(3, 2))
    return jnp.asarray(np.where(mask.reshape(mask.shape + (1,) * (2 - mask.ndim)), z, fill))


def of_positions(function, mask, *arguments):
    """The sum of `function` over the positions that the mask selects."""
    positions = [tuple(index) for index in np.argwhere(mask)]
    pick = [jax.tree.map(lambda leaf, p=p: leaf[p], arguments) for p in positions]
    return sum(function(*(jnp.asarray(a) if hasattr(a, "shape") else a for a in p)) for p in pick)


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradient_are_those_of_the_unmasked_positions(name):
    make, distribution, target, mask = CASES[name]
    likelihood = make()
    z, y = outputs(mask), (jax.tree.map(jnp.asarray, target), jnp.asarray(mask))
    value, grad = jax.jit(jax.value_and_grad(cv.Masked(likelihood).nll))(z, y)
    clean = outputs(mask, fill=0.0)
    expected, expected_grad = jax.jit(
        jax.value_and_grad(lambda z: of_positions(distribution.nll, mask, z, target))
    )(clean)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-14)
    assert np.all(np.asarray(grad)[np.isnan(z)] == 0)


OF_LIKELIHOODS = [name for name in CASES if name != "policy"]


@pytest.mark.parametrize("name", slow_but(["labels", "bernoulli"], OF_LIKELIHOODS))
def test_metrics_and_coefficients_are_those_of_the_unmasked_positions(name):
    """`unmasked` gives D M D, D S and S ρ = ∇f, where D is the diagonal matrix of the mask."""
    make, distribution, target, mask = CASES[name]
    likelihood, y = make(), (jnp.asarray(target), jnp.asarray(mask))

    @jax.jit
    def numbers(z, z2):
        example, other = (cv.Masked(likelihood).unmasked(a, y) for a in (z, z2))
        S = example.restrict(example.likelihood.thin_fisher_factor(example.z))
        rho = example.likelihood.fisher_coefficients(example.z, example.y).values
        t = example.likelihood.sample(example.z, key=jax.random.key(0))
        return {
            "matrix": S.as_matrix(),
            "square": jax.vmap(S.square_mv)(jnp.eye(z.size)),
            "rho": rho,
            "gradient": S.mv(rho),
            "kl": example.likelihood.kl(example.z, other.z),
            "sampled loss": cv.Masked(likelihood).nll(z, (t, y[1])),
        }

    @jax.jit
    def expected(z, z2):
        return {
            "metric": jax.hessian(lambda w: of_positions(distribution.kl, mask, z, w))(z),
            "gradient": jax.grad(lambda z: of_positions(distribution.nll, mask, z, target))(z),
            "kl": of_positions(distribution.kl, mask, z, z2),
        }

    found = numbers(outputs(mask), outputs(mask, seed=1))
    right = expected(outputs(mask, fill=0.0), outputs(mask, seed=1, fill=0.0))
    M = right["metric"].reshape(6, 6)
    np.testing.assert_allclose(found["matrix"] @ found["matrix"].T, M, atol=1e-14)
    np.testing.assert_allclose(found["square"], M, atol=1e-14)
    np.testing.assert_allclose(found["gradient"], right["gradient"].ravel(), atol=1e-14)
    np.testing.assert_allclose(found["kl"], right["kl"], rtol=1e-12)
    assert np.isfinite(found["rho"]).all()
    assert np.isfinite(found["sampled loss"])


def test_a_mask_that_hides_everything_gives_zeros():
    y, loss = (jnp.asarray([-1, 7, 99]), jnp.zeros(3, bool)), cv.Masked(cv.Categorical())

    @jax.jit
    def numbers(z):
        example = loss.unmasked(z, y)
        S = example.restrict(example.likelihood.fisher_factor(example.z))
        return jax.value_and_grad(loss.nll)(z, y), S.as_matrix(), loss.in_domain(z, y)

    *zeros, in_domain = numbers(np.full((3, 2), NAN))
    assert not any(np.any(number) for number in jax.tree.leaves(zeros))
    assert in_domain


def test_one_position_may_be_the_whole_example():
    masked = jax.jit(cv.Masked(cv.Categorical()).nll)
    z, expected = np.asarray([1.0, 2.0]), np.log(1 + np.exp(-1.0))
    for counts in (True, False):
        found = masked(z, (jnp.asarray(1), jnp.asarray(counts)))
        np.testing.assert_allclose(found, counts * expected, rtol=1e-15)


def test_the_domain_is_that_of_the_positions_that_count():
    loss, labels = cv.Masked(cv.Categorical()), np.asarray([[0, -100, 1], [0, 2, 2]])
    masks = np.stack([MASK, MASK])
    z = jnp.asarray(Z)
    both = jax.jit(jax.vmap(lambda y: (loss.in_domain(z, y), jnp.isnan(loss.nll(z, y)))))
    in_domain, is_nan = both((labels, masks))
    assert in_domain.tolist() == [True, False]
    assert is_nan.tolist() == [False, True]
    with pytest.raises(ValueError, match=r"`Masked` needs labels from 0 to 1 .* where its mask is"):
        loss.check_targets((3, 2), (labels, masks))
    loss.check_targets((3, 2), (labels[:1], masks[:1]))


def test_metrics_are_over_the_positions_that_count():
    (metric,) = cv.Masked(cv.Categorical()).metrics()
    z = jnp.asarray([[2.0, 1.0], [5.0, 0.0], [0.0, 1.0]])
    y = jnp.asarray([0, 1, 0]), jnp.asarray(MASK)
    assert metric.name == "accuracy"
    assert (metric.example(z, y), metric.weight(z, y)) == (1, 2)


Z, LABELS = np.zeros((3, 2)), np.zeros(3, int)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("y", "said"),
    [
        (LABELS, r"takes a pair \(target, mask\).*got one array"),
        ((LABELS, np.ones(3)), r"takes a boolean mask, got float64"),
        ((LABELS, np.ones(2, bool)), r"mask over the leading axes .* \(3, 2\), a target"),
        ((LABELS, np.ones((3, 2), bool)), r"mask over the leading axes .* \(3, 2\), a target"),
        ((np.full((3, 2), 0.5), np.ones((3, 2), bool)), r"one logit per class"),
    ],
)
def test_a_target_without_a_valid_mask_is_refused(y, said):
    with pytest.raises(ValueError, match=said):
        cv.Masked(cv.Categorical()).nll(jnp.asarray(Z), jax.tree.map(jnp.asarray, y))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("inner", [cv.Masked(cv.Categorical()), 3])
def test_a_second_mask_or_an_object_that_is_no_likelihood_is_refused(inner):
    with pytest.raises(ValueError, match=r"`Masked\(likelihood\)` takes a likelihood with"):
        cv.Masked(inner)


def test_the_likelihoods_have_no_mask():
    z, y = jnp.zeros(3), jnp.asarray(1)
    example, S = cv.Categorical().unmasked(z, y), cv.Categorical().fisher_factor(z)
    assert example.mask is None
    assert example.z is z
    assert example.restrict(S) is S
