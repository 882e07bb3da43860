import hashlib
import io

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from data import batch_indices
from training import CheckpointError, Stepper, check_checkpoints
from training._base import Tally
from training.checkpoint import Checkpoints
from training.device import on_device


@pytest.fixture
def make_stepper(sgd, model, dataset, make_net):
    def make(outputs: int = 10) -> Stepper:
        net = make_net(outputs)
        return Stepper(sgd, net, sgd.init(net), on_device(dataset.train), 0)

    return make


@pytest.fixture
def make_checkpoints(tmp_path):
    def make(folder=tmp_path, config="a", versions=None, keep=1) -> Checkpoints:
        return Checkpoints(folder, {"name": config}, versions or {"jax": "1"}, keep)

    return make


def test_what_was_saved_is_restored_exactly(tmp_path, make_checkpoints, make_stepper, leaves_equal):
    checkpoints, saved = make_checkpoints(), make_stepper()
    saved.leaves = [leaf + 1 for leaf in saved.leaves]
    tally = Tally(7, 1.25, 0.5, 3, 2, "Why.", 12.5, epoch_loss=0.5, best=0.25, best_step=5)
    checkpoints.save(tally, saved)
    restored = make_stepper()
    assert not leaves_equal(restored.leaves, saved.leaves)
    assert checkpoints.restore(restored) == (tally, {"jax": "1"}, [])
    assert leaves_equal(restored.leaves, saved.leaves)


def test_without_a_checkpoint_nothing_is_changed(
    tmp_path, make_checkpoints, make_stepper, leaves_equal
):
    stepper = make_stepper()
    assert make_checkpoints(tmp_path / "missing").restore(stepper) == (Tally(), {}, [])
    assert leaves_equal(stepper.leaves, make_stepper().leaves)


def test_the_newest_is_used_and_the_only_one_kept(tmp_path, make_checkpoints, make_stepper):
    checkpoints = make_checkpoints()
    for steps in (9, 10, 1000):
        checkpoints.save(Tally(steps), make_stepper())
    assert len(list(tmp_path.iterdir())) == 1
    assert checkpoints.restore(make_stepper()).tally.steps == 1000


def test_a_save_that_fails_leaves_the_last_one(
    tmp_path, make_checkpoints, make_stepper, monkeypatch
):
    checkpoints = make_checkpoints()
    checkpoints.save(Tally(1), make_stepper())

    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr("training.checkpoint_file.write_leaves", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(Tally(2), make_stepper())
    assert len(list(tmp_path.iterdir())) == 1
    assert checkpoints.restore(make_stepper()).tally.steps == 1


def test_the_newest_few_are_kept(tmp_path, make_checkpoints, make_stepper):
    checkpoints = make_checkpoints(keep=3)
    for steps in range(1, 7):
        checkpoints.save(Tally(steps), make_stepper())
    names = [f"step_{steps:09d}.ckpt" for steps in (4, 5, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_the_best_is_kept_with_its_weights(tmp_path, make_checkpoints, make_stepper, leaves_equal):
    checkpoints, best, last = make_checkpoints(), make_stepper(), make_stepper()
    best.leaves = [leaf + 1 for leaf in best.leaves]
    checkpoints.hold_best(Tally(3, best=0.5, best_step=3), best)
    assert list(tmp_path.iterdir()) == []
    for steps in (5, 6):
        checkpoints.save(Tally(steps, best=0.5, best_step=3), last)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"best.ckpt", "best.eqx", "step_000000006.ckpt"}
    model = eqx.tree_deserialise_leaves(tmp_path / "best.eqx", last.evaluated)
    assert leaves_equal(model, best.evaluated)
    (tmp_path / "step_000000006.ckpt").unlink()
    restored = make_stepper()
    assert checkpoints.restore(restored).tally.steps == 3
    assert leaves_equal(restored.leaves, best.leaves)


def damage(path, how):
    whole = path.read_bytes()
    match how:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "cut at the end":
            path.write_bytes(whole[:-1])
        case "longer":
            path.write_bytes(whole + b"\n")
        case "foreign":
            path.write_bytes(b"PK" + bytes(100))
        case int():
            path.write_bytes(whole[:how] + bytes([whole[how] ^ 1]) + whole[how + 1 :])


DAMAGES = ["empty", "cut", "cut at the end", "longer", "foreign", 0, 30, 1000, -1, -64, -65]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_refused(
    tmp_path, make_checkpoints, make_stepper, leaves_equal, how
):
    """One flipped bit is enough, in any part of the file."""
    make_checkpoints().save(Tally(1), make_stepper())
    (path,) = tmp_path.iterdir()
    damage(path, how if not isinstance(how, int) else how % path.stat().st_size)
    before = path.read_bytes()
    stepper = make_stepper()
    with pytest.raises(CheckpointError, match=r"step_000000001.ckpt` is damaged.*There is no othe"):
        make_checkpoints().restore(stepper)
    assert leaves_equal(stepper.leaves, make_stepper().leaves)
    assert path.read_bytes() == before


def test_the_newest_intact_checkpoint_is_used(
    tmp_path, make_checkpoints, make_stepper, leaves_equal
):
    checkpoints, saved = make_checkpoints(keep=3), make_stepper()
    saved.leaves = [leaf + 1 for leaf in saved.leaves]
    for steps in (1, 2, 3):
        checkpoints.save(Tally(steps), saved)
    for steps in (2, 3):
        damage(tmp_path / f"step_{steps:09d}.ckpt", "cut")
    stepper = make_stepper()
    tally, _, refused = make_checkpoints(keep=1).restore(stepper)
    assert tally.steps == 1
    assert leaves_equal(stepper.leaves, saved.leaves)
    assert [sentence.partition("` is damaged")[0][-6:] for sentence in refused] == [
        *("3.ckpt", "2.ckpt")
    ]
    # The next checkpoint counts as the newest, although a damaged one had a higher number.
    make_checkpoints(keep=1).save(Tally(2), saved)
    assert make_checkpoints().restore(stepper).tally.steps == 2
    assert len(list(tmp_path.glob("*.refused"))) == 2


def test_the_checkpoint_of_another_configuration_is_refused(make_checkpoints, make_stepper):
    make_checkpoints(config="b").save(Tally(1), make_stepper())
    with pytest.raises(CheckpointError, match="belongs to a run with another configuration"):
        make_checkpoints(config="a").restore(make_stepper())


def test_other_configurations_are_found_without_a_model(tmp_path, make_checkpoints, make_stepper):
    check_checkpoints(tmp_path / "missing", {"name": "a"})
    make_checkpoints(config="b").save(Tally(1), make_stepper())
    check_checkpoints(tmp_path, {"name": "b"})
    check_checkpoints(tmp_path, {"name": "b", "epochs": 3})
    (tmp_path / "step_000000003.ckpt").write_bytes(b"cut")  # `restore` explains this
    with pytest.raises(CheckpointError, match=r"config.yaml` has changed since .* remove `"):
        check_checkpoints(tmp_path, {"name": "a"})
    make_checkpoints(config="a", keep=2).save(Tally(2), make_stepper())
    check_checkpoints(tmp_path, {"name": "a"})
    (tmp_path / "step_000000002.ckpt").write_bytes(b"damaged")  # `restore` explains this
    check_checkpoints(tmp_path, {"name": "a"})


def test_the_checkpoint_of_another_model_is_refused(make_checkpoints, make_stepper):
    make_checkpoints().save(Tally(1), make_stepper(outputs=9))
    with pytest.raises(CheckpointError, match=r"The arrays in the checkpoint .* do not match"):
        make_checkpoints().restore(make_stepper())


def test_half_written_files_of_a_killed_process_are_removed(
    tmp_path, make_checkpoints, make_stepper
):
    make_checkpoints().save(Tally(1), make_stepper())
    (tmp_path / ".step_000000002.ckpt.123.tmp").write_bytes(b"half")
    make_checkpoints().restore(make_stepper())
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001.ckpt"]


def test_reading_runs_no_code(tmp_path, make_checkpoints, make_stepper):
    """A pickle in the place of an array is refused and not loaded, although the digest is right."""

    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    make_checkpoints().save(Tally(1), make_stepper())
    (path,) = tmp_path.iterdir()
    header = path.read_bytes().split(b"\n")[0] + b"\n"
    body = io.BytesIO()
    np.save(body, np.array([Bomb()], dtype=object), allow_pickle=True)
    spoilt = header + body.getvalue()
    path.write_bytes(spoilt + hashlib.sha256(spoilt).hexdigest().encode())
    with pytest.raises(CheckpointError, match=r"The arrays in the checkpoint .* do not match"):
        make_checkpoints().restore(make_stepper())
    assert not (tmp_path / "exploded").exists()


def test_every_state_of_an_optimiser_is_saved(make_checkpoints, model, dataset, leaves_equal):
    """Damping, search and warm start have a state, and the targets are drawn by the step's key.

    A restored run must continue all of them.
    """
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()),
        curvature=cv.SampledFisher(samples=1),
        solver=cv.CG(rtol=1e-3, max_steps=4),
        damping=cv.LevenbergMarquardt(1.0),
        search=optx.ClassicalTrustRegion(),
        momentum=cv.WarmStart(0.9),
    )
    order = jnp.asarray(batch_indices(0, 0, dataset.num_train, 256), jnp.int32)
    state = optimiser.init(model)
    stepper = Stepper(optimiser, model, state, on_device(dataset.train), 0).compile(order)
    first = [jnp.array(leaf) for leaf in stepper.leaves]
    for _ in range(3):
        stepper.step(order)
    make_checkpoints().save(Tally(3), stepper)
    expected = [stepper.read(stepper.step(order)) for _ in range(3)]
    last = jax.device_get(stepper.leaves)
    stepper.leaves = first
    make_checkpoints().restore(stepper)
    assert [stepper.read(stepper.step(order)) for _ in range(3)] == expected
    assert leaves_equal(jax.device_get(stepper.leaves), last)
