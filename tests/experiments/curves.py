"""Invented curves, for tests that make no runs."""

import numpy as np

from experiments.harness.curves import Point

LEVELS = (90.0, 80.0, 70.0)


def curve(*losses, every=1):
    return [
        Point(every * number, 2.0 * number, 1.0 * number, loss)
        for number, loss in enumerate(losses)
    ]


SOON, LATE, NEVER = curve(200, 89, 80, 69), curve(200, 100, 90, 70, every=100), curve(200, np.nan)
