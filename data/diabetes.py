"""Progression of diabetes, a small regression, bundled with scikit-learn."""

import functools

import numpy as np

from ._base import Dataset
from .scaling import Scaling
from .splits import shuffled_split


@functools.cache
def diabetes() -> Dataset:
    """scikit-learn's 442 diabetes patients: 353 to train, 89 to test, standardised.

    Inputs `[n, 10]` (age, sex, body mass index, blood pressure, six blood serum measurements)
    and targets `[n, 1]` (progression of the disease after one year). Each column is standardised
    by mean and standard deviation of the training part. Needs no network.

    Source: B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, *Least Angle Regression*,
    Annals of Statistics 32 (2004), section 1.
    """
    # Not at the top: importing scikit-learn takes 0.6 s, also in runs on other datasets.
    from sklearn.datasets import load_diabetes

    # Unscaled, because scikit-learn's own scaling uses the test part, too.
    inputs, targets = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
    (x_train, y_train), (x_test, y_test) = shuffled_split(inputs, targets[:, None], num_train=353)
    x, y = Scaling.of(x_train), Scaling.of(y_train)
    train, test = (x.apply(x_train), y.apply(y_train)), (x.apply(x_test), y.apply(y_test))
    return Dataset("diabetes", train, test, (10,), 1, input_scaling=x, target_scaling=y)
