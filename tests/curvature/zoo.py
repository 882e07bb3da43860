"""The models of the zoo on their datasets."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

import curvature as cv
import data
import models


class Problem(NamedTuple):
    """A training problem; `model` is a function that makes the model from a key."""

    name: str
    model: Callable[[PRNGKeyArray], eqx.Module]
    objective: cv.AbstractObjective
    dataset: data.Dataset


def problems() -> list[Problem]:
    """All problems of the zoo, with the sizes of `conf/model`."""
    digits, classes = data.digits(), cv.Supervised(cv.Categorical())
    sizes = {"input_shape": digits.input_shape, "output_size": digits.output_size}
    codes = {**sizes, "sizes": (256, 64, 16), "activation": jnp.tanh}
    both = cv.Objective(
        {
            "reconstruction": cv.Term(models.reconstruct, cv.Bernoulli(), weight=0.1),
            "label": cv.Term(models.classify, cv.Categorical()),
        }
    )
    relu = jax.nn.relu

    def mlp(key: PRNGKeyArray) -> eqx.Module:
        return models.MLP(**sizes, width=64, depth=2, activation=relu, key=key)

    def convnet(key: PRNGKeyArray) -> eqx.Module:
        return models.ConvNet(**sizes, channels=(16, 32), kernel_size=3, activation=relu, key=key)

    def transformer(key: PRNGKeyArray) -> eqx.Module:
        return models.TransformerEncoder(**sizes, width=32, depth=2, heads=4, key=key)

    def autoencoder(key: PRNGKeyArray) -> eqx.Module:
        return models.Autoencoder(**codes, key=key)

    def classifying_autoencoder(key: PRNGKeyArray) -> eqx.Module:
        return models.ClassifyingAutoencoder(**codes, key=key)

    return [
        Problem("mlp", mlp, classes, digits),
        Problem("convnet", convnet, classes, digits),
        Problem("transformer", transformer, classes, digits),
        Problem("autoencoder", autoencoder, cv.Autoencoding(cv.Bernoulli()), digits),
        Problem("joint", classifying_autoencoder, both, data.joint(digits)),
    ]
