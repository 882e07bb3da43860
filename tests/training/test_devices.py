"""A run has the same results on any number of devices, which may change when it is resumed."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from data import first_of
from tests.selection import slow_but
from training import preflight, train
from training.feed import source_of
from training.mesh import placement


def natural(curvature, *solver):
    return cv.NaturalGradient(
        cv.Supervised(cv.Categorical()),
        curvature,
        *solver,
        damping=1.0,
        search=optx.LearningRate(0.5),
    )


OPTIMISERS = {
    "sgd": cv.FirstOrder(cv.Supervised(cv.Categorical(), micro_batch=100), optax.sgd(0.1)),
    "cg": natural(cv.GaussNewton(), cv.CG(max_steps=3)),
    "kfac": natural(cv.KFAC(cv.SampledFisher())),
}

PLANS = [
    (natural(cv.SampledFisher(), cv.SampleSpace()), True),
    (natural(cv.GaussNewton(), lx.Cholesky()), True),
    (natural(cv.BlockDiagonal(cv.SampledFisher())), True),
    (OPTIMISERS["cg"], False),
    (OPTIMISERS["kfac"], False),
]


def numbers(records):
    names = "loss", "grad_norm", "step_norm", "solver_residual"
    return np.array(
        [[record[name] for name in names if record[name] is not None] for record in records]
    )


@pytest.mark.parametrize("name", slow_but(["cg"], ["sgd", "cg", "kfac"]))
@pytest.mark.parametrize("sharding", slow_but(["fsdp"], ["replicated", "fsdp"]))
def test_a_run_on_several_devices_has_the_results_of_one_device(
    name, sharding, make_run, read_records, tmp_path
):
    """It may also be resumed with another number of devices."""
    optimiser = OPTIMISERS[name]

    def run(**settings):
        return make_run(optimiser=optimiser, **settings)

    train(run(max_steps=6), tmp_path / "one")
    train(run(max_steps=4, devices=8, sharding=sharding), tmp_path / "many")
    summary = train(run(max_steps=6, devices=2), tmp_path / "many", resume=True)
    assert summary["steps"] == 6
    spent = [read_records(tmp_path / name)[3]["gradient_equivalents"] for name in ("one", "many")]
    # What every device computes as a whole counts for each. With `fsdp` this includes the batch,
    # which comes from all devices: it is as much work as a step of this small net by SGD.
    assert 0.9 < spent[1] / spent[0] < (1.5 if sharding == "replicated" else 2.5)
    one, many = (numbers(read_records(tmp_path / folder)) for folder in ("one", "many"))
    np.testing.assert_allclose(many, one, rtol=2e-4)


def test_the_same_devices_give_the_same_bits(make_run, read_records, tmp_path):
    def run(steps):
        return make_run(optimiser=OPTIMISERS["cg"], max_steps=steps, devices=4, sharding="fsdp")

    train(run(5), tmp_path / "whole")
    train(run(3), tmp_path / "parts")
    train(run(5), tmp_path / "parts", resume=True)
    whole, parts = (read_records(tmp_path / name) for name in ("whole", "parts"))
    assert [{**r, "seconds": 0, "processor_seconds": 0} for r in whole] == [
        {**r, "seconds": 0, "processor_seconds": 0} for r in parts
    ]


def test_fsdp_or_whole_batches_shard_the_data(make_run, dataset):
    """With `fsdp`, and if a step uses all examples; a length that does not divide is padded."""
    n = len(dataset.train[1])
    assert n % 8
    even = first_of(dataset, n - n % 8)
    for settings, examples in (
        ({"sharding": "fsdp"}, -(-n // 8)),
        ({"dataset": even, "batch_size": None}, n // 8),
        ({}, n),
    ):
        run = make_run(devices=8, **settings)
        placed = placement(8, run.settings.sharding)
        data, draw = source_of(run, placed)
        assert {leaf.addressable_shards[0].data.shape[0] for leaf in data} == {examples}
        rows = None if run.settings.batch_size is None else jnp.asarray([[n - 1, 0, 5]])
        batch, _ = draw(data, rows, None, step=jnp.int32(0), key=jax.random.key(0))
        for found, whole in zip(batch, run.dataset.train, strict=True):
            expected = whole if rows is None else whole[np.asarray(rows[0])]
            np.testing.assert_array_equal(found, expected.astype(found.dtype))


def test_fsdp_shards_the_weights(make_run):
    placed = placement(8, "fsdp")
    weights = [jnp.zeros((3, 16)), jnp.zeros(5), jnp.zeros(())]
    shapes = [leaf.addressable_shards[0].data.shape for leaf in placed.place_leaves(weights)]
    assert shapes == [(3, 2), (5,), ()] == [placed.device_shape(leaf) for leaf in weights]
    alone, shared = (preflight(make_run(devices=n)).needs for n in (1, 8))
    assert shared.weights == alone.weights
    assert shared.step < alone.step
    weights = preflight(make_run(devices=8, sharding="fsdp")).needs.weights
    assert alone.weights // 8 < weights < alone.weights  # the last bias is not sharded


def test_devices_all_takes_all_devices():
    assert placement("all", "replicated").size == len(jax.devices())


def test_a_number_of_devices_that_cannot_be_used_is_refused(make_run):
    with pytest.raises(
        ValueError, match=r"`devices=99`, but JAX finds \d+ \(cpu\)\. Set JAX_NUM_CPU"
    ):
        preflight(make_run(devices=99))
    with pytest.raises(ValueError, match=r"`devices=8` must divide .* got 100\. Set `batch_size`"):
        preflight(make_run(devices=8, batch_size=100))
    with pytest.raises(ValueError, match=r"`devices=8` must divide .* got 4\."):
        preflight(make_run(devices=8, batch_size=4))
    with pytest.raises(ValueError, match=r"`sharding=fsdp` needs at least two `devices`, got 1\."):
        preflight(make_run(sharding="fsdp"))


def test_a_matrix_that_every_device_holds_whole_is_counted(make_run):
    optimiser = natural(cv.ExactFisher(), cv.SampleSpace())
    found = preflight(make_run(optimiser=optimiser, devices=8))
    assert found.needs.step >= found.plan.nbytes > 0


@pytest.mark.parametrize(("optimiser", "whole"), slow_but([PLANS[0], PLANS[3]], PLANS))
def test_the_plan_says_if_every_device_factorises_the_whole_matrix(optimiser, whole, make_run):
    run = make_run(optimiser=optimiser)
    for devices in (1, 8):
        with placement(devices, "replicated").context():
            plan = preflight(run).plan
        said = "every device factorises the whole matrix" in str(plan)
        assert said == plan.on_every_device == (whole and devices > 1)
