"""A run that takes well under a second, and functions that read its folder."""

import json
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import curvature as cv
from data import Dataset, digits
from training import Run, Settings, train
from training.records import Records


class TinyNet(eqx.Module):
    mlp: eqx.nn.MLP

    def __init__(self, output_size: int = 10):
        self.mlp = eqx.nn.MLP(64, output_size, 8, 1, key=jax.random.key(0))

    def __call__(self, x):
        return self.mlp(x.ravel())


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return digits()


@pytest.fixture(scope="session")
def make_net() -> Callable[[int], TinyNet]:
    # Jitted, because outside of a program JAX compiles each operation separately.
    return eqx.filter_jit(TinyNet)


@pytest.fixture(scope="session")
def model(make_net) -> TinyNet:
    return make_net(10)


@pytest.fixture(scope="session")
def sgd() -> cv.FirstOrder:
    return cv.FirstOrder(cv.Supervised(cv.Categorical()), optax.sgd(0.1, momentum=0.9))


@pytest.fixture(scope="session")
def make_run(dataset, model, sgd) -> Callable[..., Run]:
    """Makes a run of TinyNet on the digits with SGD; arguments replace its parts and settings."""

    def make(
        *, model=model, optimiser=sgd, dataset=dataset, label="sgd", recorders=None, **settings
    ) -> Run:
        defaults = {"seed": 3, "batch_size": 256, "epochs": 4}
        return Run(
            *(model, optimiser, dataset, Settings(**(defaults | settings))),
            *({"name": "tiny"}, label, recorders or {}),
        )

    return make


@pytest.fixture(scope="session")
def whole(make_run, tmp_path_factory) -> Path:
    """The folder of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(make_run(), folder)
    return folder


@pytest.fixture
def with_nan(dataset, monkeypatch: pytest.MonkeyPatch) -> Callable[[slice], Dataset]:
    """The digits with NaN in the inputs of some training examples.

    The check of the inputs before a run is disabled, because it would refuse this dataset. In a
    stream such inputs are possible: of a stream, only the first examples are checked.
    """
    monkeypatch.setattr("training.finite._first_wrong", lambda _: None)

    def make(which: slice) -> Dataset:
        inputs, labels = dataset.train
        inputs = np.array(inputs)
        inputs[which] = np.nan
        return Dataset("broken", (inputs, labels), dataset.test, (8, 8), 10)

    return make


@pytest.fixture
def read_records() -> Callable[[Path], list[dict]]:
    """Reads the records of a run folder; a line that is not strict JSON is an error."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    def read(folder: Path) -> list[dict]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line, parse_constant=refuse) for line in lines]

    return read


@pytest.fixture
def leaves_equal() -> Callable[[object, object], bool]:
    """Whether the arrays of two trees are equal bit for bit."""

    def equal(a, b) -> bool:
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return all(
            np.asarray(x).tobytes() == np.asarray(y).tobytes()
            for x, y in pairs
            if eqx.is_array(x) or isinstance(x, np.ndarray)
        )

    return equal


@pytest.fixture
def weights(model) -> Callable[[Path], TinyNet]:
    """Reads the final model of a run folder."""
    return lambda folder: eqx.tree_deserialise_leaves(folder / "model.eqx", model)


@pytest.fixture
def at_step(monkeypatch):
    """`at_step(step, action)` calls `action` once, after the record of `step` was written."""
    write = Records.write

    def install(step, action):
        actions = {step: action}

        def write_and_act(self, record):
            write(self, record)
            actions.pop(record["step"], lambda: None)()

        monkeypatch.setattr(Records, "write", write_and_act)

    return install
