"""Laws that hold for every dataset that needs no network, and the content of each one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
from scipy.optimize import linprog

import data
from data import Dataset, DatasetError

CASES = {
    "digits": (data.digits, 1437, 360),
    "diabetes": (data.diabetes, 353, 89),
    "wine": (data.wine, 142, 36),
    "breast_cancer": (data.breast_cancer, 455, 114),
    "text": (functools.partial(data.text, context=1000), 38, 4),
    "digits_joint": (lambda: data.joint(data.digits()), 1437, 360),
}


@pytest.fixture(params=CASES)
def case(request):
    load, num_train, num_test = CASES[request.param]
    return request.param, load(), num_train, num_test


def terms(part):
    return list(part.values()) if isinstance(part, dict) else [part]


def test_name_and_sizes(case):
    name, dataset, num_train, num_test = case
    assert dataset.name == name
    assert (dataset.num_train, dataset.num_test) == (num_train, num_test)
    for part, n in [(dataset.train, num_train), (dataset.test, num_test)]:
        assert {len(leaf) for leaf in jax.tree.leaves(part)} == {n}
        for inputs, _ in terms(part):
            assert inputs.shape[1:] == dataset.input_shape
            assert inputs.dtype == (np.int32 if name == "text" else np.float32)


def test_both_parts_have_one_structure(case):
    _, dataset, *_ = case
    assert jax.tree.structure(dataset.train) == jax.tree.structure(dataset.test)
    for train, test in zip(
        jax.tree.leaves(dataset.train), jax.tree.leaves(dataset.test), strict=True
    ):
        assert train.dtype == test.dtype
        assert train.shape[1:] == test.shape[1:]


def test_arrays_are_finite_and_read_only(case):
    _, dataset, *_ = case
    for leaf in jax.tree.leaves((dataset.train, dataset.test)):
        assert np.isfinite(leaf).all()
        with pytest.raises(ValueError, match="read-only"):
            leaf[0] = 0


@pytest.mark.parametrize("load", [data.digits, data.diabetes, data.wine, data.breast_cancer])
def test_a_dataset_is_loaded_once(load):
    assert load() is load()


def rows(*parts):
    """The examples as a sorted list, so that their order does not matter in a comparison."""
    flat = [np.concatenate([x.reshape(len(x), -1), y.reshape(len(y), -1)], 1) for x, y in parts]
    return sorted(map(tuple, np.concatenate(flat).tolist()))


def test_both_parts_together_have_all_digits():
    dataset = data.digits()
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    assert rows(dataset.train, dataset.test) == rows((pixels / 16, labels))
    assert dataset.train[1].dtype == np.int32
    assert set(dataset.test[1].tolist()) == set(range(dataset.output_size))
    assert dataset.train[0].min() == 0
    assert dataset.train[0].max() == 1


def test_digits_are_shuffled_as_documented():
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    test = np.random.RandomState(0).permutation(1797)[1437:]
    images = pixels.reshape(1797, 8, 8) / 16
    np.testing.assert_array_equal(data.digits().test[0], images[test])
    np.testing.assert_array_equal(data.digits().test[1], labels[test])


def test_diabetes_is_standardised_by_its_training_part():
    dataset = data.diabetes()
    for column in dataset.train:
        np.testing.assert_allclose(column.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
        np.testing.assert_allclose(column.std(axis=0, dtype=np.float64), 1, atol=1e-6)


def test_diabetes_is_an_affine_image_of_the_published_columns():
    raw = sklearn.datasets.load_diabetes(return_X_y=True, scaled=False)
    order = np.random.RandomState(0).permutation(442)
    published = [*np.asarray(raw[0])[order].T, np.asarray(raw[1])[order]]
    parts = zip(data.diabetes().train, data.diabetes().test, strict=True)
    loaded = np.concatenate([np.concatenate(pair) for pair in parts], axis=1)
    for ours, theirs in zip(loaded.T, published, strict=True):
        slope, intercept = np.polyfit(theirs, ours, 1)
        assert slope > 0
        np.testing.assert_allclose(slope * theirs + intercept, ours, atol=1e-5)


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_inputs_are_standardised_by_the_training_part_alone(name):
    dataset = CASES[name][0]()
    published = np.asarray(getattr(sklearn.datasets, f"load_{name}")().data)
    columns = published[:, : dataset.input_shape[0]]
    order = np.random.RandomState(0).permutation(len(columns))
    train = columns[order[: dataset.num_train]]
    expected = (columns[order] - train.mean(axis=0)) / train.std(axis=0)
    loaded = np.concatenate([dataset.train[0], dataset.test[0]])
    np.testing.assert_allclose(loaded, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "values"), [("wine", {0, 1, 2}), ("breast_cancer", {0, 1})])
def test_targets_are_the_labels_as_numbers(name, values):
    dataset = CASES[name][0]()
    targets = np.concatenate([dataset.train[1], dataset.test[1]])
    labels = getattr(sklearn.datasets, f"load_{name}")().target
    assert targets.shape == (len(labels), 1)
    assert targets.dtype == np.float32
    order = np.random.RandomState(0).permutation(len(labels))
    np.testing.assert_array_equal(targets[:, 0], labels[order])
    assert set(targets[:, 0].tolist()) == values


def test_all_columns_of_breast_cancer_separate_the_classes_and_ten_do_not():
    """With separable classes the logistic loss has no minimum, so only ten columns are used."""

    def separable(columns, labels):
        sides = (2 * labels - 1)[:, None] * np.hstack([columns, np.ones((len(columns), 1))])
        bounds = [(None, None)] * sides.shape[1]
        no_cost, margins = np.zeros(sides.shape[1]), -np.ones(len(sides))
        return linprog(no_cost, A_ub=-sides, b_ub=margins, bounds=bounds).status == 0

    published = sklearn.datasets.load_breast_cancer()
    columns = (published.data - published.data.mean(axis=0)) / published.data.std(axis=0)
    assert separable(columns, published.target)
    assert not separable(data.breast_cancer().train[0], data.breast_cancer().train[1][:, 0])


def test_joint_arranges_the_same_examples():
    digits, joint = data.digits(), data.joint(data.digits())
    for part, terms in [(digits.train, joint.train), (digits.test, joint.test)]:
        inputs, labels = part
        assert set(terms) == {"reconstruction", "label"}
        for got, expected in zip(terms["reconstruction"], (inputs, inputs), strict=True):
            np.testing.assert_array_equal(got, expected)
        for got, expected in zip(terms["label"], (inputs, labels), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert (joint.input_shape, joint.output_size) == (digits.input_shape, digits.output_size)


def test_joint_refuses_a_joint_dataset():
    with pytest.raises(DatasetError, match=r"digits_joint.*\['label', 'reconstruction'\]"):
        data.joint(data.joint(data.digits()))


@pytest.mark.parametrize("part", ["train", "test"])
def test_parts_of_unequal_length_are_refused(part):
    good = np.zeros((3, 2), np.float32), np.zeros(3, np.int32)
    bad = np.zeros((3, 2), np.float32), np.zeros(4, np.int32)
    parts = {"train": good, "test": good} | {part: bad}
    with pytest.raises(DatasetError, match=rf"Dataset\({part}=...\).*got \[3, 4\].*`odd`"):
        Dataset("odd", **parts, input_shape=(2,), output_size=2)


def pair(n):
    return np.zeros((n, 2), np.float32), np.zeros(n, np.int32)


def test_terms_may_have_different_numbers_of_examples():
    train, test = {"a": pair(3), "b": pair(4)}, {"a": pair(5), "b": pair(5)}
    dataset = Dataset("terms", train, test, input_shape=(2,), output_size=2)
    assert (dataset.num_train, dataset.num_test) == (None, 5)


def test_a_term_of_unequal_lengths_is_refused():
    train = {"a": pair(3), "b": (pair(3)[0], pair(4)[1])}
    with pytest.raises(DatasetError, match=r"Dataset\(train=...\).*got \[3, 4\].*`odd`"):
        Dataset("odd", train, {"a": pair(3), "b": pair(3)}, input_shape=(2,), output_size=2)


def test_a_reference_of_unequal_lengths_is_refused():
    bad = np.zeros((3, 2)), np.zeros((4, 1))
    with pytest.raises(DatasetError, match=r"Dataset\(reference=...\).*got \[3, 4\].*`odd`"):
        Dataset("odd", pair(3), pair(3), input_shape=(2,), output_size=2, reference=bad)


def test_the_callers_arrays_stay_writeable():
    inputs, targets = np.zeros((3, 2), np.float32), np.zeros(3, np.int32)
    Dataset("own", (inputs, targets), (inputs, targets), input_shape=(2,), output_size=2)
    assert inputs.flags.writeable
    assert targets.flags.writeable


def test_a_dataset_accepts_arrays_of_jax_and_lists():
    lists = [[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]], [0, 1, 1]
    arrays = jnp.asarray(lists[0]), jnp.asarray(lists[1], jnp.int32)
    for part in (lists, arrays):
        made = Dataset("made", part, part, (2,), 2)
        for leaf, given, dtype in zip(made.train, lists, (np.float32, np.int32), strict=True):
            assert isinstance(leaf, np.ndarray)
            assert leaf.dtype == dtype
            np.testing.assert_array_equal(leaf, given)
