"""Checkpoints of sharded arrays, which are written to folders."""

import jax
import jax.numpy as jnp
import pytest

from training import CheckpointError, Stepper
from training._base import Tally
from training.checkpoint import Checkpoints
from training.device import on_device
from training.mesh import placement
from training.sharded import copy_to_devices, copy_to_host, read_arrays, write_arrays


@pytest.fixture
def make_stepper(sgd, make_net, dataset):
    def make(outputs: int = 10, devices: int = 8) -> Stepper:
        net = make_net(outputs)
        placed = placement(devices, "fsdp" if devices > 1 else "replicated")
        stepper = Stepper(sgd, net, sgd.init(net), on_device(dataset.train), 0, placement=placed)
        stepper.replace([leaf + 1 for leaf in stepper.leaves])
        return stepper

    return make


@pytest.fixture
def checkpoints(tmp_path, monkeypatch) -> Checkpoints:
    """Checkpoints that treat all arrays as sharded."""
    monkeypatch.setattr("training.checkpoint.is_sharded", lambda leaves: True)
    return Checkpoints(tmp_path, {}, {"jax": "1"}, 2)


@pytest.mark.parametrize("devices", [8, 2, 1])
def test_checkpoints_are_restored_on_any_number_of_devices(
    devices, checkpoints, make_stepper, leaves_equal
):
    saved, tally = make_stepper(), Tally(7, 1.25, 0.5)
    checkpoints.save(tally, saved)
    restored = make_stepper(devices=devices)
    expected = [leaf.sharding for leaf in restored.leaves]
    restored.replace([0 * leaf for leaf in restored.leaves])
    assert checkpoints.restore(restored) == (tally, {"jax": "1"}, [])
    assert leaves_equal(restored.leaves, saved.leaves)
    assert [leaf.sharding for leaf in restored.leaves] == expected


def test_the_newest_and_the_best_are_kept(tmp_path, checkpoints, make_stepper):
    stepper = make_stepper()
    for steps in range(1, 6):
        if steps in (1, 3):
            checkpoints.hold_best(Tally(steps), stepper)
        checkpoints.save(Tally(steps), stepper)
    (tmp_path / "step_000000006.arrays.orbax-checkpoint-tmp-1").mkdir()  # of a killed process
    checkpoints.save(Tally(6), stepper)
    numbers = "best", "step_000000005", "step_000000006"
    folders = "best_000000003", *numbers[1:]
    names = ["best.eqx", *(f"{n}.ckpt" for n in numbers), *(f"{n}.arrays" for n in folders)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_damaged_checkpoint_is_refused(tmp_path, checkpoints, make_stepper):
    for steps in (1, 2):
        checkpoints.save(Tally(steps), make_stepper())
    files = [path for path in tmp_path.rglob("step_000000002.arrays/**/*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    restored = checkpoints.restore(make_stepper())
    assert restored.tally.steps == 1
    (said,) = restored.refused
    assert "is damaged: the files in" in said


def test_a_checkpoint_of_another_model_is_refused(checkpoints, make_stepper):
    checkpoints.save(Tally(1), make_stepper())
    with pytest.raises(CheckpointError, match="do not match those of the model and the optimiser"):
        checkpoints.restore(make_stepper(outputs=9))


def test_keys_and_host_copies_are_restored(tmp_path, leaves_equal):
    leaves = [jax.random.split(jax.random.key(3), 4), jnp.arange(3)]
    write_arrays(tmp_path / "arrays", leaves)
    numbers = jax.random.key_data(leaves[0])
    key, other = read_arrays(tmp_path / "arrays", leaves)
    assert key.dtype == leaves[0].dtype
    assert leaves_equal([jax.random.key_data(key), other], [numbers, leaves[1]])
    assert leaves_equal(copy_to_devices(copy_to_host(leaves)), [numbers, leaves[1]])
