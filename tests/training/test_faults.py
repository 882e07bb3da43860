"""Faults of a run are explained: folders that cannot be written, NaNs, changed versions."""

from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import curvature as cv
from training import FolderError, train
from training.nan import origin_of_nan


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_cannot_be_written_to_is_refused(make_run, resume):
    """In /proc not even root can create a file."""
    with pytest.raises(FolderError, match=r"Cannot write to the run folder `/proc`: "):
        train(make_run(), Path("/proc"), resume=resume)


class Odd(eqx.Module):
    """A model that adds zero times `function(inputs)` to its outputs."""

    net: eqx.Module
    function: Callable

    def __call__(self, x):
        return self.net(x) + 0 * self.function(x)


def logarithm(x):
    return jnp.log(jnp.sum(x) - 1e6)


class Norm(eqx.Module):
    """A model with finite outputs, but a gradient of NaN: that of a norm at zero."""

    net: eqx.Module

    def __call__(self, x):
        z = self.net(x)
        return z + jnp.linalg.norm(z * 0)


@pytest.mark.parametrize(
    ("make", "part", "what", "line"),
    [
        (
            lambda net: Odd(net, logarithm),
            "loss",
            "primitive: log in `logarithm`",
            "jnp.log(jnp.sum(x) - 1e6)",
        ),
        pytest.param(
            *(Norm, "gradient", "division by zero in `norm` at ", "linalg.py:"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_origin_of_a_nan_is_named(make_run, make_net, tmp_path, make, part, what, line):
    summary = train(make_run(model=make(make_net(10)), stop_at_nan=True), tmp_path)
    assert (summary["status"], summary["steps"], summary["exit_code"]) == ("diverged", 1, 1)
    assert f"In the {part}, " in summary["reason"]
    assert what in summary["reason"]
    assert line in summary["reason"]


def test_a_nan_in_the_batch_is_named(make_run, with_nan, tmp_path):
    summary = train(make_run(dataset=with_nan(slice(None)), stop_at_nan=True), tmp_path)
    assert (
        f"There are numbers in the batch that are not finite: {256 * 64} in `0`."
        in summary["reason"]
    )


def test_a_nan_in_weights_of_half_precision_is_named(model, sgd, dataset):
    broken = jax.tree.map(
        lambda leaf: jnp.full_like(leaf, jnp.nan, jnp.bfloat16) if eqx.is_array(leaf) else leaf,
        model,
    )
    said = origin_of_nan(sgd.objective, broken, dataset.test, jax.random.key(0))
    assert said.startswith("There are numbers in the weights that are not finite: 512 in `mlp")


def test_the_origin_is_found_in_the_batch_of_the_first_rejected_step(
    make_run, with_nan, tmp_path, read_records
):
    """One example is broken; the batch that contains it is made again after the step."""
    summary = train(make_run(dataset=with_nan(slice(0, 1)), stop_at_nan=True), tmp_path)
    assert "64 in `0`." in summary["reason"]
    losses = [record["loss"] for record in read_records(tmp_path)]
    assert losses[-1] is None
    assert None not in losses[:-1]


def test_an_overflow_of_the_step_is_not_ascribed_to_the_loss(make_run, tmp_path):
    """The gradient is finite, but the learning rate is so large that the step overflows."""
    sgd = cv.FirstOrder(cv.Supervised(cv.Categorical()), optax.sgd(1e38))
    summary = train(make_run(optimiser=sgd, stop_at_nan=True), tmp_path)
    assert summary["status"] == "diverged"
    assert "In the loss" not in summary["reason"]


def test_without_a_nan_the_run_finishes(make_run, tmp_path):
    assert train(make_run(stop_at_nan=True), tmp_path)["status"] == "finished"


def test_a_profile_is_one_trace_file(make_run, tmp_path):
    train(make_run(profile_steps=5), tmp_path)
    assert len(list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))) == 1


def test_a_resumed_run_warns_of_changed_versions(make_run, tmp_path, capsys, monkeypatch):
    train(make_run(max_steps=7), tmp_path)
    monkeypatch.setattr("training.writer.versions", lambda: {"jax": "99"})
    train(make_run(quiet=True), tmp_path, resume=True)
    out, err = capsys.readouterr()
    assert "now 99" in err
    assert "may not be the same bit for bit" in err.replace("\n", " ")
    assert "finished" in (tmp_path / "train.log").read_text()
    assert np.char.count(out, "finished") == 1  # of the first run, which was not quiet
