"""The batches of an epoch are cut from one permutation, and any batch can be recomputed."""

import numpy as np
import pytest

from data import batch_indices

SIZES = [(1, 1), (7, 1), (7, 3), (7, 7), (8, 4), (1437, 128)]


@pytest.mark.parametrize(("n", "batch_size"), SIZES)
def test_an_epoch_uses_each_example_at_most_once(n, batch_size):
    batches = batch_indices(3, 1, n, batch_size)
    assert batches.shape == (n // batch_size, batch_size)
    assert np.issubdtype(batches.dtype, np.integer)
    assert len(np.unique(batches)) == batches.size
    assert batches.min() >= 0
    assert batches.max() < n


@pytest.mark.parametrize(("n", "batch_size"), SIZES)
def test_batches_are_consecutive_pieces_of_one_permutation(n, batch_size):
    permutation = np.random.default_rng([3, 1]).permutation(n)
    for step, batch in enumerate(batch_indices(3, 1, n, batch_size)):
        np.testing.assert_array_equal(
            batch, permutation[step * batch_size : (step + 1) * batch_size]
        )


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    first = batch_indices(0, 1, 100, 10)
    np.testing.assert_array_equal(first, batch_indices(0, 1, 100, 10))
    np.testing.assert_array_equal(first.ravel(), batch_indices(0, 1, 100, 25).ravel())
    for seed, epoch in [(0, 0), (1, 0), (1, 1), (0, 2)]:
        assert (first != batch_indices(seed, epoch, 100, 10)).any()


def test_examples_that_one_epoch_leaves_out_are_used_in_others():
    seen = set()
    for epoch in range(20):
        seen.update(batch_indices(0, epoch, 7, 5).ravel().tolist())
    assert seen == set(range(7))


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_size_that_gives_no_batch_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"`batch_size` must be .* 10, got {batch_size}"):
        batch_indices(0, 0, 10, batch_size)
