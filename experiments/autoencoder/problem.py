"""The autoencoders that are trained."""

import functools

import jax
import jax.numpy as jnp

import curvature as cv
import models
from data import Dataset
from experiments.comparison.problem import Problem

BATCH_SIZE = 1000
OBJECTIVE = cv.Autoencoding(cv.Bernoulli())
SMALL = functools.partial(models.Autoencoder, sizes=(256, 64, 16), activation=jnp.tanh)
DEEP = functools.partial(models.Autoencoder, sizes=(1000, 500, 250, 30), activation=jax.nn.relu)
LEVELS = (90.0, 80.0, 70.0)


def small(dataset: Dataset) -> Problem:
    """The autoencoder of `python train.py experiment=autoencoder`."""
    return Problem("autoencoder", dataset, SMALL, BATCH_SIZE)


def deep(dataset: Dataset) -> Problem:
    """The autoencoder for which others have published results of K-FAC."""
    return Problem("autoencoder_deep", dataset, DEEP, BATCH_SIZE)
