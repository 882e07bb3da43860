"""The cultivar of a wine as a number: a small regression, bundled with scikit-learn."""

import functools

import numpy as np

from ._base import Dataset
from .scaling import Scaling
from .splits import shuffled_split


@functools.cache
def wine() -> Dataset:
    """scikit-learn's 178 wines: 142 to train, 36 to test, inputs standardised.

    Inputs `[n, 13]` (chemical measurements), standardised by mean and standard deviation of the
    training part; targets `[n, 1]`, the cultivar as 0.0, 1.0 or 2.0. Needs no network.

    Sources: S. Aeberhard and M. Forina, *Wine*, UCI Machine Learning Repository, 1992. Taken as
    a regression by F. Kunstner, L. Balles and P. Hennig, *Limitations of the Empirical Fisher
    Approximation for Natural Gradient Descent*, NeurIPS 2019.
    """
    # Not at the top: importing scikit-learn takes 0.6 s, also in runs on other datasets.
    from sklearn.datasets import load_wine

    inputs, cultivars = map(np.asarray, load_wine(return_X_y=True))
    targets = cultivars.astype(np.float32)[:, None]
    (x_train, y_train), (x_test, y_test) = shuffled_split(inputs, targets, num_train=142)
    scaling = Scaling.of(x_train)
    train, test = (scaling.apply(x_train), y_train), (scaling.apply(x_test), y_test)
    return Dataset("wine", train, test, (13,), 1, input_scaling=scaling)
