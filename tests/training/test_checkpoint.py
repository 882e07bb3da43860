import jax
import jax.numpy as jnp
import optimistix as optx
import pytest

import curvature as cv
from data import batch_indices
from training import CheckpointError, Stepper
from training._base import Tally
from training.checkpoint import Checkpoints
from training.device import on_device


@pytest.fixture
def make_stepper(sgd, model, dataset, make_net):
    def make(outputs: int = 10) -> Stepper:
        net = make_net(outputs)
        return Stepper(sgd, net, sgd.init(net), on_device(dataset.train), 0)

    return make


def test_what_was_saved_is_restored_exactly(tmp_path, make_stepper, leaves_equal):
    checkpoints, saved = Checkpoints(tmp_path), make_stepper()
    saved.leaves = [leaf + 1 for leaf in saved.leaves]
    tally = Tally(7, 1.25, 0.5, rejected=3, rejected_in_a_row=2, reason="Why.")
    checkpoints.save(tally, saved)
    restored = make_stepper()
    assert not leaves_equal(restored.leaves, saved.leaves)
    assert checkpoints.restore(restored) == tally
    assert leaves_equal(restored.leaves, saved.leaves)


def test_without_a_checkpoint_nothing_is_changed(tmp_path, make_stepper, leaves_equal):
    stepper = make_stepper()
    assert Checkpoints(tmp_path / "missing").restore(stepper) == Tally()
    assert leaves_equal(stepper.leaves, make_stepper().leaves)


def test_the_newest_is_used_and_the_only_one_kept(tmp_path, make_stepper):
    checkpoints = Checkpoints(tmp_path)
    for steps in (9, 10, 1000):
        checkpoints.save(Tally(steps), make_stepper())
    assert len(list(tmp_path.iterdir())) == 1
    assert checkpoints.restore(make_stepper()).steps == 1000


def test_a_save_that_fails_leaves_the_last_one(tmp_path, make_stepper, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Tally(1), make_stepper())

    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr("training.checkpoint.write_leaves", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(Tally(2), make_stepper())
    assert len(list(tmp_path.iterdir())) == 1
    assert checkpoints.restore(make_stepper()).steps == 1


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path, make_stepper, kept, leaves_equal):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Tally(1), make_stepper())
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    stepper = make_stepper()
    with pytest.raises(CheckpointError, match="is damaged or belongs to another run"):
        checkpoints.restore(stepper)
    assert leaves_equal(stepper.leaves, make_stepper().leaves)


def test_the_checkpoint_of_another_model_is_refused(tmp_path, make_stepper):
    Checkpoints(tmp_path).save(Tally(1), make_stepper(outputs=9))
    with pytest.raises(CheckpointError, match="belongs to another run"):
        Checkpoints(tmp_path).restore(make_stepper())


def test_every_state_of_an_optimiser_is_saved(tmp_path, model, dataset, leaves_equal):
    """Damping, search and warm start adapt, and the targets are drawn: none may begin anew."""
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()),
        curvature=cv.SampledFisher(samples=1),
        solver=cv.CG(rtol=1e-3, max_steps=4),
        damping=cv.LevenbergMarquardt(1.0),
        search=optx.ClassicalTrustRegion(),
        warm_start=0.9,
    )
    order = jnp.asarray(batch_indices(0, 0, dataset.num_train, 256), jnp.int32)
    state = optimiser.init(model)
    stepper = Stepper(optimiser, model, state, on_device(dataset.train), 0).compile(order)
    first = [jnp.array(leaf) for leaf in stepper.leaves]
    for _ in range(3):
        stepper.step(order)
    Checkpoints(tmp_path).save(Tally(3), stepper)
    expected = [stepper.read(stepper.step(order)) for _ in range(3)]
    last = jax.device_get(stepper.leaves)
    stepper.leaves = first
    Checkpoints(tmp_path).restore(stepper)
    assert [stepper.read(stepper.step(order)) for _ in range(3)] == expected
    assert leaves_equal(jax.device_get(stepper.leaves), last)
