"""The datasets of differential equations: their points in and on the cube, and their targets."""

import itertools

import jax
import numpy as np
import pytest

import data
from data import passes

# For each dataset: the numbers of interior, boundary and reference points, and the dimension.
CASES = {
    "poisson2d": (data.poisson2d, 900, 120, 200**2, 2),
    "heat": (data.heat, 900, 120, 200**2, 2),
    "poisson5d": (data.poisson5d, 3000, 500, 10_000, 5),
}


def solution(name, x):
    """The solution u*, without code of the datasets."""
    if name == "poisson2d":
        return np.sin(np.pi * x[:, 0]) * np.sin(np.pi * x[:, 1])
    if name == "heat":
        return np.exp(-(np.pi**2) / 4 * x[:, 0]) * np.sin(np.pi * x[:, 1])
    return sum(np.cos(np.pi * x[:, i]) for i in range(5))


def source(name, x):
    """The right-hand side of the equation."""
    factor = {"poisson2d": 2 * np.pi**2, "heat": 0.0, "poisson5d": np.pi**2}[name]
    return factor * solution(name, x)


@pytest.fixture(params=CASES)
def case(request):
    load, *sizes = CASES[request.param]
    return request.param, load, *sizes


def test_sizes_and_dtype(case):
    name, load, inside, boundary, points, dimension = case
    dataset = load(seed=0)
    assert dataset.name == name
    assert (dataset.input_shape, dataset.output_size) == ((dimension,), 1)
    assert (dataset.num_train, dataset.num_test) == (None, None)
    wanted = {"interior": inside, "boundary": boundary}
    for part, sizes in [(dataset.train, wanted), (dataset.test, wanted)]:
        assert {term: len(x) for term, (x, _) in part.items()} == sizes
    assert dataset.reference[0].shape == (points, dimension)
    for leaf in jax.tree.leaves((dataset.train, dataset.test, dataset.reference)):
        assert leaf.dtype == np.float64
        assert not leaf.flags.writeable
        assert np.isfinite(leaf).all()


def test_targets_are_the_source_inside_and_the_solution_elsewhere(case):
    name, load, *_ = case
    dataset = load(seed=3)
    for part in (dataset.train, dataset.test):
        x, f = part["interior"]
        assert ((x > 0) & (x < 1)).all()
        np.testing.assert_allclose(f[:, 0], source(name, x), rtol=1e-12)
        x, u = part["boundary"]
        np.testing.assert_allclose(u[:, 0], solution(name, x), rtol=1e-12, atol=1e-15)
    x, u = dataset.reference
    np.testing.assert_allclose(u[:, 0], solution(name, x), rtol=1e-12, atol=1e-15)


def counts(x):
    """The number of points on each side, by (coordinate, end)."""
    return {(i, end): int((x[:, i] == end).sum()) for i in range(x.shape[1]) for end in (0, 1)}


def test_every_side_of_the_square_has_the_same_number_of_points():
    x, _ = data.poisson2d(seed=1).train["boundary"]
    assert set(counts(x).values()) == {30}


def test_the_rod_has_points_at_its_start_and_its_ends():
    x, _ = data.heat(seed=1).train["boundary"]
    assert counts(x) == {(0, 0): 60, (0, 1): 0, (1, 0): 30, (1, 1): 30}


def test_every_side_of_the_cube_has_about_the_same_number_of_points():
    x, _ = data.poisson5d(seed=1).train["boundary"]
    found = counts(x)
    assert sum(found.values()) == 500
    # Binomial(500, 1/10): five standard deviations.
    assert all(abs(count - 50) < 5 * np.sqrt(500 * 0.1 * 0.9) for count in found.values())


def test_training_points_depend_on_the_seed_and_test_points_do_not(case):
    _, load, *_ = case
    first, again, other = load(seed=0), load(seed=0), load(seed=1)

    def equal(a, b):
        return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b))))

    assert equal(first.train, again.train)
    assert equal((first.test, first.reference), (other.test, other.reference))
    for term in ("interior", "boundary"):
        assert not np.array_equal(first.train[term][0], other.train[term][0])
        assert not np.array_equal(first.train[term][0], first.test[term][0])


def test_resampled_points_change_every_few_steps(case):
    _, load, inside, *_ = case
    stream = load(seed=0, resample_every=3)
    assert (stream.num_train, stream.num_batches) == (None, 1)
    drawn = passes(stream, seed=9, batch_size=None, steps=0, place=None)
    taken = [each.batch["interior"][0] for each in itertools.islice(drawn, 7)]
    assert all(len(x) == inside for x in taken)
    same = [np.array_equal(one, other) for one, other in itertools.pairwise(taken)]
    assert same == [True, True, False, True, True, False]
    # No point is a test point, a point without resampling, or a point of another seed.
    others = [load(seed=0).train, stream.test, load(seed=1, resample_every=3).train.at(0)]
    for x in (taken[0], taken[3]):
        assert not any(np.isin(x, part["interior"][0]).any() for part in others)
    later = passes(stream, seed=9, batch_size=None, steps=5, place=None)
    np.testing.assert_array_equal(next(later).batch["interior"][0], taken[5])


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "often"])
def test_a_resampling_that_is_no_number_of_steps_is_refused(every):
    with pytest.raises(data.DatasetError, match="`resample_every` must be a positive number"):
        data.poisson2d(seed=0, resample_every=every)


def test_the_reference_is_a_grid_that_includes_the_boundary():
    x, _ = data.poisson2d(seed=0).reference
    np.testing.assert_allclose(np.unique(x[:, 0]), np.linspace(0, 1, 200), rtol=1e-15)
    assert len(np.unique(x, axis=0)) == 200**2
