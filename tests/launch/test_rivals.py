"""The rival optimisers train, and continue from a checkpoint with the same results."""

import io

import equinox as eqx
import jax
import pytest

import models
from launch.instantiation import instantiate
from launch.job import planned_job
from tests.selection import slow_but
from training.leaves import read_leaves, write_leaves

RIVALS = ["muon", "lbfgs", "soap", "shampoo"]
STEPS, STOP = 12, 1


@pytest.mark.parametrize("name", slow_but(["muon"], RIVALS))
def test_the_loss_falls_and_a_restored_state_goes_on(name, compose, standard_promotion):
    """The model has every kind of weight: kernels, their biases, matrices and vectors.

    `soap` and `shampoo` compute their preconditioners both before and after the checkpoint.
    """
    overrides = [f"optimiser={name}", "likelihood=gaussian"]
    if name in {"soap", "shampoo"}:
        overrides.append("optimiser.transformation.precondition_frequency=2")
    optimiser = instantiate(
        "optimiser", planned_job(compose(*overrides), multirun=False).config["optimiser"]
    )
    model_key, x_key, y_key = jax.random.split(jax.random.key(0), 3)
    model = models.ConvNet((6, 6), 3, channels=(2, 3), key=model_key)
    x, y = jax.random.normal(x_key, (16, 6, 6)), jax.random.normal(y_key, (16, 3))
    state = optimiser.init(model)
    first = model, state
    losses, checkpoint = [], io.BytesIO()
    for step in range(STEPS):
        if step == STOP:
            write_leaves(checkpoint, (model, state))
        model, state, info = optimiser.step(model, (x, y), state)
        losses.append(float(info.loss))
        assert info.accepted
    assert losses[-1] < losses[0]
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(state))
    before, after = (eqx.filter(tree, eqx.is_array) for tree in (first, (model, state)))
    assert jax.tree.map(jax.typeof, before) == jax.tree.map(jax.typeof, after)
    # A checkpoint does not keep weak types. The line search of optax has some in its state.
    assert name == "lbfgs" or not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    checkpoint.seek(0)
    restored = read_leaves(checkpoint, first)
    for _ in range(STEPS - STOP):
        restored = optimiser.step(restored[0], (x, y), restored[1])[:2]
    assert eqx.tree_equal(restored, (model, state))
