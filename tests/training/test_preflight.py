import dataclasses
import functools
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from data import Dataset, Stream, joint
from tests.selection import slow_but
from training import preflight
from training.preflight import describe_run


def sgd_on(objective):
    return cv.FirstOrder(objective, optax.sgd(0.1, momentum=0.9))


def relabelled(dataset, targets):
    (x, _), (x_test, _) = dataset.train, dataset.test
    return Dataset(
        "relabelled", (x, targets[: len(x)]), (x_test, targets[-len(x_test) :]), (8, 8), 10
    )


def test_a_run_that_fits_passes(make_run):
    preflight(make_run())


def test_a_model_of_shapes_is_enough(make_run, model):
    preflight(make_run(model=eqx.filter_eval_shape(lambda: model)))


def test_a_batch_size_above_the_dataset_is_refused(make_run, dataset):
    preflight(make_run(batch_size=dataset.num_train))
    with pytest.raises(ValueError, match=r"`batch_size` must be at most .* 1437, got 1438\."):
        preflight(make_run(batch_size=dataset.num_train + 1))


@pytest.mark.parametrize("role", slow_but(["curvature"], ["curvature", "preconditioner"]))
def test_a_curvature_of_more_examples_than_a_batch_has_is_refused(make_run, role):
    def run(examples, batch_size):
        part = cv.FirstExamples(cv.KFAC(cv.GaussNewton()), examples)
        parts = {"curvature": cv.GaussNewton(), "solver": cv.CG()} | {role: part}
        optimiser = cv.NaturalGradient(cv.Supervised(cv.Categorical()), **parts)
        return make_run(optimiser=optimiser, batch_size=batch_size)

    preflight(run(256, 256))
    preflight(run(1437, None))
    for examples, batch_size, most in ((257, 256, 256), (1438, None, 1437)):
        with pytest.raises(ValueError, match=rf"must be at most the batch size, {most}, got"):
            preflight(run(examples, batch_size))


def test_terms_of_different_lengths_need_a_batch_size_of_null(make_run, dataset):
    """Terms with different numbers of examples cannot be cut into batches."""
    x, y = dataset.train
    term = cv.Term(lambda model, x: model(x), cv.Categorical())
    optimiser = sgd_on(cv.Objective({"a": term, "b": term}))
    part = {"a": (x, y), "b": (x[:100], y[:100])}
    terms = Dataset("terms", part, part, (8, 8), 10)
    preflight(make_run(optimiser=optimiser, dataset=terms, batch_size=None))
    with pytest.raises(ValueError, match=r"`batch_size` must be null .* `terms`, got 256\. Its"):
        preflight(make_run(optimiser=optimiser, dataset=terms))


def test_a_reference_of_another_size_than_the_outputs_is_refused(make_run, dataset):
    wrong = np.zeros((5, 8, 8), np.float32), np.zeros((5, 3), np.float32)
    referred = Dataset("referred", dataset.train, dataset.test, (8, 8), 10, reference=wrong)
    with pytest.raises(ValueError, match=r"Gaussian.*\.(nll|in_domain)"):
        preflight(make_run(dataset=referred))


def test_too_few_outputs_for_the_labels_are_refused(make_run, make_net):
    with pytest.raises(ValueError, match=r"labels from 0 to 4 for a model with 5 outputs, but .*9"):
        preflight(make_run(model=make_net(5)))


def test_more_outputs_than_classes_are_refused(make_run, make_net):
    with pytest.raises(ValueError, match=r"has 64 outputs .* `digits` needs 10\. Use"):
        preflight(make_run(model=make_net(64)))


@pytest.mark.parametrize(
    ("number", "dtype"), [(np.nan, np.float32), (np.inf, np.float32), (np.nan, jnp.bfloat16)]
)
def test_inputs_that_are_not_finite_are_refused(make_run, dataset, number, dtype):
    x, y = dataset.train
    wrong = x.astype(dtype)
    wrong[5000 % len(x), 3] = number
    broken = dataclasses.replace(dataset, train=(wrong, y))
    expected = (
        rf"inputs of the training part hold NaN or infinite .* first in example {5000 % len(x)}\."
    )
    with pytest.raises(ValueError, match=expected):
        preflight(make_run(dataset=broken))


@pytest.mark.parametrize("label", [-1, 10])
def test_a_single_label_out_of_range_is_refused(make_run, dataset, label):
    targets = np.zeros(1797, np.int32)
    targets[-1] = label
    with pytest.raises(ValueError, match=r"`Categorical` needs labels from 0 to 9 .* test part"):
        preflight(make_run(dataset=relabelled(dataset, targets)))


def test_a_stream_is_not_evaluated_while_a_run_reads_it(make_run, dataset):
    """It may have only one place, as a seeded loader has: the run would skip batches."""
    batches = [dataset.train]
    stream = Stream("loader", batches, dataset.test, input_shape=(8, 8), output_size=10)
    run = functools.partial(make_run, dataset=stream, batch_size=None)
    preflight(run(evaluate_train=True))
    with pytest.raises(ValueError, match=r"`evaluate_train=true` would read .* stream `loader`"):
        preflight(run(evaluate_train=True, evaluate_every=2))


def test_every_part_is_checked(make_run, dataset):
    (x, y), wrong = dataset.train, dataset.test[1].copy()
    wrong[3] = 10
    held_out = Dataset("held out", (x, y), dataset.test, (8, 8), 10, validation=(x[:360], wrong))
    sentence = r"labels from 0 to 9 .* the validation part run from 0 to 10: .* example 3 is 10"
    with pytest.raises(ValueError, match=sentence):
        preflight(make_run(dataset=held_out))


def test_a_reference_with_nan_is_refused(make_run, dataset):
    broken = np.zeros((5, 8, 8), np.float32), np.zeros((5, 10), np.float32)
    broken[1][2] = np.nan
    referred = Dataset("referred", dataset.train, dataset.test, (8, 8), 10, reference=broken)
    with pytest.raises(ValueError, match=r"`Gaussian` needs finite .* the reference .* example 2 "):
        preflight(make_run(dataset=referred))


def test_probabilities_that_do_not_sum_to_one_are_refused(make_run, dataset):
    targets = np.full((1797, 10), 0.1, np.float32)
    preflight(make_run(dataset=relabelled(dataset, targets)))
    targets[7, 0] = 0.2
    with pytest.raises(
        ValueError, match=r"`Categorical` needs probabilities .* example 7 is .*1\.1"
    ):
        preflight(make_run(dataset=relabelled(dataset, targets)))


def test_targets_of_another_shape_than_the_outputs_are_refused(make_run):
    # The error is that of `Gaussian`, or that of the type checker, which only the tests use.
    with pytest.raises(ValueError, match=r"Gaussian.*\.(nll|in_domain)"):
        preflight(make_run(optimiser=sgd_on(cv.Supervised(cv.Gaussian()))))


def test_fractions_out_of_range_are_refused(make_run, dataset):
    targets = np.full((1797, 10), 1.5, np.float32)
    run = make_run(
        optimiser=sgd_on(cv.Supervised(cv.Bernoulli())), dataset=relabelled(dataset, targets)
    )
    with pytest.raises(ValueError, match=r"`Bernoulli` needs targets from 0 to 1, but .* 1\.5"):
        preflight(run)


def test_a_model_for_other_inputs_is_refused(make_run):
    linear = eqx.nn.Linear(9, 10, key=jax.random.key(0))
    wrong = eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), linear])
    with pytest.raises(
        ValueError, match=r"does not accept the inputs .*`digits`.* shape \(8, 8\): "
    ):
        preflight(make_run(model=wrong))


def test_a_batch_of_another_structure_than_the_objectives_is_refused(make_run, dataset):
    with pytest.raises(ValueError, match="A batch of `Supervised` must be"):
        preflight(make_run(dataset=joint(dataset)))


def test_batch_norm_is_refused(make_run):
    norm, _ = eqx.nn.make_with_state(eqx.nn.BatchNorm)(10, "batch", mode="batch")
    with pytest.raises(ValueError, match=r"`eqx\.nn\.State`"):
        preflight(make_run(model=norm))


def test_a_curvature_that_the_loss_does_not_support_is_refused(make_run):
    class OnlyALoss(cv.AbstractLoss):
        def nll(self, z, y):
            return jnp.sum(z**2)

    optimiser = cv.NaturalGradient(
        cv.Supervised(OnlyALoss()),
        curvature=cv.SampledFisher(),
        solver=cv.CG(rtol=1e-3, max_steps=3),
        damping=1.0,
        search=optx.LearningRate(1.0),
    )
    with pytest.raises(ValueError, match="OnlyALoss"):
        preflight(make_run(optimiser=optimiser))


def test_a_first_order_run_has_no_plan(make_run):
    assert preflight(make_run()).plan is None


def test_the_plan_counts_the_rows_of_a_batch(make_run, model):
    optimiser = cv.NaturalGradient(cv.Supervised(cv.Categorical()), curvature=cv.ExactFisher())
    plan = preflight(make_run(optimiser=optimiser, batch_size=4)).plan
    assert plan.rows == 4 * 9
    assert plan.parameters == sum(
        leaf.size for leaf in jax.tree.leaves(model) if eqx.is_array(leaf)
    )


def test_more_rows_than_the_solver_takes_are_refused(make_run):
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()),
        curvature=cv.ExactFisher(),
        solver=cv.SampleSpace(max_rows=50),
    )
    with pytest.raises(ValueError, match=r"max_rows=50.*takes 90 rows \(10 examples × 9\).*CG"):
        preflight(make_run(optimiser=optimiser, batch_size=10))


def test_a_solve_that_does_not_fit_the_device_is_refused(make_run, monkeypatch):
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()), curvature=cv.ExactFisher(), solver=lx.Cholesky()
    )
    needs = preflight(make_run(optimiser=optimiser)).plan.nbytes
    assert needs == 2 * 4 * make_run().parameters ** 2
    monkeypatch.setattr(sys.modules["training.preflight"], "memory", lambda: needs - 1)
    with pytest.raises(ValueError, match=r"`Cholesky` needs about .* GiB for 610 parameters"):
        preflight(make_run(optimiser=optimiser))


def test_one_line_describes_the_run(make_run):
    optimiser = cv.NaturalGradient(cv.Supervised(cv.Categorical()), curvature=cv.ExactFisher())
    run = make_run(optimiser=optimiser, batch_size=4, label="mine")
    line = describe_run(run, preflight(run))
    assert "\n" not in line
    for part in (
        "mine: 610 parameters, 36 rows; SampleSpace",
        " MiB, ",
        "is predicted to cost",
        "gradients",
    ):
        assert part in line
    structured = cv.NaturalGradient(optimiser.objective, cv.Diagonal(cv.ExactFisher()))
    run = make_run(optimiser=cv.Averaged(structured, decay=0.9), batch_size=4, label="mine")
    line = describe_run(run, preflight(run))
    assert line.startswith("mine: curvature Diagonal of ExactFisher, 610 parameters; Elementwise")
    run = make_run()
    line = describe_run(run, preflight(run))
    assert line.startswith("sgd: 610 parameters; no linear solve")
