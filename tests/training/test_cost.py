"""The cost of a step in gradients, as counted by XLA, agrees with a count by hand."""

import jax
import jax.numpy as jnp
import pytest

import curvature as cv
from training import Stepper, train
from training.cost import Cost, cost_of
from training.sources import source


@pytest.fixture
def cost(make_run, dataset, model):
    def measure(optimiser) -> Cost:
        run = make_run(optimiser=optimiser, batch_size=300)
        data, draw = source(dataset)
        stepper = Stepper(optimiser, model, optimiser.init(model), data, 0, draw)
        stepper.compile(jax.ShapeDtypeStruct((4, 300), jnp.int32))
        return cost_of(run, stepper.compiled)

    return measure


def test_a_step_of_gradient_descent_costs_one_gradient(cost, sgd):
    # Beside the gradient, of more than 4nP operations, weights and momentum take only 4P.
    assert cost(sgd).of(0) == pytest.approx(1, abs=0.03)


def test_an_iteration_costs_a_product_as_counted_by_hand(cost, sgd):
    # The network has layers of 64·8 and 8·10 weights. A gradient multiplies by the first twice
    # (its inputs need no gradient) and by the second three times. In a product with JᵀJ, J v
    # multiplies by the first once and by the second twice, and so does the product with Jᵀ.
    first, second = 64 * 8, 8 * 10
    expected = (2 * first + 4 * second) / (2 * first + 3 * second)
    assert cost(sgd).iteration == pytest.approx(expected, rel=0.15)


def test_each_further_iteration_of_the_solver_is_added():
    cost = Cost(step=4.0, iteration=1.25)
    assert [cost.of(steps) for steps in (0, 1, 2, 5)] == [4.0, 4.0, 5.25, 9.0]


def test_a_run_records_its_cost(make_run, read_records, tmp_path):
    solver = cv.CG(rtol=0.0, max_steps=3)
    optimiser = cv.NaturalGradient(cv.Supervised(cv.Categorical()), solver=solver, damping=1.0)
    summary = train(make_run(optimiser=optimiser, max_steps=3), tmp_path)
    spent = [record["gradient_equivalents"] for record in read_records(tmp_path)]
    assert summary["gradient_equivalents"] == spent[-1]
    assert summary["gradient_equivalents_per_step"] == pytest.approx(spent[-1] / 3)
    assert spent == pytest.approx([spent[0], 2 * spent[0], 3 * spent[0]])
    assert 1 + 3 < spent[0] < 12  # at least a gradient and three products


def test_a_resumed_run_has_the_cost_of_an_uninterrupted_run(make_run, read_records, tmp_path):
    whole = train(make_run(max_steps=4), tmp_path / "whole")
    train(make_run(max_steps=2), tmp_path / "resumed")
    resumed = train(make_run(max_steps=4), tmp_path / "resumed", resume=True)
    assert resumed["gradient_equivalents"] == pytest.approx(whole["gradient_equivalents"])
