"""The table of models, likelihoods and batches, each for the library and for `dense`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import hydra
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree
from omegaconf import OmegaConf

import curvature as cv
import models
from tests.curvature import dense
from tests.selection import slow_but

CONF = Path(__file__).parents[2] / "conf"
VARIANCE = 0.7
SAMPLES = 2

LIKELIHOODS = {
    "categorical": dense.Categorical(),
    "bernoulli": dense.Bernoulli(),
    "gaussian": dense.Gaussian(VARIANCE),
}
# Every curvature that has a file in `conf`. A new curvature is therefore tested automatically.
CURVATURES = sorted(
    path.stem
    for path in (CONF / "curvature").glob("*.yaml")
    if "of" not in OmegaConf.load(path)  # a wrapper of another curvature has its own tests
)


def library(likelihood: str) -> cv.AbstractLikelihood:
    """The likelihood of the library with this name."""
    return {
        "categorical": cv.Categorical(),
        "bernoulli": cv.Bernoulli(),
        "gaussian": cv.Gaussian(variance=VARIANCE),
    }[likelihood]


def curvature(name: str, likelihood: str) -> cv.AbstractCurvature:
    """The curvature of conf/curvature/`name`.yaml, for conf/likelihood/`likelihood`.yaml."""
    config = OmegaConf.create({"samples": SAMPLES, "likelihood": {}, "curvature": {}})
    config.likelihood = OmegaConf.load(CONF / "likelihood" / f"{likelihood}.yaml")
    if likelihood == "gaussian":
        config.likelihood.variance = VARIANCE
    config.curvature = OmegaConf.load(CONF / "curvature" / f"{name}.yaml")
    return hydra.utils.instantiate(config.curvature)


@dataclass(frozen=True)
class Case:
    """A model with its objective and batch; `terms` is the objective with its batch for `dense`."""

    model: eqx.Module
    objective: cv.AbstractObjective
    batch: PyTree
    terms: list[dense.Term]
    trainable: PyTree = eqx.is_inexact_array
    key: PRNGKeyArray | None = None


def targets(likelihood: str, rng: np.random.Generator, n: int, shape: tuple[int, ...]) -> Array:
    """Random targets for outputs of the given shape: labels, grey values, or real numbers."""
    if likelihood == "categorical":
        return jnp.asarray(rng.integers(shape[-1], size=(n, *shape[:-1])))
    if likelihood == "bernoulli":
        return jnp.asarray(rng.uniform(size=(n, *shape)))
    return jnp.asarray(rng.normal(size=(n, *shape)))


def supervised(
    model: Any,
    likelihood: str,
    *,
    inputs: tuple[int, ...] = (3,),
    outputs: tuple[int, ...] = (3,),
    n: int = 5,
    trainable: PyTree = eqx.is_inexact_array,
    key: PRNGKeyArray | None = None,
) -> Case:
    """A case with one term and random data."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(n, *inputs)))
    y = targets(likelihood, rng, n, outputs)
    term = dense.Term(_call, LIKELIHOODS[likelihood], x, y)
    return Case(model, cv.Supervised(library(likelihood)), (x, y), [term], trainable, key)


def _call(model: Any, x: Array, key: Any) -> Array:
    return model(x) if key is None else model(x, key=key)


def _reconstruct(model: Any, x: Array, key: Any) -> Array:
    del key
    return jnp.ravel(model(x))


def _classify(model: Any, x: Array, key: Any) -> Array:
    del key
    return model.classify(x)


# The kinds of models. They are small: a model with fewer weights than one chunk of `as_matrix` has
# columns compiles fastest.


def mlp(activation: Callable[[Array], Array]) -> eqx.nn.MLP:
    return eqx.nn.MLP(3, 3, 4, 2, activation=activation, key=jax.random.key(0))


def tanh(likelihood: str) -> Case:
    return supervised(mlp(jnp.tanh), likelihood)


def relu(likelihood: str) -> Case:
    return supervised(mlp(jax.nn.relu), likelihood)


def convnet(likelihood: str) -> Case:
    model = models.ConvNet((4, 4), 3, channels=(2,), key=jax.random.key(0))
    return supervised(model, likelihood, inputs=(4, 4))


def transformer(likelihood: str) -> Case:
    """All weights are trained except the perceptron inside the block: other cases have an MLP."""
    model = models.TransformerEncoder((2, 2), 3, width=2, depth=1, heads=1, key=jax.random.key(0))
    trainable = eqx.tree_at(
        lambda m: m.blocks[0].perceptron,
        jax.tree.map(eqx.is_inexact_array, model),
        replace_fn=lambda layers: jax.tree.map(lambda _: False, layers),
    )
    return supervised(model, likelihood, inputs=(2, 2), trainable=trainable)


class Recurrent(eqx.Module):
    """A network that calls one of its layers twice."""

    cell: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key: PRNGKeyArray):
        cell_key, head_key = jax.random.split(key)
        self.cell = eqx.nn.Linear(3, 3, key=cell_key)
        self.head = eqx.nn.Linear(3, 3, key=head_key)

    def __call__(self, x: Array) -> Array:
        return self.head(jnp.tanh(self.cell(jnp.tanh(self.cell(x)))))


def called_twice(likelihood: str) -> Case:
    return supervised(Recurrent(jax.random.key(0)), likelihood)


def frozen(likelihood: str) -> Case:
    model = mlp(jnp.tanh)
    nothing = jax.tree.map(lambda _: False, model)
    trainable = eqx.tree_at(lambda m: (m.layers[0].weight, m.layers[2].bias), nothing, (True, True))
    return supervised(model, likelihood, trainable=trainable)


def dropout(likelihood: str) -> Case:
    model = models.MLP((3,), 3, width=6, depth=1, dropout=0.5, key=jax.random.key(0))
    return supervised(model, likelihood, key=jax.random.key(7))


def dropped(likelihood: str) -> Case:
    """One layer with dropout of its inputs at a rate of 0.5; it compiles quickly."""
    layers = [eqx.nn.Dropout(0.5), eqx.nn.Linear(8, 6, key=jax.random.key(0))]
    model, key = eqx.nn.Sequential(layers), jax.random.key(7)
    return supervised(model, likelihood, inputs=(8,), outputs=(6,), n=6, key=key)


class Rows(eqx.Module):
    """A model whose outputs have a leading axis."""

    linear: eqx.nn.Linear

    def __call__(self, x: Array) -> Array:
        return jnp.tanh(self.linear(x)).reshape(2, 3)


def rows(likelihood: str) -> Case:
    model = Rows(eqx.nn.Linear(3, 6, key=jax.random.key(0)))
    return supervised(model, likelihood, outputs=(2, 3))


class Words(eqx.Module):
    """A model that looks words up in a table; an index out of range is clipped into the table."""

    table: eqx.nn.Embedding
    head: eqx.nn.Linear

    def __init__(self, key: PRNGKeyArray):
        table_key, head_key = jax.random.split(key)
        self.table = eqx.nn.Embedding(6, 2, key=table_key)
        self.head = eqx.nn.Linear(2, 3, key=head_key)

    def __call__(self, x: Array) -> Array:
        return self.of_vectors(jax.vmap(self.table)(x))

    def of_vectors(self, vectors: Array) -> Array:
        places = jnp.arange(1.0, 1 + len(vectors), dtype=vectors.dtype)
        return self.head(jnp.tanh(places @ jnp.sin(vectors)))


def words(likelihood: str) -> Case:
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.integers(-9, 9, size=(5, 4))), targets(likelihood, rng, 5, (3,))
    term = dense.Term(_call, LIKELIHOODS[likelihood], x, y)
    objective = cv.Supervised(library(likelihood))
    return Case(Words(jax.random.key(0)), objective, (x, y), [term])


def depthwise(likelihood: str) -> Case:
    convolution_key, head_key = jax.random.split(jax.random.key(0))
    layers = [
        eqx.nn.Conv1d(2, 4, 2, groups=2, key=convolution_key),
        eqx.nn.Lambda(lambda z: jnp.tanh(z).ravel()),
        eqx.nn.Linear(8, 3, key=head_key),
    ]
    return supervised(eqx.nn.Sequential(layers), likelihood, inputs=(2, 3))


def autoencoder(likelihood: str) -> Case:
    """An autoencoder of grey images of 2 × 2 pixels; its code is one number."""
    del likelihood
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(size=(5, 2, 2)))
    model = models.Autoencoder((2, 2), 0, sizes=(3, 1), key=jax.random.key(0))
    term = dense.Term(_reconstruct, LIKELIHOODS["bernoulli"], x, x.reshape(5, 4))
    labels = jnp.zeros(5, int)
    return Case(model, cv.Autoencoding(cv.Bernoulli()), (x, labels), [term])


def several_terms(likelihood: str) -> Case:
    """One model with two terms of different likelihoods, weights and numbers of examples."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(size=(5, 2, 2)))
    x2 = jnp.asarray(rng.normal(size=(3, 2, 2)))
    y2 = targets(likelihood, rng, 3, (3,))
    model = models.ClassifyingAutoencoder((2, 2), 3, sizes=(2,), key=jax.random.key(0))
    terms = [
        dense.Term(_reconstruct, LIKELIHOODS["bernoulli"], x, x.reshape(5, 4), weight=0.3),
        dense.Term(_classify, LIKELIHOODS[likelihood], x2, y2, weight=2.0),
    ]
    objective = cv.Objective(
        terms={
            "a": cv.Term(_reconstruct, cv.Bernoulli(), weight=0.3),
            "b": cv.Term(_classify, library(likelihood), weight=2.0),
        }
    )
    batch = {"a": (x, x.reshape(5, 4)), "b": (x2, y2)}
    return Case(model, objective, batch, terms)


MODELS: dict[str, Callable[[str], Case]] = {
    kind.__name__: kind
    for kind in (
        tanh,
        relu,
        convnet,
        transformer,
        called_twice,
        frozen,
        dropout,
        rows,
        words,
        depthwise,
        autoencoder,
        several_terms,
    )
}
# Models that are tested with one likelihood alone. The autoencoder has its own likelihood. The
# transformer compiles slowly. What the cases with words and with convolutions in groups test does
# not depend on the likelihood.
ONLY_LIKELIHOOD = {
    "autoencoder": "bernoulli",
    "transformer": "categorical",
    "words": "categorical",
    "depthwise": "categorical",
}
TABLE = [
    (model, likelihood)
    for model in MODELS
    for likelihood in LIKELIHOODS
    if ONLY_LIKELIHOOD.get(model, likelihood) == likelihood
]


QUICK = [("tanh", likelihood) for likelihood in LIKELIHOODS] + [
    (model, "categorical") for model in ("convnet", "called_twice", "frozen", "several_terms")
]
WITH_SLOW = slow_but(QUICK, TABLE)
"""`TABLE` for `pytest.mark.parametrize`, where the rows outside `QUICK` are marked as slow."""


def operators(
    case: Case,
    likelihood: str,
    key: PRNGKeyArray,
    model: Any,
    batch: Any,
    names: list[str] = CURVATURES,
) -> dict[str, lx.AbstractLinearOperator]:
    """The operators of the curvatures with these names, all from one linearisation."""
    linearisation = case.objective.linearise(model, batch, trainable=case.trainable, key=case.key)
    return {name: curvature(name, likelihood).operator(linearisation, key=key) for name in names}


def product(operator: lx.AbstractLinearOperator, vector: Float[Array, " P"]) -> Array:
    """C v for a flat vector v."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    return jfu.ravel_pytree(operator.mv(jfu.ravel_pytree(zeros)[1](vector)))[0]
