import jax
import numpy as np
import pytest

from data import Dataset, DatasetError, digits, first_of, held_out, poisson2d


def test_validation_and_rest_are_the_training_part():
    whole = digits()
    cut = held_out(whole, 0.2)
    n = whole.num_train
    assert (len(cut.validation[1]), cut.num_train) == (round(0.2 * n), n - round(0.2 * n))
    rows = np.concatenate([cut.train[0], cut.validation[0]]).reshape(n, -1)
    expected = whole.train[0].reshape(n, -1)
    assert np.array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0))
    assert np.array_equal(cut.test[1], whole.test[1])


def test_the_same_examples_are_held_out_every_time():
    first, second = held_out(digits(), 0.1), held_out(digits(), 0.1)
    assert all(np.array_equal(a, b) for a, b in zip(first.validation, second.validation))


def test_each_term_is_split_on_its_own():
    whole = poisson2d(0)
    cut = held_out(whole, 0.1)
    for name, (inputs, targets) in whole.train.items():
        left, out = cut.train[name], cut.validation[name]
        assert len(out[0]) == len(out[1]) == round(0.1 * len(inputs))
        assert len(left[0]) + len(out[0]) == len(targets)


@pytest.mark.parametrize("fraction", [1e-9, 0.9999])
def test_an_empty_validation_or_training_part_is_refused(fraction):
    with pytest.raises(
        DatasetError, match="Both the validation part and the training part need at least one"
    ):
        held_out(digits(), fraction)


def test_first_of_keeps_the_first_training_examples():
    whole = digits()
    few = first_of(whole, 10)
    assert few.num_train == 10
    assert np.array_equal(few.train[0], whole.train[0][:10])
    assert jax.tree.all(jax.tree.map(np.array_equal, few.test, whole.test))


def test_more_examples_than_the_dataset_has_are_refused():
    with pytest.raises(DatasetError, match=r"at most the number of training examples, \d+, got"):
        first_of(digits(), 10**6)
    with pytest.raises(DatasetError, match="must be null for the dataset `poisson2d`"):
        first_of(poisson2d(0), 3)


def test_a_validation_part_of_the_wrong_lengths_is_refused():
    d = digits()
    wrong = (d.train[0][:3], d.train[1][:4])
    with pytest.raises(DatasetError, match=r"`Dataset\(validation=\.\.\.\)`"):
        Dataset("wrong", d.train, d.test, d.input_shape, d.output_size, validation=wrong)
