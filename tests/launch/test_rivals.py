"""The rivals train, and go on from a checkpoint as if nothing had happened."""

import json

import equinox as eqx
import jax
import pytest

import models
from launch import instantiate
from launch.job import planned_job
from tests.selection import slow_but

RIVALS = ["muon", "lbfgs", "soap", "shampoo"]


@pytest.mark.parametrize("name", slow_but(["shampoo"], RIVALS))
def test_the_loss_falls_and_types_stay(name, compose, standard_promotion):
    """On a model of every kind of weight: kernels, their biases, matrices and vectors."""
    overrides = f"optimiser={name}", "likelihood=gaussian"
    optimiser = instantiate(
        "optimiser", planned_job(compose(*overrides), multirun=False).config["optimiser"]
    )
    model_key, x_key, y_key = jax.random.split(jax.random.key(0), 3)
    model = models.ConvNet((6, 6), 3, channels=(2, 3), key=model_key)
    x, y = jax.random.normal(x_key, (16, 6, 6)), jax.random.normal(y_key, (16, 3))
    state = optimiser.init(model)
    arrays = eqx.filter((model, state), eqx.is_array)
    losses = []
    for _ in range(12):
        model, state, info = optimiser.step(model, (x, y), state)
        losses.append(float(info.loss))
        assert info.accepted
    assert losses[-1] < losses[0]
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(state))
    for before, after in zip(
        jax.tree.leaves(arrays),
        jax.tree.leaves(eqx.filter((model, state), eqx.is_array)),
        strict=True,
    ):
        assert (before.shape, before.dtype, before.weak_type) == (
            after.shape,
            after.dtype,
            after.weak_type,
        )
    # A weak type would be lost on the way through a checkpoint; optax's own line search has some.
    assert name == "lbfgs" or not any(leaf.weak_type for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", slow_but(["soap"], RIVALS))
def test_a_run_goes_on_as_if_it_had_never_stopped(name, train, standard_promotion):
    """Before and after a preconditioner is computed anew."""
    every = ["optimiser.transformation.precondition_frequency=2"] * (name in {"soap", "shampoo"})
    arguments = [f"optimiser={name}", "model=linear", "batch_size=100", *every]
    whole = train(*arguments, "max_steps=5", "hydra.run.dir=whole")
    assert whole.code == 0, whole.err
    assert train(*arguments, "max_steps=2", "hydra.run.dir=parts").code == 0
    assert train("resume=parts", "max_steps=5").code == 0
    summary = json.loads((whole.folder / "whole" / "summary.json").read_text())
    assert (summary["steps"], summary["rejected"]) == (5, 0)
    weights = [(whole.folder / name / "model.eqx").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
