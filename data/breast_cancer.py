"""Whether a tumour is benign, a small logistic regression, bundled with scikit-learn."""

import functools

import numpy as np

from ._base import Dataset
from .scaling import Scaling
from .splits import shuffled_split

MEANS = 10


@functools.cache
def breast_cancer() -> Dataset:
    """scikit-learn's 569 tumours: 455 to train, 114 to test, inputs standardised.

    Inputs `[n, 10]`: for ten measurements of cell nuclei, the means over an image, standardised by
    mean and standard deviation of the training part. Targets `[n, 1]`: 1.0 if the tumour is benign.
    The other twenty columns, standard errors and extremes of the ten, are left out: with them the
    classes are linearly separable, and logistic regression has no optimum. Needs no network.

    Source: W. Wolberg, O. Mangasarian, N. Street and W. Street, *Breast Cancer Wisconsin
    (Diagnostic)*, UCI Machine Learning Repository, 1995.
    """
    # Not at the top: importing scikit-learn takes 0.6 s, also in runs on other datasets.
    from sklearn.datasets import load_breast_cancer

    inputs, labels = map(np.asarray, load_breast_cancer(return_X_y=True))
    targets = labels.astype(np.float32)[:, None]
    (x_train, y_train), (x_test, y_test) = shuffled_split(inputs[:, :MEANS], targets, num_train=455)
    scaling = Scaling.of(x_train)
    train, test = (scaling.apply(x_train), y_train), (scaling.apply(x_test), y_test)
    return Dataset("breast_cancer", train, test, (MEANS,), 1, input_scaling=scaling)
