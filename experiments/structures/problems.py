"""The networks that are trained."""

import functools

import data
import models
from experiments.comparison.problem import Problem

EPOCHS = {"convnet": 20, "transformer": 20, "mnist10k, batch 128": 5, "mnist10k, batch 2000": 25}
"""Those of Adam."""
ABOUT = {
    "convnet": "the convolutional network of `models/` on scikit-learn's digits, batches of 128",
    "transformer": "the transformer encoder of `models/` on the same digits, batches of 128",
    "mnist10k, batch 128": "784-128-10 on the dataset `mnist10k`, batches of 128",
    "mnist10k, batch 2000": "the same with batches of 2000",
}


def problems() -> list[Problem]:
    """The zoo's convolutional network and transformer on digits, and 784-128-10 on `mnist10k`."""
    digits, mnist10k = data.digits(), data.mnist10k()
    mlp = functools.partial(models.MLP, width=128, depth=1)
    return [
        Problem("convnet", digits, models.ConvNet, 128),
        Problem("transformer", digits, models.TransformerEncoder, 128),
        Problem("mnist10k, batch 128", mnist10k, mlp, 128),
        Problem("mnist10k, batch 2000", mnist10k, mlp, 2000),
    ]


def steps(problem: Problem) -> int:
    """The number of Adam's steps."""
    assert problem.dataset.num_train is not None
    return EPOCHS[problem.name] * (problem.dataset.num_train // problem.batch_size)
